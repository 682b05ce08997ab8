"""Two studies side by side: intervals against scipy, configs, the figure's own lines, and the page."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_records import run
from matplotlib.figure import Figure
from pages import CHROMIUM, HOSTILE, Tags, laid_out, leaving, opened, sideways
from scipy import stats

from thalweg.errors import FolderError
from thalweg.intervals import student_quantile
from thalweg.records.run import Cell, Verdict
from thalweg.report.compare import page as compare
from thalweg.report.compare.differences import Difference, difference, half_width, outside, welch
from thalweg.report.compare.page import (
    Change,
    Comparison,
    One,
    VerdictPair,
    apart_in_words,
    as_text,
    changes,
    claim_comparison,
    flat,
    in_short,
    losses_drawn,
    together,
    told_apart,
    write_comparison,
)
from thalweg.serialization import to_dict
from thalweg.storage import write_json

FLOAT64 = 1e-12
SCIPY = 1e-9
"""Of scipy's own inverse."""
FREEDOMS = (1.0, 1.3, 2.0, 3.7, 8.5, 30.0, 97.4)


def ends(one: Cell) -> tuple:
    return one.mean, one.low, one.high


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_tails_of_students_t_agree_with_scipy(freedom) -> None:
    for t in (1.0, 1.7, 2.5, 12.7, 16.0):
        assert outside(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=FLOAT64)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_half_width_is_the_quantile(freedom) -> None:
    assert half_width(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=SCIPY)
    if freedom.is_integer():
        assert half_width(freedom) == pytest.approx(student_quantile(0.975, int(freedom)), rel=FLOAT64)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (5, 3), (10, 4)])
def test_welchs_interval_agrees_with_scipy(n, m) -> None:
    rng = np.random.default_rng(n + 10 * m)
    a, b = rng.normal(1.0, 1.0, n), rng.normal(2.0, 3.0, m)
    found, oracle = welch(a.tolist(), b.tolist()), stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=SCIPY)
    assert found.mean == pytest.approx(b.mean() - a.mean())


def test_welch_of_single_or_equal_values() -> None:
    assert (welch([1.0], [2.0, 3.0]).mean, welch([1.0], [2.0, 3.0]).low) == (1.5, None)
    same = welch([1.0, 1.0], [2.0, 2.0, 2.0])
    assert (same.low, same.mean, same.high) == (1.0, 1.0, 1.0)


A = {0: 1.0, 1: 1.2, 2: 0.9, 3: 1.4}
B = {0: 1.1, 1: 1.35, 2: 1.02, 3: 1.5}


def test_a_difference_is_paired_by_seed_where_the_data_are_the_same() -> None:
    shuffled = {seed: B[seed] for seed in (3, 1, 0, 2)}
    one = difference("x", "n", A, shuffled, same=True)
    low, high = stats.t.interval(0.95, 3, np.mean([0.1, 0.15, 0.12, 0.1]), stats.sem([0.1, 0.15, 0.12, 0.1]))
    assert ends(one.apart) == pytest.approx((0.1175, low, high))
    assert (one.paired, one.differs) == (True, True)
    assert ends(one.first) == pytest.approx((1.125, *stats.t.interval(0.95, 3, 1.125, stats.sem(list(A.values())))))


def test_a_difference_of_other_data_is_welchs_and_may_not_differ() -> None:
    one = difference("x", "n", A, B, same=False)
    oracle = stats.ttest_ind(list(B.values()), list(A.values()), equal_var=False).confidence_interval(0.95)
    assert (one.apart.low, one.apart.high) == pytest.approx((oracle.low, oracle.high))
    assert (one.paired, one.differs) == (False, False)


@pytest.mark.parametrize(("seeds", "paired"), [((0, 1, 7), True), ((0, 7, 8), False), ((7, 8), False)])
def test_pairs_need_two_seeds_that_both_have(seeds, paired) -> None:
    one = difference("x", "n", A, dict.fromkeys(seeds, 1.0) | {0: 1.1}, same=True)
    assert one.paired is paired
    assert one.apart.low is not None


def test_one_seed_alone_has_a_difference_and_no_verdict() -> None:
    one = difference("x", "n", {0: 1.0}, {0: 2.0}, same=True)
    assert (one.paired, one.apart, one.differs) == (True, Cell(1.0, None, None, 1), False)


