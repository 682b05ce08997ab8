import math
from dataclasses import replace

import pytest

from thalweg.experiments.metrics import bits_per_byte, cell, cost_to_target, final, in_bits, last_third_rise, paired, seeds_needed
from thalweg.intervals import interval, seeds_to_decide
from thalweg.records.run import EvaluationRecord, RunRecord, Score, SwitchRecord


def run(losses: list[float], accuracies: list[float] | None = None) -> RunRecord:
    accuracies = accuracies or [0.5] * len(losses)
    records = []
    for index, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
        score = {"all": Score(accuracy, loss), "high": Score(accuracy, loss)}
        records.append(EvaluationRecord(100 * index, 2.0 * index, 1e12 * index, 1, {"held-out": score, "train": score}))
    return RunRecord("r", tuple(records), (), None)


def test_final_is_the_mean_of_the_last_three() -> None:
    assert final(run([9, 9, 1, 2, 3]), "held-out", "all", "loss") == 2


def test_rise_of_a_straight_line_is_its_rise_over_a_third() -> None:
    assert last_third_rise(run([1] * 13, [0.01 * i for i in range(13)]), "train", "high") == pytest.approx(0.04)


def test_cost_to_target_is_exact_on_a_straight_line() -> None:
    line = run([10 - i for i in range(10)])  # smoothed over three: 10 - (i - 1) at point i
    assert cost_to_target(line, 4.5, lambda e: e.seconds) == pytest.approx(2.0 * 6.5)


def test_a_target_that_is_met_at_once_costs_what_the_first_point_did() -> None:
    assert cost_to_target(run([3, 2, 1]), 99, lambda e: e.step) == 200


def test_a_target_never_met_has_no_cost() -> None:
    assert cost_to_target(run([3, 2, 1]), 1.9, lambda e: e.step) is None


def test_a_run_with_few_evaluations_reaches_its_own_end() -> None:
    for values in ([3.0], [3.0, 1.0]):
        short = run(values)
        assert cost_to_target(short, final(short, "held-out", "all", "loss"), lambda e: e.step) == short.evaluations[-1].step


def test_a_run_reaches_its_own_final_value() -> None:
    noisy = run([5, 4, 4.5, 3, 3.5, 3, 3.2, 3.1])
    assert cost_to_target(noisy, final(noisy, "held-out", "all", "loss"), lambda e: e.step) is not None


def test_pairs_without_a_value_are_left_out() -> None:
    a, b = {0: run([1, 1, 1]), 1: run([2, 2, 2]), 2: run([3, 3, 3])}, {0: run([5, 5, 5]), 2: run([9, 9, 9])}
    assert paired(a, b, lambda r: final(r, "train", "all", "loss")) == [-4, -6]


def test_cell_counts_only_seeds_with_a_value() -> None:
    found = cell([1.0, None, 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    assert cell([None]).mean is None


def test_one_nat_is_1_4427_bits() -> None:
    assert bits_per_byte(1.0) == pytest.approx(1.4426950408889634)


def test_a_run_in_bits_differs_by_its_losses_alone() -> None:
    ends = [{"held-out": {"all": Score(0.4, loss)}} for loss in (math.log(2), math.log(8))]
    made = replace(run([1, 2]), switches=(SwitchRecord(1, 2.0, 3.0, 1, 4, "because", *ends),))
    found = in_bits(made)
    assert [e.scores["held-out"]["all"].loss for e in found.evaluations] == pytest.approx(
        [e.scores["held-out"]["all"].loss / math.log(2) for e in made.evaluations]
    )
    switch = found.switches[0]
    assert [s["held-out"]["all"].loss for s in (switch.scores_before, switch.scores_after)] == pytest.approx([1, 3])
    assert switch.scores_before["held-out"]["all"].accuracy == 0.4
    assert (switch.step, found.summary) == (1, made.summary)


def test_seeds_needed_is_that_of_the_hardest_open_test() -> None:
    decided, easy, hard = interval([1.0, 1.1, 0.9]), interval([1.0, 1.5, -0.2]), interval([0.1, 1.5, -1.0])
    assert seeds_needed((decided, 0.0)) == 0
    assert seeds_needed((decided, 0.0), (easy, 0.0)) == seeds_to_decide(easy)
    assert seeds_needed((easy, 0.0), (hard, 0.0)) == seeds_to_decide(hard) > seeds_to_decide(easy)
    assert seeds_needed((decided, 1.05)) == seeds_to_decide(decided, 1.05) > 3  # decided against 0, not against 1.05


def test_seeds_needed_is_not_known_from_a_single_seed() -> None:
    assert seeds_needed((interval([1.0]), 0.0), (interval([1.0, 1.5, -0.2]), 0.0)) == 0
    assert seeds_needed((interval([1.0, 1.01]), 0.0)) == 3  # two seeds decide nothing
