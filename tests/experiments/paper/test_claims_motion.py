import math
from dataclasses import replace

import pytest
from planted import END, NOISE, alignment, ask, ends, landscape, point, replay, run, seeds, t_interval, theorems

from thalweg.experiments.paper.claims_motion import aligned_early, drives, force_pays, hops, larger_force, trapped
from thalweg.records.landscape import ConditionRecord


def windows(arm: str, *of_seed) -> dict:
    """Landscapes of an arm with these replays, one tuple a seed."""
    return {arm: {seed: landscape(replays=found, points=[point(END)]) for seed, found in enumerate(of_seed)}}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((1, 1, 1), "supported"), ((0, 0, 0), "contradicted"), ((1, 0, 1), "undecided"), ((1, 1), "not measured")],
)
def test_trapped_asks_the_last_window_of_every_seed(flags: tuple[int, ...], expected: str) -> None:
    there = windows("single", *((replay(1000, trapped=not flag), replay(trapped=bool(flag))) for flag in flags))
    found = ask(trapped, landscapes=there)
    assert found.decision == expected
    if expected != "not measured":
        share = sum(flags) / 3
        assert found.numbers["share of seeds trapped, single"].mean == pytest.approx(share)
        assert found.numbers["class U, single"].mean == pytest.approx(share)
        assert found.numbers["edge ratio < 0.5, single"].mean == 1
    else:
        assert found.test == "replays of single to the end of the run: 2 seeds, at least 3 needed"


def test_a_window_that_is_undecided_contradicts_nothing() -> None:
    """The loss of seed 1 neither stands nor moves: the claim may hold there."""
    last = replay()
    unsure = replace(last, conditions={"trapped": (ConditionRecord("constant", None, 1e-3), ConditionRecord("U", True, 1.0))})
    assert (last.shown_not("trapped"), unsure.shown_not("trapped"), unsure.trapped) == (True, False, False)
    found = ask(trapped, landscapes=windows("single", (last,), (unsure,), (last,)))
    assert (found.decision, found.test[-13:]) == ("undecided", "; 1 undecided")


def test_a_window_whose_flips_are_undecided_does_not_contradict_hopping() -> None:
    unsure = replace(
        replay(), conditions={"hopping": (ConditionRecord("flips", None, 0.5), ConditionRecord("tau_V >= 2", True, 2.5))}
    )
    assert ask(hops, landscapes=windows("looped", (replay(),), (replay(),), (replay(),))).decision == "contradicted"
    found = ask(hops, landscapes=windows("looped", (replay(),), (unsure,), (replay(),)))
    assert found.decision == "undecided"
    assert found.test.endswith("; 1 undecided")


def test_replays_that_stop_before_the_end_measure_nothing() -> None:
    there = windows("single", *[(replay(1000, trapped=True),)] * 5)
    found = ask(trapped, {"single": seeds(lambda s: run())}, there)
    assert (found.decision, found.test) == ("not measured", "no replays of single to the end of the run")


@pytest.mark.parametrize(
    ("flags", "expected"), [((1, 1, 1), "supported"), ((0, 0, 0), "contradicted"), ((1, 0, 0), "undecided"), ((1,), "not measured")]
)
def test_hops_asks_any_window_of_every_seed(flags: tuple[int, ...], expected: str) -> None:
    there = windows("looped", *((replay(1000, hops=bool(flag)), replay()) for flag in flags))
    found = ask(hops, landscapes=there | windows("single", (replay(),), (replay(hops=True),)))
    assert found.decision == expected
    if expected != "not measured":
        assert found.numbers["share of seeds that hop, looped"].mean == pytest.approx(sum(flags) / 3)
        assert found.numbers["tau_V >= 2, looped"].mean == pytest.approx(sum(flags) / 3)
        assert found.numbers["share of seeds that hop, single"].mean == 0.5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("supported", "supported", "opposed"), "supported"),
        (("supported", "opposed", "not supported"), "undecided"),
        (("no progress", "opposed", "not supported"), "undecided"),  # plain descent cannot refute what another optimizer does
        (("supported", "supported", "no river"), "not measured"),
    ],
)
def test_drives_counts_seeds_with_most_ablations_supported(words: tuple[str, ...], expected: str) -> None:
    there = windows("looped", *((replay(1000, ablation=word), replay(1500), replay(ablation=word)) for word in words))
    found = ask(drives, landscapes=there)
    assert found.decision == expected
    if expected != "not measured":
        flags = [float(word == "supported") for word in words]
        assert ends(found.numbers["share of windows supported, looped"]) == pytest.approx(
            t_interval(flags) if any(flags) else (0, 0, 0)
        )
    else:
        assert found.test == "ablations of looped: 2 seeds, at least 3 needed"


