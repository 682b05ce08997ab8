import json
import math

import pytest
from planted import END, NOISE, alignment, exact, landscape, length, point, replay, run, seeds, spectrum, theorems

from thalweg.experiments.paper.claims import CLAIMS, conjecture_1, conjecture_2, landscape_verdicts, together
from thalweg.experiments.paper.evidence import Evidence, Finding, judged
from thalweg.intervals import NO_SEEDS
from thalweg.records.run import Verdict
from thalweg.serialization import to_dict

ARMS = ("single", "looped", "single-rescaled")
FLAT = {claim: rule for rules in CLAIMS.values() for claim, rule in rules.items()}


def with_replays(arm: str, kappa: float, windows: tuple, count: int = 5) -> tuple[dict, dict]:
    """Exact spectra at the end, and the same replays in every seed."""
    there, spectra = exact(arm, {seed: spectrum(kappa * math.exp(0.01 * NOISE[seed])) for seed in range(count)})
    return {arm: {seed: landscape(points=at.points, replays=windows) for seed, at in there[arm].items()}}, spectra


def found(rule, landscapes: dict, spectra: dict) -> Finding:
    return judged(rule, Evidence({}, landscapes, lambda *key: spectra.get(key)))


@pytest.mark.parametrize(
    ("kappa", "trapped", "expected"),
    [(1.5, True, "supported"), (1.5, False, "contradicted"), (1e3, True, "contradicted"), (6.0, True, "undecided")],
)
def test_conjecture_1_needs_a_u_and_a_trap(kappa: float, trapped: bool, expected: str) -> None:
    one = found(conjecture_1, *with_replays("single", kappa, (replay(trapped=trapped),)))
    assert one.decision == expected
    assert {"kappa_q, single", "share of seeds trapped, single", "class U, single", "ridge mass, single"} <= one.numbers.keys()


def test_conjecture_1_falls_with_one_part_even_where_the_other_is_not_measured() -> None:
    there, _ = with_replays("single", 1.5, (replay(),), 3)
    one = found(conjecture_1, there, {})
    assert (one.decision, "no exact spectra of single" in one.test) == ("contradicted", True)
    assert found(conjecture_1, with_replays("single", 1.5, (replay(trapped=True),), 3)[0], {}).decision == "not measured"
    bare, spectra = exact("single", {seed: spectrum(1.5) for seed in range(5)})
    assert found(conjecture_1, bare, spectra).decision == "not measured"


@pytest.mark.parametrize(
    ("kappa", "hops", "ablation", "expected"),
    [
        (1e3, True, "supported", "supported"),
        (1.5, True, "supported", "contradicted"),
        (1e3, False, "supported", "contradicted"),
        (1e3, True, "opposed", "undecided"),
        (6.0, True, "supported", "undecided"),
        (1e3, True, "not made", "not measured"),
    ],
)
def test_conjecture_2_needs_a_v_hops_and_an_ablation_that_loses(kappa: float, hops: bool, ablation: str, expected: str) -> None:
    assert found(conjecture_2, *with_replays("looped", kappa, (replay(hops=hops, ablation=ablation),))).decision == expected


def test_the_contrast_stands_beside_conjecture_2_where_it_is_measured() -> None:
    there, spectra = with_replays("looped", 1e3, (replay(),))
    assert "log(kappa_q), looped - single" not in found(conjecture_2, there, spectra).numbers
    there["single"] = seeds(lambda s: landscape(points=[point(END, kappa_q=0.5)]))
    assert found(conjecture_2, there, spectra).numbers["log(kappa_q), looped - single"].mean == pytest.approx(math.log(2))


def test_a_conjunction_says_what_its_parts_say() -> None:
    one = together({"a": Finding("supported", "x"), "b": Finding("not measured", "no b")})
    assert (one.decision, one.test.split(": ", 1)[1]) == ("not measured", "a: supported; b: not measured (no b)")