def test_ratios_are_of_geometric_means() -> None:
    one = difference("x", "share", {0: 1.0, 1: 4.0}, {0: 2.0, 1: 8.0}, same=True, ratio=True)
    assert one.first.mean == pytest.approx(2.0)
    assert ends(one.apart) == pytest.approx((2.0, 2.0, 2.0))
    assert one.differs
    logs = [math.log(3.0), math.log(2.0)]
    other = difference("x", "share", {0: 1.0, 1: 4.0}, {0: 3.0, 1: 8.0}, same=True, ratio=True)
    assert ends(other.apart)[1:] == pytest.approx(np.exp(stats.t.interval(0.95, 1, np.mean(logs), stats.sem(logs))))


def test_where_a_run_never_got_there_is_no_difference() -> None:
    one = difference("x", "n", {0: 1.0, 1: None}, {0: 2.0, 1: 2.0}, same=True)
    assert (one.apart, one.never, one.differs, one.first.mean) == (Cell(None), (1, 0), False, 1.0)


def test_rounding_is_no_difference() -> None:
    assert not difference("x", "n", {0: 0.3, 1: 0.3}, {0: 0.1 + 0.2, 1: 0.1 + 0.2}, same=True).differs
    assert difference("x", "n", {0: 0.3, 1: 0.3}, {0: 0.3001, 1: 0.3001}, same=True).differs


def test_changes_are_of_values_and_of_keys_that_one_lacks() -> None:
    a = flat({"model": {"width": 24, "inner": {"x": [1]}}, "same": 1, "gone": "y", "odd": math.inf})
    b = flat({"model": {"width": 32, "inner": {"x": [1]}}, "same": 1, "new": False, "odd": math.inf})
    assert changes(a, b) == (Change("model.width", 24, 32), Change("gone", "y", None), Change("new", None, False))
    assert a["odd"] == "inf"


def test_a_section_of_another_kind_is_one_change() -> None:
    a = flat({"rule": {"kind": "plateau", "window": 20}, "ramp": {"kind": "ramp", "steps": 1}})
    b = flat({"rule": {"kind": "at-step", "step": 1}, "ramp": {"kind": "ramp", "steps": 2}})
    whole = Change("rule", {"kind": "plateau", "window": 20}, {"kind": "at-step", "step": 1})
    assert changes(a, b) == (Change("ramp.steps", 1, 2), whole)


def test_equal_changes_are_told_together() -> None:
    one, two = Change("width", 1, 2), Change("width", 1, 3)
    assert together({"x": [one], "y": [one]}) == (one,)
    assert together({"x": [one], "y": [one, two], "z": []}) == (replace(one, arms=("x", "y")), replace(two, arms=("y",)))


def test_labels_are_the_shortest_ends_that_differ() -> None:
    assert told_apart(Path("/r/a"), Path("/r/b")) == ("a", "b")
    assert told_apart(Path("/r/x/s/a"), Path("/r/y/s/a")) == ("x/s/a", "y/s/a")
    assert told_apart(Path("/a"), Path("/x/a")) == ("/a", "x/a")
    assert told_apart(Path("/r/a"), Path("/r/a")) == ("a", "a")


def test_only_this_comparisons_own_folder_is_written_again(tmp_path) -> None:
    first, second, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    claim_comparison(out, first, second)
    out.mkdir()
    (out / ".lock").touch()
    claim_comparison(out, first, second)
    write_json(out / "compare.json", {"first": {"path": str(first)}, "second": {"path": str(second)}})
    claim_comparison(out, first, second)
    with pytest.raises(FolderError, match=r"comparison .*out: the folder holds another comparison; choose an empty or new --out"):
        claim_comparison(out, second, first)
    for other in ([], {"first": 3}):
        write_json(out / "compare.json", other)
        with pytest.raises(FolderError, match=r"holds 'compare\.json'"):
            claim_comparison(out, first, second)


def test_values_and_differences_in_words() -> None:
    assert [as_text(x) for x in (None, "", "gpt", 0.1, True, [1, 3])] == ["-", '""', "gpt", "0.1", "true", "[1, 3]"]
    assert apart_in_words(DIFFERS) == ["-0.2", "[-0.3, -0.1]"]
    assert apart_in_words(replace(DIFFERS, apart=Cell(0.0))) == ["0"]
    assert apart_in_words(replace(DIFFERS, apart=Cell(None))) == ["-"]
    assert apart_in_words(replace(DIFFERS, ratio=True, apart=Cell(0.5, 0.25, 1.0, 3))) == ["0.5 times", "[0.25, 1]"]


DIFFERS = Difference(
    "looped", "loss (nats)", Cell(1.0, 0.9, 1.1, 3), Cell(0.8, 0.7, 0.9, 3), Cell(-0.2, -0.3, -0.1, 3), True, False, True
)
NEVER = Difference("single", "time (s)", Cell(None), Cell(4.0, n=1), Cell(None), False, False, False, (3, 2))