def test_half_of_a_seeds_windows_are_not_most() -> None:
    halves = [(replay(1000, ablation="supported"), replay(ablation="opposed"))] * 3
    found = ask(drives, landscapes=windows("looped", *halves))
    assert (found.decision, found.numbers["share of windows supported, looped"].mean) == ("undecided", 0.5)
    assert "3 opposed, 3 supported" in found.test


def forces(ratio, fall=lambda seed, k: 0.0, bound: float = 1.0) -> dict:
    """Two checkpoints common to both arms; Looped's force is the ratio times Single's there."""

    def looped(seed: int):
        records = [theorems(step, 5 * ratio(seed, k), 1 + fall(seed, k), 7 * bound, 2.0) for k, step in enumerate((1000, 2000))]
        return landscape(theorems=[*records, theorems(2500, 1e9)])

    single = [theorems(1000, 5.0, 1.0, 7.0), theorems(2000, 5.0, 1.0, 7.0)]
    return {"looped": seeds(looped), "single": seeds(lambda s: landscape(theorems=single))}


@pytest.mark.parametrize(("factor", "noise", "expected"), [(2, 0.1, "supported"), (0.5, 0.1, "contradicted"), (1, 1, "undecided")])
def test_the_larger_force_follows_the_paired_log_ratio(factor: float, noise: float, expected: str) -> None:
    there = forces(lambda seed, k: factor * math.exp(noise * NOISE[seed] + k), bound=0.5)
    found = ask(larger_force, landscapes=there)
    logs = [math.log(factor) + noise * n + 0.5 for n in NOISE]
    assert ends(found.numbers["log force ratio, looped / single"]) == pytest.approx(t_interval(logs))
    assert found.numbers["log ratio of the paper's bounds"].mean == pytest.approx(math.log(0.5))
    assert found.numbers["log ratio of the forces relative to the start"].mean == pytest.approx(math.log(2))
    level = ask(larger_force, landscapes=forces(lambda seed, k: factor * math.exp(noise * NOISE[seed])))
    assert level.decision == expected
    assert (level.seeds_needed > len(NOISE)) == (expected == "undecided")


def test_bounds_that_order_against_the_forces_are_counted() -> None:
    found = ask(larger_force, landscapes=forces(lambda seed, k: 2.0 if k else 0.5, bound=3.0))
    assert found.numbers["share of checkpoints where the bounds order as the forces"].mean == 0.5


def test_forces_without_common_checkpoints_or_seeds_measure_nothing() -> None:
    there = forces(lambda seed, k: 2.0)
    apart = there | {"single": seeds(lambda s: landscape(theorems=[theorems(500, 1.0)]))}
    assert ask(larger_force, landscapes=apart).test == "no forces at common checkpoints of looped and single"
    assert ask(force_pays, landscapes=apart).decision == "not measured"
    few = {arm: {0: found[0], 3: found[3]} for arm, found in there.items()}
    assert ask(larger_force, landscapes=few).test.endswith("2 seeds, at least 3 needed")
    dead = forces(lambda seed, k: 0.0)
    assert ask(larger_force, landscapes=dead).decision == "not measured"


