from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from thalweg.experiments.paper.verdicts import better, by_sign, cheaper, lower_loss, markov_verdicts, smooth_switch, stalls
from thalweg.intervals import Interval
from thalweg.records.run import EvaluationRecord, RunRecord, Score, SwitchRecord


def run(loss, accuracy, seconds_per_step: float = 0.01, jump: float | None = None) -> RunRecord:
    """A run whose loss and accuracy are functions of the step."""
    records = []
    for step in range(0, 3001, 100):
        score = {name: Score(float(accuracy(step)), float(loss(step))) for name in ("low", "high", "all")}
        both = {"train": score, "held-out": score}
        records.append(EvaluationRecord(step, step * seconds_per_step, step * 1e9, 1, both))
    switches = ()
    if jump is not None:
        before, after = ({"held-out": {"all": Score(0.5, 1.0 + j)}} for j in (0.0, jump))
        switches = (SwitchRecord(10, 0.1, 1.0, 1, 3, "x", before, after),)
    return RunRecord("r", tuple(records), switches, None)


def seeds(make, n: int = 5) -> dict[int, RunRecord]:
    return {seed: make(seed) for seed in range(n)}


def flat(level: float, noise: float = 0.0):
    return lambda seed: run(lambda s: 1.0, lambda s: level + noise * np.cos(seed) + 1e-7 * np.sin(s + 7 * seed))


def rising(rise: float):
    return lambda seed: run(lambda s: 1.0, lambda s: 0.5 + (rise + 1e-5 * seed) * s / 3000)


def test_a_flat_curve_stalls() -> None:
    assert stalls({"single": seeds(flat(0.6))}, "single", "train").verdict == "supported"


def test_a_rising_curve_does_not_stall() -> None:
    assert stalls({"single": seeds(rising(0.3))}, "single", "train").verdict == "contradicted"


def test_a_certain_rise_that_is_smaller_than_the_margin_is_a_stall() -> None:
    assert stalls({"single": seeds(rising(0.01))}, "single", "train").verdict == "supported"


def test_noise_wider_than_the_margin_is_undecided_and_not_a_stall() -> None:
    slopes = [-0.3, 0.3, 0.1, -0.2, 0.15]
    runs = {"single": seeds(lambda seed: run(lambda s: 1.0, lambda s: 0.5 + slopes[seed] * s / 3000))}
    assert stalls(runs, "single", "train").verdict == "undecided"


def test_two_seeds_decide_nothing() -> None:
    assert stalls({"single": seeds(flat(0.6), 2)}, "single", "train").verdict == "undecided"
    assert by_sign(Interval(1.0, 0.9, 1.1, 2)) == "undecided"


@pytest.mark.parametrize(("gap", "expected"), [(0.05, "supported"), (-0.05, "contradicted"), (0.0, "undecided")])
def test_better_follows_the_paired_interval(gap: float, expected: str) -> None:
    runs = {"single": seeds(flat(0.6, 0.02)), "looped": seeds(lambda s: flat(0.6 + gap + 1e-4 * (-1) ** s, 0.02)(s))}
    assert better(runs, "looped", "single", "train", "high", "x").verdict == expected


def test_pairing_takes_out_what_seeds_share() -> None:
    runs = {"single": seeds(flat(0.6, 0.2)), "looped": seeds(lambda s: flat(0.61 + 1e-4 * s, 0.2)(s))}
    found = better(runs, "looped", "single", "train", "high", "x").numbers["difference"]
    low, high = stats.t.interval(0.95, 4, *(lambda d: (d.mean(), stats.sem(d)))(0.01 + 1e-4 * np.arange(5)))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def falling(floor: float, speed: float, jump: float | None = 0.0):
    return lambda seed: run(lambda s: floor + 0.001 * seed + np.exp(-s * speed), lambda s: 0.5, jump=jump)


def test_lower_loss_is_supported_for_the_lower_one() -> None:
    runs = {"single": seeds(falling(0.9, 0.01)), "looped": seeds(falling(0.8, 0.01))}
    assert lower_loss(runs, "looped", "single", "x").verdict == "supported"


