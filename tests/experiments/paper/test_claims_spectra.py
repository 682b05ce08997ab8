import math

import numpy as np
import pytest
import torch
from planted import END, NOISE, ask, ends, exact, landscape, point, run, seeds, spectrum, t_interval

from thalweg.experiments.paper.claims_dominance import smaller_one_by_one
from thalweg.experiments.paper.claims_spectra import freezes, steeper, three_phases, uneven, valley_is
from thalweg.intervals import NO_SEEDS

STEPS = [0, 1, 3, 10, 30, 100, 300, 1000, 2000, 2200, 2500, 2700, END]


def still(slope: float, noise: float = 0.0):
    """Entropies that fall from 5 to 3, and over the last third rise by slope (and by noise, other in every seed)."""

    def entropy(step: int, seed: int) -> float:
        late = max(step - 2000, 0) / 1000
        return 5 - 2 * min(step / 1000, 1) + (slope + noise * NOISE[seed]) * late

    return lambda seed: landscape(points=[point(step, entropy(step, seed), cosine=0.9 + 0.01 * seed) for step in STEPS])


@pytest.mark.parametrize(
    ("slope", "noise", "expected"),
    [(0.02, 0.02, "supported"), (0.5, 0.02, "contradicted"), (-0.5, 0.02, "contradicted"), (0.02, 1.0, "undecided")],
)
def test_a_freeze_needs_an_interval_within_the_tolerance(slope: float, noise: float, expected: str) -> None:
    found = ask(freezes, landscapes={"single": seeds(still(slope, noise)), "looped": seeds(still(1.0))})
    assert found.decision == expected
    assert ends(found.numbers["rise, single"]) == pytest.approx(t_interval([slope + noise * n for n in NOISE]))
    lowest = min(3 + min(slope + noise * n, 0) for n in NOISE)
    assert found.numbers["tolerance"].mean == pytest.approx(0.05 * (5 - lowest))
    assert found.numbers["rise, looped"].mean == pytest.approx(1.0)
    assert found.numbers["cosine of successive Hessians in the last third, single"].mean == pytest.approx(0.92)


def test_a_landscape_that_stops_before_the_last_third_measures_no_freeze() -> None:
    short = seeds(lambda s: landscape(points=[point(step) for step in STEPS if step < 2000]))
    found = ask(freezes, {"single": seeds(lambda s: run())}, {"single": short})
    assert (found.decision, found.test) == (
        "not measured",
        "no seeds of single with at least 2 checkpoints in the last third of the run",
    )


def ramps(*rises: float, seed: int = 0):
    """Straight pieces of 16 checkpoints with these rises, and a little noise."""
    pieces, level = [], 4.0
    for rise in rises:
        pieces.append(level + rise * np.arange(1, 17) / 16)
        level += rise
    values = np.concatenate(pieces) + 0.01 * np.random.default_rng(seed).standard_normal(16 * len(rises))
    return landscape(points=[point(k, float(value)) for k, value in enumerate(values)])


def test_planted_phases_of_looped_are_supported_and_those_of_single_named() -> None:
    there = {"looped": seeds(lambda s: ramps(-2, 1, 0, seed=s)), "single": seeds(lambda s: ramps(-2, 0, 0, seed=s), 3)}
    found = ask(three_phases, landscapes=there)
    assert found.decision == "supported"
    assert found.numbers["share of seeds with the three phases, looped"].mean == 1
    assert found.numbers["share of seeds with collapse, stable, single"].mean == 1


def test_other_phases_in_most_of_five_seeds_contradict_three_and_four_seeds_do_not() -> None:
    there = {"looped": seeds(lambda s: ramps(-2, 0, 0, seed=s))}
    found = ask(three_phases, landscapes=there)
    assert (found.decision, "looped is mostly collapse, stable; single not known" in found.test) == ("contradicted", True)
    del there["looped"][4]
    assert ask(three_phases, landscapes=there).decision == "undecided"


def test_noise_that_hides_phases_contradicts_nothing() -> None:
    """Random walks of 40 checkpoints, of seeds without a found break."""

    def walk(seed: int):
        values = 4 + 0.1 * np.random.default_rng(seed).standard_normal(40).cumsum()
        return landscape(points=[point(k, float(value)) for k, value in enumerate(values)])

    found = ask(three_phases, landscapes={"looped": {seed: walk(seed) for seed in (0, 1, 5, 6, 7)}})
    assert found.decision == "undecided"
    assert found.numbers["share of seeds with undecided, looped"].mean == 1


