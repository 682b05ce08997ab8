import math

import numpy as np
import pytest
from planted import END, NOISE, ask, ends, landscape, length, point, run, seeds, t_interval

from thalweg.experiments.paper.claims_samples import easier, explained_away, learned, longer, reached, two_phases


def ramp(begin: float, end: float, first: float, last: float):
    """A straight line between two steps, flat before and after."""
    return lambda step: float(np.interp(step, [begin, end], [first, last]))


def phased(seed: int, low_end: float = 1000.0, high_begin: float = 1000.0, high_end: float = 2000.0, gain: float = 0.2):
    gained = gain + 0.002 * seed if gain > 0 else gain
    return run(ramp(0, low_end + 10 * seed, 0.1, 0.9), ramp(high_begin, high_end, 0.1, 0.1 + gained))


def test_nine_tenths_of_a_straight_rise_are_reached_at_nine_tenths_of_its_time() -> None:
    found = learned(run(ramp(0, 1000, 0.1, 0.9), ramp(1000, 2000, 0.1, 0.5)))
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(900), pytest.approx(1900))
    assert found.after == pytest.approx(0.4)
    assert found.ratio == pytest.approx(math.log(19 / 9))


def test_a_curve_that_falls_never_reaches_its_gain() -> None:
    assert reached([0, 1, 2, 3], [0.5, 0.4, 0.4, 0.4]) is None


def test_a_gain_that_is_rounding_is_none() -> None:
    assert reached([0, 1, 2, 3], [0.1, 0.1, 0.1, 0.1]) is None  # their mean is 0.10000000000000002


def test_two_phases_are_supported_when_high_comes_later_and_gains() -> None:
    found = ask(two_phases, {"looped": seeds(phased), "single": seeds(lambda s: phased(s, gain=0.0))})
    assert found.decision == "supported"
    assert found.numbers["high accuracy gained after t_low, single"].mean == pytest.approx(0, abs=1e-12)
    after = [0.2 + 0.002 * seed for seed in range(5)]
    assert ends(found.numbers["high accuracy gained after t_low, looped"]) == pytest.approx(t_interval(after))
    assert found.numbers["t_low, looped"].mean == pytest.approx(918, rel=2e-2)


def test_no_gain_after_the_low_stratum_contradicts_two_phases() -> None:
    assert ask(two_phases, {"looped": seeds(lambda s: phased(s, gain=-0.05))}).decision == "contradicted"


def test_high_before_low_contradicts_two_phases() -> None:
    early = seeds(lambda s: phased(s, low_end=2500, high_begin=0, high_end=1000 + 20 * s))
    assert ask(two_phases, {"looped": early}).decision == "contradicted"


def test_one_seed_without_a_second_phase_leaves_two_phases_undecided() -> None:
    mixed = seeds(lambda s: phased(s, gain=-0.05 if s == 0 else 0.2))
    assert ask(two_phases, {"looped": mixed}).decision == "undecided"


def test_two_phases_need_strata_runs_and_three_seeds() -> None:
    assert ask(two_phases).test == "no complete run of looped"
    assert ask(two_phases, {"looped": seeds(lambda s: run())}).test == "no low and high strata in the evaluations of looped"
    few = ask(two_phases, {"looped": seeds(phased, 2)})
    assert (few.decision, "2 seeds, at least 3 needed" in few.test) == ("not measured", True)


def scored(accuracy, shares=lambda multiple, seed: None, stratum: str = "high"):
    return lambda seed: landscape(
        lengths=[length(m, accuracy(m, seed), stratum, shares(m, seed)) for m in (1, 2, 4)], points=[point(END)]
    )


@pytest.mark.parametrize(("gap", "expected"), [(0.1, "supported"), (-0.1, "contradicted"), (0.0, "undecided")])
def test_longer_follows_the_gap_beyond_the_training_length(gap: float, expected: str) -> None:
    def looped(multiple: int, seed: int) -> float:
        return 0.9 if multiple == 1 else 0.5 + gap * multiple / 3 + 0.02 * NOISE[seed]

    there = {"looped": seeds(scored(looped)), "single": seeds(scored(lambda m, s: 0.5))}
    found = ask(longer, landscapes=there)
    assert found.decision == expected
    assert ends(found.numbers["looped - single"]) == pytest.approx(t_interval([gap + 0.02 * n for n in NOISE]))
    assert found.numbers["looped, x1"].mean == pytest.approx(0.9)
    assert [found.numbers[f"single, x{m}"].ceiling for m in (1, 2, 4)] == pytest.approx([0.91, 0.92, 0.94])


