import pytest

import thalweg as tw
from thalweg.records.convergence import BatchLevel, Convergence, QuantityConvergence
from thalweg.report.landscape.convergence import measured_errors


def planted(name: str, probes: int) -> QuantityConvergence:
    levels = (BatchLevel(1, (9.0, 11.0, 8.0, 12.0)), BatchLevel(2, (10.0, 10.0)), BatchLevel(4, (10.0,)))
    return QuantityConvergence(name, 10.0, levels, (9.0, 10.5, 10.0) if probes else (), 0.0, 2.0, 3.0, 1.0, 4, probes)


@pytest.fixture
def report() -> Convergence:
    return Convergence((planted("loss", 0), planted("eigenvalue 2", 0), planted("trace", 6)), 0.05, 4, 6, 100, 7, 1.0, 10)


def test_lines_are_the_laws_of_the_report(report: Convergence) -> None:
    left, right = tw.plot(report).axes
    loss = next(line for line in left.lines if line.get_label() == "loss")
    assert list(loss.get_xdata()) == [1, 2, 3, 4]
    assert list(loss.get_ydata()) == pytest.approx([10 * report["loss"].batch_error(k) for k in (1, 2, 3, 4)])
    assert {line.get_label() for line in left.lines} >= {"loss", "trace", "tolerance, 5.0 %"}
    assert "eigenvalue 2" not in {line.get_label() for line in left.lines}
    trace = next(line for line in right.lines if line.get_label() == "trace")
    assert trace.get_ydata()[0] == pytest.approx(10 * report["trace"].probe_error(2))


def test_marks_are_the_spread_of_the_measured_sets(report: Convergence) -> None:
    assert measured_errors(report["loss"]) == [(1, pytest.approx(2 * 2.5**0.5)), (2, 0.0)]
