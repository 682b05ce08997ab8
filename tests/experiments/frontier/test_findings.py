"""The first screen of a frontier's page, on curves whose answers are planted."""

import math

import numpy as np
import pytest
import scipy.stats

from thalweg.experiments.frontier.arms import STAGED, constant
from thalweg.experiments.frontier.findings import first_screen
from thalweg.experiments.frontier.plan import plan_frontier
from thalweg.experiments.words import factor
from thalweg.intervals import Interval

PLAN = plan_frontier("markov", "paper")
NOISE = (0.02, -0.02, 0.0)


def curves(needs: dict[str, float], noise: tuple[float, ...] = NOISE) -> dict:
    """Power laws: an arm that needs ``factor`` times the operations of 6 passes for the same loss; seeds share no noise."""

    def of(number: int, factor: float) -> dict:
        return {
            seed: [(b * 1e9, math.exp(noise[(seed + number) % 3]) * (b / factor) ** -0.5) for b in PLAN.budgets]
            for seed in range(3)
        }

    return {arm: of(number, factor) for number, (arm, factor) in enumerate(needs.items())}


def screen(single: float, two: float, staged: float, noise: tuple[float, ...] = NOISE):
    return first_screen(curves({constant(1): single, constant(2): two, constant(6): 1.0, STAGED: staged}, noise), PLAN, 15_000)


def test_planted_answers_are_found() -> None:
    looping, staging, depth = screen(4.0, 0.3, 0.6).found
    assert looping.startswith(
        f"2 passes are better than one pass at {PLAN.budgets[-1]:g} GFLOP (billion operations of a whole training): "
        "they end with 0.27 ["
    )  # (0.3 / 4) ** 0.5
    assert "; 6 passes throughout end with 0.50 [" in looping  # (1 / 4) ** 0.5
    assert looping.endswith("] times one pass's loss.")  # so it is at every budget
    assert staging.startswith(
        "If the model must run 6 passes, training in stages saves operations. Training with 2, 3, then 6 passes needs 0.6"
    )
    assert "] times the 422 GFLOP of 6 passes throughout to end at the same loss" in staging
    assert depth.startswith("Of 1, 2 and 6 passes throughout, 2 had the lowest mean loss at every budget.")
    assert "Training in stages has 1.4" in depth  # (0.6 / 0.3) ** 0.5
    assert depth.endswith("times the loss of 2 passes throughout at 422 GFLOP: it ends higher.")


def test_the_opposite_plant_gives_the_opposite_sentences() -> None:
    looping, staging, depth = screen(0.3, 2.0, 1.6).found
    assert looping.startswith("No number of passes that was tried is better than one pass at 422 GFLOP")
    assert staging.startswith("If the model must run 6 passes, training in stages costs operations.")
    assert "1 had the lowest mean loss at every budget" in depth


def test_a_best_depth_that_is_not_shown_to_be_better_at_cheaper_budgets_says_so() -> None:
    made = curves({constant(1): 4.0, constant(2): 0.3, constant(6): 1.0})
    cheap, *others = PLAN.budgets[:-1]
    for seed, curve in made[constant(2)].items():
        last = curve[-1]
        one = made[constant(1)][seed]
        made[constant(2)][seed] = [
            (one[0][0], one[0][1] * 2.0),
            *((flops, loss * math.exp(NOISE[seed])) for flops, loss in one[1:-1]),
            last,
        ]
    looping = first_screen(made, PLAN, 15_000).found[0]
    assert looping.startswith("2 passes are better than one pass at 422 GFLOP")
    undecided = " and ".join(f"{budget:g}" for budget in others)
    told = f" one pass's loss. 2 passes are worse than one pass at {cheap:g} GFLOP; whether 2 passes are better than one pass"
    assert looping.endswith(f"{told} is not decided at {undecided} GFLOP.")


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (PLAN, "Each arm has the best of 3 settings, chosen on other seeds."),
        (plan_frontier("markov", "quick"), "All arms have one learning rate, which was not tuned for each."),
    ],
)
def test_how_the_rates_were_chosen_is_part_of_how_sure_it_is(plan, told: str) -> None:
    assert told in first_screen(curves({constant(1): 4.0, constant(2): 0.3}), plan, 15_000).sure