def test_cheaper_is_supported_when_every_seed_needs_fewer_operations() -> None:
    runs = {"looped": seeds(falling(0.8, 0.001)), "shift": seeds(falling(0.7, 0.002))}
    found = cheaper(runs, "shift", "looped")
    assert found.verdict == "supported"
    assert found.numbers["share of the operations"].mean < 0.6  # type: ignore[operator]


def test_never_reaching_it_contradicts_and_is_counted() -> None:
    runs = {"looped": seeds(falling(0.8, 0.01)), "shift": seeds(falling(0.9, 0.01))}
    found = cheaper(runs, "shift", "looped")
    assert (found.verdict, found.numbers["seeds that never reached it"].mean) == ("contradicted", 5)


def test_a_shift_that_never_switched_proves_nothing() -> None:
    runs = {"looped": seeds(falling(0.8, 0.001)), "shift": seeds(falling(0.7, 0.002, jump=None))}
    found = cheaper(runs, "shift", "looped")
    assert (found.verdict, found.numbers["seeds that switched"].mean) == ("undecided", 0)


def test_one_seed_that_never_reaches_it_leaves_it_undecided() -> None:
    runs = {
        "looped": seeds(falling(0.8, 0.01)),
        "shift": seeds(lambda s: falling(0.9 if s == 2 else 0.7, 0.01)(s)),
    }
    assert cheaper(runs, "shift", "looped").verdict == "undecided"


def test_a_ramp_that_does_not_jump_beats_a_hard_switch_that_does() -> None:
    runs = {
        "shift": seeds(lambda s: run(lambda x: 1, lambda x: 0.5, jump=0.0)),
        "shift-hard": seeds(lambda s: run(lambda x: 1, lambda x: 0.5, jump=0.5 + 0.1 * s)),
    }
    assert smooth_switch(runs, "shift", "shift-hard").verdict == "supported"


def test_claims_whose_arms_are_missing_are_left_out() -> None:
    assert [v.claim.split()[0] for v in markov_verdicts({"single": seeds(flat(0.6))})] == ["single", "single"]


def test_seconds_decide_nothing() -> None:
    runs = {"looped": seeds(falling(0.8, 0.001)), "shift": seeds(falling(0.7, 0.002))}
    slow = {
        seed: replace(r, evaluations=tuple(replace(e, seconds=99 * e.seconds) for e in r.evaluations))
        for seed, r in runs["shift"].items()
    }
    assert cheaper({**runs, "shift": slow}, "shift", "looped") == cheaper(runs, "shift", "looped")


def test_an_undecided_claim_says_how_many_seeds_would_decide_it() -> None:
    gaps = [0.03, -0.01, 0.02, 0.0, 0.01]
    runs = {"single": seeds(flat(0.6)), "looped": seeds(lambda s: flat(0.6 + gaps[s])(s))}
    found = better(runs, "looped", "single", "train", "high", "x")
    effect = np.mean(gaps) / np.std(gaps, ddof=1)
    power = {
        n: stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * n**0.5) for n in (found.seeds_needed - 1, found.seeds_needed)
    }
    assert found.verdict == "undecided"
    assert power[found.seeds_needed - 1] < 0.8 <= power[found.seeds_needed] + 1e-3


def test_a_decided_claim_asks_for_no_seeds_and_names_who_makes_it() -> None:
    runs = {"single": seeds(flat(0.6, 0.02)), "looped": seeds(lambda s: flat(0.65 + 1e-4 * (-1) ** s, 0.02)(s))}
    found = better(runs, "looped", "single", "train", "high", "x")
    assert (found.verdict, found.seeds_needed, found.source) == ("supported", 0, "paper")
    assert better(runs, "looped", "single", "train", "high", "x", "controls").source == "control"


def test_arms_without_a_common_seed_are_not_compared() -> None:
    runs = {"single": {0: flat(0.6)(0)}, "looped": {1: flat(0.7)(1), 2: flat(0.7)(2)}}
    claims = [found.claim for found in markov_verdicts(runs)]
    assert claims
    assert not [claim for claim in claims if "single" in claim.lower() and "looped" in claim.lower()]