def everything() -> tuple[dict, dict, dict]:
    """Five seeds of three arms with every part, and their spectra."""
    runs = {
        arm: seeds(lambda s, a=a: run(lambda t: t / END, lambda t: (t / END) ** 2, lambda t: 1 + 0.1 * a))
        for a, arm in enumerate(ARMS)
    }
    landscapes, spectra = {}, {}
    for arm in ARMS:
        rows = {seed: spectrum(50 * math.exp(0.1 * NOISE[seed])) for seed in range(5)}
        there, more = exact(arm, rows, range(0, END + 1, 100))
        spectra |= more
        landscapes[arm] = {
            seed: landscape(
                points=at.points,
                replays=[replay(hops=True, trapped=True, ablation="supported")],
                theorems=[theorems(1000, 1.0 + seed + ARMS.index(arm), 1.0 + ARMS.index(arm))],
                alignments=[alignment(k, {"query": 0.5, "all": 0.5}) for k in range(4)],
                lengths=[length(m, 0.5 + 0.01 * seed, shares=(0.2, 0.2)) for m in (1, 2)],
            )
            for seed, at in there[arm].items()
        }
    return runs, landscapes, spectra


def lines(runs: dict, landscapes: dict, spectra: dict) -> list[Verdict]:
    return landscape_verdicts(Evidence(runs, landscapes, lambda *key: spectra.get(key)))


def test_nothing_gives_every_line_as_not_measured_with_a_reason() -> None:
    all_lines = lines({}, {}, {})
    assert [line.claim for line in all_lines] == list(FLAT)
    assert {line.verdict for line in all_lines} == {"not measured"}
    assert all(line.test and not line.numbers for line in all_lines)


def test_full_records_measure_every_claim_but_the_phases_and_fit_into_json() -> None:
    all_lines = lines(*everything())
    missing = [line.claim for line in all_lines if line.verdict == "not measured"]
    assert missing == ["looped's spectrum goes through collapse, diversification and a stable phase"]  # 31 checkpoints
    json.dumps(to_dict(all_lines), allow_nan=False)


def test_any_part_may_be_missing() -> None:
    runs, landscapes, spectra = everything()
    for arm in ARMS:
        assert len(lines({k: v for k, v in runs.items() if k != arm}, landscapes, spectra)) == len(FLAT)
        assert len(lines(runs, {k: v for k, v in landscapes.items() if k != arm}, spectra)) == len(FLAT)
        assert len(lines(runs, landscapes | {arm: {}}, spectra)) == len(FLAT)
        assert len(lines(runs, landscapes | {arm: {9: landscape()}}, spectra)) == len(FLAT)
        for part in ("points", "replays", "theorems", "alignments", "lengths"):
            kept = [name for name in ("points", "replays", "theorems", "alignments", "lengths") if name != part]
            cut = {s: landscape(**{name: getattr(at, name) for name in kept}) for s, at in landscapes[arm].items()}
            assert len(lines(runs, landscapes | {arm: cut}, spectra)) == len(FLAT)
    bare = {arm: seeds(lambda s: landscape()) for arm in ARMS}
    assert {line.verdict for line in lines({}, bare, {})} == {"not measured"}


def test_one_or_two_seeds_decide_no_claim() -> None:
    runs, landscapes, spectra = everything()
    for count in (1, 2):
        few = [{arm: {s: of[s] for s in range(count)} for arm, of in all_of.items()} for all_of in (runs, landscapes)]
        assert {line.verdict for line in lines(*few, spectra)} == {"not measured"}


def test_a_valley_without_directions_does_not_raise() -> None:
    runs, landscapes, spectra = everything()
    negative = {key: -values.abs() for key, values in spectra.items()}
    all_lines = {line.claim: line for line in lines(runs, landscapes, negative)}
    assert all_lines["single's valley is a U"].verdict == "contradicted"
    json.dumps(to_dict(tuple(all_lines.values())), allow_nan=False)


@pytest.mark.parametrize(("needed", "whole"), [((NO_SEEDS, NO_SEEDS), NO_SEEDS), ((NO_SEEDS, 12), 0), ((5, 12), 12), ((0, 12), 0)])
def test_seeds_decide_a_conjunction_where_they_decide_each_open_part(needed: tuple[int, int], whole: int) -> None:
    parts = {str(index): Finding("undecided", "x", seeds_needed=count) for index, count in enumerate(needed)}
    assert together(parts | {"held": Finding("supported", "x")}).seeds_needed == whole