def test_three_phases_in_too_few_seeds_are_undecided() -> None:
    there = {"looped": seeds(lambda s: ramps(-2, 1, 0, seed=s), 3)}
    assert ask(three_phases, landscapes=there).decision == "undecided"


def test_phases_say_how_many_checkpoints_or_seeds_are_missing() -> None:
    few = ask(three_phases, landscapes={"looped": seeds(lambda s: landscape(points=[point(k) for k in range(12)]))})
    assert (few.decision, few.test) == ("not measured", "looped: 12 checkpoints, at least 40 needed")
    two = ask(three_phases, landscapes={"looped": seeds(lambda s: ramps(-2, 1, 0, seed=s), 2)})
    assert (two.decision, two.test[-25:]) == ("not measured", "2 seeds, at least 3 needed"[-25:])


@pytest.mark.parametrize(
    ("arm", "name", "kappa", "negative", "expected"),
    [
        ("single", "U", 1.5, 0.0, "supported"),
        ("single", "U", 1000.0, 0.0, "contradicted"),
        ("single", "U", 1.5, 5.0, "contradicted"),
        ("single", "U", 6.0, 0.0, "undecided"),
        ("looped", "V", 1000.0, 0.0, "supported"),
        ("looped", "V", 1.5, 0.0, "contradicted"),
    ],
)
def test_the_class_of_planted_spectra(arm: str, name: str, kappa: float, negative: float, expected: str) -> None:
    rows = {seed: spectrum(kappa * math.exp(0.01 * NOISE[seed]), negative) for seed in range(5)}
    found = ask(valley_is(arm, name), None, *exact(arm, rows))
    assert found.decision == expected
    logs = [math.log(float(values[values > 0.1].quantile(0.9) / values[values > 0.1].quantile(0.1))) for values in rows.values()]
    if not negative:
        assert ends(found.numbers[f"kappa_q, {arm}"]) == pytest.approx([math.exp(x) for x in t_interval(logs)])


def test_a_valley_without_a_gap_says_that_seeds_do_not_decide_its_class() -> None:
    even = torch.logspace(-6, 1, 60, dtype=torch.float64)  # no gap of 0.3 decades anywhere
    found = ask(valley_is("looped", "V"), None, *exact("looped", {seed: even * (1 + 0.01 * NOISE[seed]) for seed in range(5)}))
    assert (found.decision, found.seeds_needed) == ("undecided", NO_SEEDS)
    assert "plateau >= 0.3 decades fails" in found.test
    between = {seed: spectrum(6.0 * math.exp(0.01 * NOISE[seed])) for seed in range(5)}
    assert ask(valley_is("single", "U"), None, *exact("single", between)).seeds_needed == 0


def test_a_class_needs_five_seeds_with_exact_spectra() -> None:
    there, spectra = exact("single", {seed: spectrum(1.5) for seed in range(4)})
    assert ask(valley_is("single", "U"), None, there, spectra).test.endswith("4 seeds, at least 5 needed")
    assert ask(valley_is("single", "U"), None, there, {}).test == "no exact spectra of single at the end of the run"
    assert ask(valley_is("single", "U")).test == "no landscape of single"


def pairs(factor: float, noise: float = 0.05) -> dict:
    """Looped has factor times Single's largest eigenvalue and kappa_q at the last common checkpoint, but not before."""
    single = seeds(lambda s: landscape(points=[point(2500, 3.0, 9.0, 9.0), point(2900, 3.0, 2.0, 4.0)]))

    def other(seed: int):
        ratio = factor * math.exp(noise * NOISE[seed])
        return landscape(points=[point(2500), point(2900, 3.0, 2 * ratio, 4 * ratio), point(END, 3.0, 1e9, 1e9)])

    return {"single": single, "looped": seeds(other)}


@pytest.mark.parametrize(("rule", "what"), [(steeper, "largest eigenvalue"), (uneven, "kappa_q")])
@pytest.mark.parametrize(
    ("factor", "noise", "expected"), [(3, 0.05, "supported"), (0.5, 0.05, "contradicted"), (1, 1, "undecided")]
)
def test_looped_against_single_at_the_last_common_checkpoint(rule, what: str, factor: float, noise: float, expected: str) -> None:
    found = ask(rule, landscapes=pairs(factor, noise))
    assert found.decision == expected
    assert ends(found.numbers[f"log({what}), looped - single"]) == pytest.approx(
        t_interval([math.log(factor) + noise * n for n in NOISE])
    )
    assert "(step 2900)" in found.test
    assert found.numbers["p, sign flips"].mean == pytest.approx(2 / 32 if factor != 1 else 1.0)


