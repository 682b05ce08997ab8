import json

import pytest
import torch
import wrong_hopping
import wrong_metrics
import wrong_second_order
import wrong_split
import wrong_taylor
from wrong import changed, held, scaled

from thalweg.cli import main
from thalweg.theory import (
    alignment,
    bounds,
    compare,
    counterexamples,
    coupled,
    force,
    kernel,
    looped_attention,
    loss,
    quadratic,
    scaling,
)
from thalweg.verify import commands
from thalweg.verify.statement import Finding

STATEMENTS = {statement.key: statement for statement in commands.STATEMENTS}


@pytest.mark.parametrize("key", STATEMENTS)
def test_every_statement_holds(key):
    finding = STATEMENTS[key].check()
    assert finding.holds, finding


WRONG = {
    "1.1": (quadratic, "in_frames", changed(quadratic.in_frames, coupling=lambda b: b + 1e-6)),
    "1.2": (quadratic, "consistency", changed(quadratic.consistency, ratio=lambda r: 1.1 * r)),
    "1.3": (quadratic, "consistency", changed(quadratic.consistency, negative=lambda n: n + 1)),
    "3.1": (kernel, "schedule_kernel", scaled(kernel.schedule_kernel)),
    "3.2": (force, "cumulative_force", changed(force.cumulative_force, vector=lambda v: -v)),
    "3.3": (force, "relative_force", scaled(force.relative_force)),
    "3.4": (bounds, "upper_bounds", changed(bounds.upper_bounds, start=lambda b: b / 2)),
    "3.5": (bounds, "lower_bounds", changed(bounds.lower_bounds, along=lambda b: 10 * b)),
    "3.6": (bounds, "expected_force", changed(bounds.expected_force, mean=lambda m: 1.2 * m)),
    "3.7": (
        bounds,
        "steep_parts",
        lambda *a, f=bounds.steep_parts: [changed(lambda p=p: p, bound=lambda b: b / 50)() for p in f(*a)],
    ),
    "3.8": (coupled, "coupled_force", changed(coupled.coupled_force, feedback=torch.neg)),
    "CE1": (counterexamples, "missed_flat_direction", scaled(counterexamples.missed_flat_direction)),
    "CE2": (counterexamples, "cancellation", scaled(counterexamples.cancellation)),
    "CE2b": (counterexamples, "start_without_flat_part", scaled(counterexamples.start_without_flat_part)),
    "CE3": (counterexamples, "rate_too_large", scaled(counterexamples.rate_too_large)),
    "CE4": (counterexamples, "opposite_sign", scaled(counterexamples.opposite_sign, 1.1)),
    "CE5": (counterexamples, "not_settled", scaled(counterexamples.not_settled)),
    "CE6": (counterexamples, "loewner_order", scaled(counterexamples.loewner_order, 1.1)),
    "CE8": (counterexamples, "flat_valley_keeps_loss", scaled(counterexamples.flat_valley_keeps_loss, 1.1)),
    "4.1": (compare, "compare_forces", changed(compare.compare_forces, conditions=held, norms=lambda n: n[::-1])),
    "4.2": (loss, "loss_decrease", scaled(loss.loss_decrease)),
    "4.3": (loss, "loss_decrease_by_products", scaled(loss.loss_decrease_by_products)),
    "4.4": (compare, "compare_losses", changed(compare.compare_losses, second=lambda d: -d)),
    "4.5": (compare, "corollary_two", changed(compare.corollary_two, losses=lambda pair: pair[::-1])),
    "6.1": (looped_attention, "gradients", changed(looped_attention.gradients, key=lambda g: 1.001 * g)),
    "6.2": (looped_attention, "growth", changed(looped_attention.growth, states=lambda b: b / 2)),
    "6.3": (alignment, "certificate", changed(alignment.certificate, cosine=lambda c: c / 2)),
    "6.4": (alignment, "kernel_condition", changed(alignment.kernel_condition, held=lambda h: not h)),
    "6.5": (looped_attention, "gradients", lambda *a, f=looped_attention.gradients: f(*a[:3], 1)),
    "6.6": (scaling, "gauss_newton", lambda *a, f=scaling.gauss_newton: f(*a) * a[2]),
    "6.7": (scaling, "rescaled_single", changed(scaling.rescaled_single, value_rate=lambda rate: rate / 2)),
    "CE-A": (counterexamples, "opposed_gradients", scaled(counterexamples.opposed_gradients, -1)),
    "CE-B": (counterexamples, "opposed_share", scaled(counterexamples.opposed_share, 0)),
    "CE-C": (counterexamples, "opposed_batch", scaled(counterexamples.opposed_batch, 1.1)),
    **wrong_hopping.WRONG,
    **wrong_metrics.WRONG,
    **wrong_second_order.WRONG,
    **wrong_split.WRONG,
    **wrong_taylor.WRONG,
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_formula_turns_its_line_red(key, monkeypatch):
    module, name, wrong = WRONG[key]
    monkeypatch.setattr(module, name, wrong)
    assert not STATEMENTS[key].check().holds


def test_every_statement_can_fail():
    assert set(WRONG) == set(STATEMENTS)


def test_the_command_fails_with_one_line_when_a_statement_does(monkeypatch, capsys):
    monkeypatch.setattr(counterexamples, "rate_too_large", lambda: 1.0)
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "CE3", "CE1"])
    printed = capsys.readouterr()
    assert stopped.value.code == 1
    assert "FAILS  CE3" in printed.out
    assert "1 of 2 statements hold" in printed.out
    assert printed.err.strip().endswith("thalweg: verify: CE3 did not hold; see the lines above")


def test_a_check_that_stops_does_not_hold(monkeypatch):
    monkeypatch.setattr(counterexamples, "rate_too_large", lambda: 1 / 0)
    line = commands.run_check(STATEMENTS["CE3"])
    assert not line.holds
    assert line.finding.words == "stopped: ZeroDivisionError: division by zero"


def test_json_holds_every_figure(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "CE1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 0
    assert found["failed"] == []
    assert found["statements"][0]["finding"]["tried"] == 1


def test_an_unknown_statement_is_bad_input(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "9.9"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("thalweg: unknown statement '9.9'; ")


@pytest.mark.parametrize(("tried", "worst"), [(0, 0.0), (5, 2.0), (5, float("nan"))])
def test_nothing_holds_without_a_case_above_what_is_allowed_or_as_nan(tried, worst):
    assert not Finding(tried, worst, 1.0).holds


def test_a_statement_takes_two_lines_on_the_terminal(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", "CE1"])
    out = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert (out[0][:12], out[1][:20]) == ("holds  CE1  ", "             1 cases")