def test_what_noise_hides_is_not_decided_and_asks_for_seeds() -> None:
    noise = (0.3, -0.25, 0.05)
    found = screen(1.2, 1.1, 0.9, noise).found
    assert found[0].startswith("Whether 6 passes are better than one pass is not decided at 422 GFLOP")
    # The loop that is compared is the best of those with 2 or 6 passes: the arms in second and third place.
    logs = [0.5 * math.log(1.0 / 1.2) + noise[(seed + 2) % 3] - noise[seed % 3] for seed in range(3)]
    effect = abs(np.mean(logs)) / np.std(logs, ddof=1)
    needed = next(n for n in range(3, 5000) if _power(effect, n) >= 0.8)
    words = "more than 1,000 seeds would be needed" if needed > 1000 else f"about {needed} seeds would decide this comparison"
    assert words in found[0]


def _power(effect: float, n: int) -> float:
    critical, delta = scipy.stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
    return float(scipy.stats.nct.sf(critical, n - 1, delta) + scipy.stats.nct.cdf(-critical, n - 1, delta))


@pytest.mark.parametrize(
    ("needs", "advice"),
    [
        ((4.0, 2.0, 0.5), "Train in stages of 2, 3, then 6 passes"),
        ((4.0, 0.3, 0.6), "If you may choose the depth, take 2 passes throughout"),
        ((0.2, 2.0, 1.6), "If you may choose the depth, take 1 pass throughout"),
    ],
)
def test_the_advice_follows_from_what_was_found(needs: tuple, advice: str) -> None:
    assert screen(*needs).advice.startswith(advice)


def test_a_model_that_must_be_deep_is_trained_in_stages_only_where_that_saves() -> None:
    assert "If the model must run 6 passes, train it in stages" in screen(4.0, 0.3, 0.6).advice
    assert "must run 6 passes" not in screen(4.0, 0.3, 1.5).advice


def test_who_asked_is_named_with_a_link_and_the_limits_are_told() -> None:
    made = screen(4.0, 0.3, 0.6)
    assert "https://arxiv.org/abs/2510.10089" in made.asked
    assert all(words in made.sure for words in ("3 seeds", "15,000 weights", "counted, not timed", "picked on the same seeds"))
    assert made.sure.endswith("The paper's own schedule was not trained here.")


def test_arms_that_were_not_trained_leave_their_sentences_out() -> None:
    made = first_screen(curves({constant(6): 1.0}), PLAN, 15_000)
    assert made.found == ()
    assert made.advice.startswith("Nothing can be compared yet. If runs are still missing, give the same command again")


def test_a_single_seed_has_a_ratio_without_an_interval() -> None:
    assert factor(Interval(math.log(0.5), None, None, 1)) == "0.50"


def test_one_constant_depth_alone_gives_no_advice_about_depth() -> None:
    made = first_screen(curves({constant(6): 1.0, STAGED: 1.2}), PLAN, 15_000)
    assert made.advice.startswith("Train a second constant depth, such as one pass, to see whether depth pays here.")


def test_of_a_task_the_passes_of_each_length_are_named() -> None:
    plan = plan_frontier("parity", "quick")
    by_seed = {arm: {seed: [(b * 1e9, 1 / b + seed / 1e5) for b in plan.budgets] for seed in range(3)} for arm in plan.arms}
    made = first_screen(by_seed, plan, 15_000)
    assert any("GFLOP of the passes of each length, at most 10" in sentence for sentence in made.found)
    assert "the task parity" in made.sure


def test_an_arm_that_ends_lower_is_named_in_the_advice() -> None:
    made = curves({constant(1): 4.0, constant(2): 1.0, constant(6): 2.0, STAGED: 1.5, "staged-unscaled": 0.2})
    advice = first_screen(made, PLAN, 15_000).advice
    assert "of what was tried here only staged-unscaled was shown to end lower." in advice


@pytest.mark.parametrize(("error", "chosen"), [("DivergedError", "slow"), ("OSError", None)])
def test_only_a_rate_that_diverged_is_left_out(error, chosen, tmp_path, monkeypatch) -> None:
    """A full disk says nothing of a rate: its run is made again before anything is chosen."""
    from types import SimpleNamespace

    from thalweg.experiments.frontier import definition
    from thalweg.train.failures import record_failure

    monkeypatch.setattr(definition, "final_loss", lambda record: 1.0)
    record_failure(tmp_path, error, "why")
    failed = SimpleNamespace(complete=False, folder=tmp_path, record=None)
    made = SimpleNamespace(complete=True, folder=tmp_path / "none", record=object())
    trials = {"fast": [failed], "slow": [made]}
    assert definition.FrontierStudy(PLAN)._best_setting(trials) == chosen  # type: ignore[arg-type]