def test_kappa_q_is_not_measured_where_no_split_is() -> None:
    there = {arm: seeds(lambda s: landscape(points=[point(END)])) for arm in ("single", "looped")}
    assert ask(steeper, landscapes=there).decision == "undecided"
    found = ask(uneven, landscapes=there)
    assert (found.decision, found.test[:28]) == ("not measured", "no kappa_q of looped and sin")


def dominated(first: float, last: float, count: int = 5, noise: float = 0.1) -> tuple[dict, dict]:
    """Log-uniform valleys of 20 from 1; Looped's are ``exp(-first)`` and ``exp(-last)`` times Single's at first and last."""
    draw, landscapes, spectra = torch.Generator().manual_seed(1), {"single": {}, "looped": {}}, {}
    base = torch.cat([torch.full((10,), 1e-5, dtype=torch.float64), torch.logspace(0, 2, 20, dtype=torch.float64)])
    for seed in range(count):
        for arm, sign in (("single", 0), ("looped", -1)):
            landscapes[arm][seed] = landscape(points=[point(step, kappa_q=1.0, epsilon=0.01) for step in (0, 1500, END)])
            for step, shift in ((0, first), (1500, 0.0), (END, last)):
                wobble = noise * torch.randn(30, generator=draw, dtype=torch.float64)
                spectra[arm, seed, step] = base * torch.exp(sign * shift + wobble)
    return landscapes, spectra


def test_looped_below_single_at_the_end_supports_assumption_1_and_the_start_is_shown() -> None:
    found = ask(smaller_one_by_one, None, *dominated(-1.5, 1.5))
    assert (found.decision, "steps 0, 1500, 3000" in found.test) == ("supported", True)
    assert found.numbers["share with looped smaller, last"].mean == 1
    assert found.numbers["share with single smaller, first"].mean == 1
    assert found.numbers["p of looped smaller, last"].mean == 2**-5
    assert "last step looped has the more eigenvalues below every tau from" in found.test


def test_single_below_looped_at_the_end_contradicts_assumption_1() -> None:
    assert ask(smaller_one_by_one, None, *dominated(1.5, -1.5)).decision == "contradicted"


def test_equal_spectra_leave_assumption_1_undecided() -> None:
    assert ask(smaller_one_by_one, None, *dominated(1.5, 0.0, noise=0.0)).decision == "undecided"


def test_some_places_lower_and_some_higher_are_undecided() -> None:
    landscapes, spectra = dominated(0, 0, count=6, noise=0.01)
    for key in [key for key in spectra if key[0] == "looped"]:
        river, low, high = spectra[key].sort().values.split([10, 5, 15])
        spectra[key] = torch.cat([river, low * 0.3, high * 3])
    found = ask(smaller_one_by_one, None, landscapes, spectra)
    assert found.decision == "undecided"
    assert found.numbers["share with looped smaller, last"].mean == found.numbers["share with single smaller, last"].mean == 0.5
    assert max(found.numbers[f"p of {arm} smaller, last"].mean for arm in ("looped", "single")) < 0.05  # type: ignore[type-var]


def test_assumption_1_says_what_is_missing() -> None:
    there, spectra = dominated(1, 1, count=4)
    assert ask(smaller_one_by_one, None, there, spectra).test == "exact spectra of single and looped: 4 seeds, at least 5 needed"
    there["looped"] = seeds(lambda s: landscape(points=[point(END, how="matrix-free")]))
    assert ask(smaller_one_by_one, None, there, spectra).test == "no exact spectra of looped"
    there, spectra = dominated(1, 1)
    missing = {key: values for key, values in spectra.items() if key != ("looped", 2, END)}
    assert ask(smaller_one_by_one, None, there, missing).test.endswith(f"step {END}: 4 seeds, at least 5 needed")
    missing = {key: values for key, values in spectra.items() if key != ("looped", 2, 0)}
    found = ask(smaller_one_by_one, None, there, missing)
    assert (found.decision, "first checkpoint not tested" in found.test) == ("supported", True)
    spectra["looped", 1, END] = spectra["looped", 1, END][:-1]
    assert "spectra of different models mixed" in ask(smaller_one_by_one, None, there, spectra).test