def make_comparison(name: str = "demo") -> Comparison:
    """Of two arms, everything in it."""
    one = One(f"old/{name}", f"/r/old/{name}", True, (), (), "Width 24.")
    other = One(f"new/{name}", f"/r/new/{name}", False, ("looped-seed2",), ("shift",), "Width 32.")
    told = Verdict("a claim", "supported", numbers={"rise": Cell(0.1, 0.05, 0.15, 3)})
    answers = (
        VerdictPair("a claim", told, Verdict("a claim", "undecided"), True),
        VerdictPair("another", told, None, False),
        VerdictPair("last", told, told, False),
    )
    plain = replace(DIFFERS, number="accuracy", differs=False, paired=False)
    return Comparison(
        "a study of markov", "nats per token", one, other, ("single", "looped"),
        (Change("seeds", [0, 1], [0]),), (Change("version", "1", "2"),),
        (Change("model.width", 24, 32), Change("x", None, 1, ("looped",))),
        (Change("seeds", [2], [], ("looped",)),),
        (NEVER, DIFFERS, plain), answers,
    )  # fmt: skip


def make_curves(arms: tuple = ("single", "looped"), row: str = "") -> dict:
    """A row for each arm, or all in one row; B is faster."""
    found: dict = {}
    for arm in arms:
        sides = tuple([run(arm, seed, speed) for seed in range(3)] for speed in (0.5, 0.8))
        found.setdefault(row or arm, {})[arm] = sides
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("compare")
    write_comparison(make_comparison(), make_curves(), where)
    return where


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "compare.html").read_text()


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Every figure that is drawn, before it becomes a picture."""
    kept: list[Figure] = []
    real = compare.drawn
    monkeypatch.setattr(compare, "drawn", lambda figure, *words: kept.append(figure) or real(figure, *words))
    return kept


def test_the_figure_has_a_over_b_in_each_arms_row_over_updates_and_operations(figures) -> None:
    curves = make_curves()
    losses_drawn(make_comparison(), curves)
    axes = figures[0].axes
    assert [one.get_title(loc="left") for one in axes] == ["single", "", "looped", ""]
    for place, arm in enumerate(curves):
        for panel, spent in zip(axes[2 * place : 2 * place + 2], (lambda e: e.step, lambda e: e.flops / 1e12), strict=True):
            for line, runs in zip(panel.lines, curves[arm][arm], strict=True):
                mean = np.mean([[e.scores["held-out"]["all"].loss for e in one.evaluations] for one in runs], axis=0)
                assert np.allclose(line.get_xydata(), np.column_stack([[spent(e) for e in runs[0].evaluations], mean]))
            assert [line.is_dashed() for line in panel.lines] == [False, True]
    bands = [p.get_datalim(axes[0].transData) for p in axes[0].collections]
    last = [one.evaluations[-1].scores["held-out"]["all"].loss for one in curves["single"]["single"][1]]
    low = stats.t.interval(0.95, 2, np.mean(last), stats.sem(last))[0]
    assert bands[1].y0 == pytest.approx(low)


def test_the_axis_shows_every_loss_after_the_first_sixth(figures) -> None:
    curves = make_curves()
    losses_drawn(make_comparison(), curves)
    low, high = figures[0].axes[0].get_ylim()
    losses = [[e.scores["held-out"]["all"].loss for e in one.evaluations] for side in curves["single"]["single"] for one in side]
    assert low < min(map(min, losses))
    assert max(max(one[3:]) for one in losses) < high < max(one[0] for one in losses)


def test_arms_in_one_row_have_their_colours_in_the_legend(figures) -> None:
    found = losses_drawn(make_comparison(), make_curves(row="parity"))
    assert found is not None
    assert [one.get_text() for one in figures[0].legends[0].get_texts()] == ["single", "looped", "A: old/demo", "B: new/demo"]
    assert len(figures[0].axes) == 2
    assert "parity, single 0.6989 in A and 0.5795 in B" in found.alt


def test_the_words_of_the_figure_tell_the_ends_and_both_set_ups() -> None:
    found = losses_drawn(make_comparison(), make_curves())
    assert found is not None
    ends = [1.5 - (1 - math.exp(-1000 * speed / 300)) + 0.01 for speed in (0.5, 0.8)]
    assert f"single {ends[0]:.4g} in A and {ends[1]:.4g} in B" in found.alt
    assert found.caption.endswith("A: Width 24. B: Width 32.")


def test_without_runs_in_both_there_is_no_figure(tmp_path) -> None:
    assert losses_drawn(make_comparison(), {}) is None
    empty = replace(make_comparison(), numbers=(), answers=(), plan=(), configs=(), software=(), seeds=())
    page = write_comparison(empty, {}, tmp_path).read_text()
    assert "No arm has complete runs in both studies." in page
    assert page.count("Nothing differs.") == 3
    assert "<img" not in page


def test_the_page_stands_alone_with_words_for_the_blind(page, folder) -> None:
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == 1
    assert images[0]["src"].startswith("data:image/")
    assert "Means over seeds" in images[0]["alt"]
    assert leaving(page) == []
    assert "<script" not in page
    assert {p.name for p in folder.iterdir()} == {"compare.html", "compare.json", "figures"}
    assert {p.name for p in (folder / "figures").iterdir()} == {"loss-side-by-side.svg", "loss-side-by-side.png"}


def test_what_differs_is_said_at_the_top_and_in_its_order(page) -> None:
    told = "3 keys of plan and configs differ. Of 2 numbers with an interval 1 differs, and of 2 answers that both give 1 changed."
    parts = [
        told,
        "B is not complete. Missing: looped-seed2.",
        "model.width",
        "Arms of B alone",
        "a claim",
        "another",
        "looped (1 of 2",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_only_what_differs_is_marked(page) -> None:
    rows = [row for row in page.split("<tr") if 'scope="row">' in row and "<td" in row]
    marked = {row.split('scope="row">')[1].split("<")[0] for row in rows if "differs" in row.split("</tr>")[0]}
    assert marked == {"loss (nats)"}
    assert "paired, 3 seeds" in page
    assert "<small>unpaired</small>" in page


def test_runs_that_never_got_there_are_counted(page) -> None:
    row = page[page.index('<th scope="row">time (s)') :]
    assert "-<small>not reached in 3 of 3 runs</small>" in row[: row.index("</tr>")]
    assert "4<small>not reached in 2 of 3 runs</small>" in row[: row.index("</tr>")]


def test_one_key_and_one_number_are_said_in_the_singular() -> None:
    one = replace(make_comparison(), plan=(), configs=(Change("x", 1, 2),), numbers=(DIFFERS,), answers=())
    said = "1 key of plan and configs differs. Of 1 number with an interval 1 differs, and of 0 answers that both give 0 changed"
    assert in_short(one) == said


def hostile() -> tuple[Comparison, dict]:
    """Everything that can be named has a hostile name."""
    made = make_comparison(HOSTILE)
    told = Verdict(HOSTILE, HOSTILE, numbers={HOSTILE: Cell(1.0)})
    bad = Change(HOSTILE, HOSTILE, [HOSTILE], (HOSTILE,))
    one = replace(made.first, complete=False, missing=(HOSTILE,), arms_alone=(HOSTILE,), setup=HOSTILE)
    found = replace(
        made, kind=HOSTILE, first=one, second=replace(one, label=HOSTILE + "_"), arms=(HOSTILE,),
        plan=(bad,), software=(bad,), configs=(bad,), seeds=(replace(bad, first=[0], second=[]),),
        numbers=(replace(DIFFERS, arm=HOSTILE, number=HOSTILE),), answers=(VerdictPair(HOSTILE, told, told, True),),
    )  # fmt: skip
    return found, {HOSTILE: {HOSTILE: make_curves()["looped"]["looped"], "$a$": make_curves()["single"]["single"]}}


def test_names_of_users_are_inert(tmp_path) -> None:
    page = write_comparison(*hostile(), tmp_path).read_text()
    assert "<img src=x" not in page
    assert page.count("{{ 7*7 }}") > 15  # shown as it is, not evaluated


def test_the_record_is_plain_json(folder) -> None:
    kept = json.loads((folder / "compare.json").read_text())
    assert kept == json.loads(json.dumps(to_dict(make_comparison())))
    assert kept["numbers"][1]["apart"] == {"mean": -0.2, "low": -0.3, "high": -0.1, "n": 3, "ceiling": None}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_a_real_browser(tmp_path, width) -> None:
    write_comparison(*hostile(), tmp_path)
    with opened(tmp_path / "compare.html", width) as (page, wrong):
        sizes, overflow, title = laid_out(page)
        assert sideways(page) == []
        columns = page.locator(".numbers-of thead").first
        assert columns.is_visible() == (width > 720)  # on a phone every row is a card, whose cells name their columns
    assert wrong == []
    assert len(sizes) == 1
    assert all(natural > 0 and shown > 0.8 * min(width, 1088) - 40 for natural, shown in sizes)
    assert overflow <= 0
    assert HOSTILE in title