@pytest.mark.parametrize(
    ("ratio", "fall", "expected"),
    [
        (2.0, 0.3, "supported"),
        (2.0, -0.3, "contradicted"),
        (0.5, 0.3, "contradicted"),
        (0.5, -0.3, "contradicted"),
        (2.0, 0.0, "undecided"),
    ],
)
def test_force_pays_needs_a_larger_decrease_and_the_same_order(ratio: float, fall: float, expected: str) -> None:
    there = forces(lambda seed, k: ratio, lambda seed, k: fall + 0.1 * NOISE[seed])
    found = ask(force_pays, landscapes=there)
    assert found.decision == expected
    assert ends(found.numbers["decrease of the loss, looped - single"]) == pytest.approx(
        t_interval([fall + 0.1 * n for n in NOISE])
    )


def test_order_is_a_share_of_checkpoints_averaged_over_seeds() -> None:
    found = ask(force_pays, landscapes=forces(lambda seed, k: 2.0, lambda seed, k: -0.1 if k and seed < 2 else 1.0))
    assert ends(found.numbers["share that orders as the force"]) == pytest.approx(t_interval([0.5, 0.5, 1, 1, 1]))


def aligned(query: float, key: float = 0.9, late: float = 0.1, noise: float = 0.1):
    """Nine checkpoints: the first three with these cosines, the others with the late one."""

    def along(seed: int):
        early = {"query": query + noise * NOISE[seed], "key": key, "all": -1.0}
        return landscape(
            alignments=[alignment(k, early if k < 3 else dict.fromkeys(early, late), 0.1 if k < 3 else 0.4) for k in range(9)]
        )

    return seeds(along)


@pytest.mark.parametrize(
    ("query", "noise", "expected"), [(0.5, 0.1, "supported"), (-0.5, 0.1, "contradicted"), (0.05, 1.0, "undecided")]
)
def test_the_smallest_matrix_decides_on_early_alignment(query: float, noise: float, expected: str) -> None:
    found = ask(aligned_early, landscapes={"single": aligned(query, noise=noise), "looped": aligned(0.7)})
    assert (found.decision, "smallest (query)" in found.test) == (expected, True)
    numbers = found.numbers
    assert ends(numbers["cosine query, early, along single"]) == pytest.approx(t_interval([query + noise * n for n in NOISE]))
    assert numbers["cosine query, late, along single"].mean == pytest.approx(0.1)
    assert numbers["cosine query, early, along looped"].mean == pytest.approx(0.7)
    assert numbers["opposed samples key, late, along looped"].mean == pytest.approx(0.4)
    assert not any(" all," in name for name in numbers)


def test_a_smallest_matrix_below_zero_has_to_be_so_beyond_the_choice_among_matrices() -> None:
    sure, level = t_interval(NOISE)[2], 0.1
    query = -1.1 * sure * level  # above the interval at 95 %, not at 97.5 %
    found = ask(aligned_early, landscapes={"single": aligned(query, noise=level)})
    assert found.numbers["cosine query, early, along single"].high < 0  # type: ignore[operator]
    assert found.decision == "undecided"


def test_alignment_falls_back_on_looped_and_ignores_matrices_without_a_cosine() -> None:
    there = aligned(0.5)
    for seed, found in there.items():
        there[seed] = landscape(alignments=[alignment(a.step, {"query": 0.5, "up": None}) for a in found.alignments])
    found = ask(aligned_early, landscapes={"single": seeds(lambda s: landscape()), "looped": there})
    assert (found.decision, "at looped's weights" in found.test) == ("supported", True)


def test_alignment_says_what_is_missing() -> None:
    assert ask(aligned_early).test == "no alignments along single or looped"
    few = {"single": {seed: found for seed, found in aligned(0.5).items() if seed < 2}}
    assert ask(aligned_early, landscapes=few).test.endswith("2 seeds with at least 3 checkpoints, at least 3 needed")
    empty = {"looped": seeds(lambda s: landscape(alignments=[alignment(k, {"query": None}) for k in range(3)]))}
    assert ask(aligned_early, landscapes=empty).test == "no matrix with a cosine in 3 seeds along looped"