def test_a_length_that_could_not_be_scored_is_left_out() -> None:
    there = {
        "looped": seeds(scored(lambda m, s: None if m == 4 else 0.6 + 0.01 * NOISE[s])),
        "single": seeds(scored(lambda m, s: 0.5)),
    }
    found = ask(longer, landscapes=there)
    assert (found.decision, found.numbers["looped - single"].mean) == ("supported", pytest.approx(0.1))


def test_without_strata_all_sequences_are_compared() -> None:
    there = {arm: seeds(scored(lambda m, s: 0.5, stratum="other")) for arm in ("looped", "single")}
    found = ask(longer, landscapes=there)
    assert (found.decision, "accuracy (all)" in found.test) == ("undecided", True)


def test_lengths_of_one_arm_or_of_the_training_length_only_measure_nothing() -> None:
    assert ask(longer, landscapes={"looped": seeds(scored(lambda m, s: 0.5))}).test == "no landscape of single"
    only = seeds(lambda s: landscape(lengths=[length(1, 0.5)]))
    found = ask(longer, landscapes={"looped": only, "single": only})
    assert (found.decision, found.test) == ("not measured", "no sequences longer than in training scored for looped and single")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, -0.1, "supported"), (-0.1, -0.1, "contradicted"), (0.1, 0.1, "contradicted"), (0.0, -0.1, "undecided")],
)
def test_easier_needs_more_low_and_fewer_high(low: float, high: float, expected: str) -> None:
    def shares(multiple: int, seed: int) -> tuple[float, float]:
        far = math.log2(multiple) / 2
        return 0.25 + low * far + 0.01 * NOISE[seed] * far, 0.25 + high * far + 0.01 * NOISE[seed] * far

    found = ask(easier, landscapes={"single": seeds(scored(lambda m, s: None, shares))})
    assert found.decision == expected
    assert ends(found.numbers["rise of the share below the low cut"]) == pytest.approx(t_interval([low + 0.01 * n for n in NOISE]))
    assert found.numbers["share high, x4"].mean == pytest.approx(0.25 + high)


def test_easier_is_not_measured_without_information_content() -> None:
    found = ask(easier, landscapes={"single": seeds(scored(lambda m, s: 0.5))})
    assert (found.decision, found.test[:23]) == ("not measured", "no information content ")


def with_losses(rescaled, single=lambda seed: 1.2 + 0.02 * NOISE[seed]) -> dict:
    level = {"looped": lambda seed: 1.0, "single": single, "single-rescaled": rescaled}
    return {arm: seeds(lambda seed, arm=arm: run(loss=lambda step: level[arm](seed))) for arm in level}


@pytest.mark.parametrize(("left", "expected"), [(0.02, "supported"), (0.18, "contradicted"), (0.1, "undecided")])
def test_explained_away_follows_the_share_of_the_gap(left: float, expected: str) -> None:
    found = ask(explained_away, with_losses(lambda seed: 1.0 + left + 0.02 * NOISE[seed]))
    assert found.decision == expected
    shares = [1 - (left + 0.02 * n) / (0.2 + 0.02 * n) for n in NOISE]
    assert ends(found.numbers["share explained"]) == pytest.approx(t_interval(shares))


def test_without_a_gap_there_is_nothing_to_explain() -> None:
    found = ask(explained_away, with_losses(lambda seed: 1.0, lambda seed: 1.0 + 0.1 * NOISE[seed]))
    assert (found.decision, found.test.split(": ")[-1]) == ("undecided", "there is no sure gap to explain")


def test_the_rescaled_landscape_stands_beside_the_gap() -> None:
    there = {
        "single-rescaled": seeds(lambda s: landscape(points=[point(END, 3.5, 6.0)])),
        "looped": seeds(lambda s: landscape(points=[point(END, 3.0, 2.0)])),
    }
    numbers = ask(explained_away, with_losses(lambda seed: 1.01), there).numbers
    assert numbers["log of the largest eigenvalue, single-rescaled / looped"].mean == pytest.approx(math.log(3))
    assert numbers["entropy, single-rescaled - looped (nats)"].mean == pytest.approx(0.5)


def test_explained_away_names_the_arm_that_is_missing() -> None:
    runs = with_losses(lambda seed: 1.0)
    del runs["single-rescaled"]
    assert ask(explained_away, runs).test == "no complete run of single-rescaled"
    two = {arm: {0: found[0], 1: found[1]} for arm, found in with_losses(lambda seed: 1.0).items()}
    assert "2 seeds, at least 3 needed" in ask(explained_away, two).test
