"""Two studies on disk whose records were planted: what differs in them, and nothing else, is what the comparison says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from thalweg.errors import BadInputError, FolderError
from thalweg.experiments.compare import ComparedArm, answers, compare, differences
from thalweg.experiments.paper.definition import jobs_of
from thalweg.experiments.paper.recipes import plan
from thalweg.experiments.queue import Job
from thalweg.experiments.switching.definition import reference_jobs
from thalweg.experiments.switching.variants import sweep_of
from thalweg.experiments.tasks.definition import task_jobs
from thalweg.experiments.tasks.recipes import plan_tasks
from thalweg.records.run import EvaluationRecord, Provenance, RunSummary, Score, TaskLength, Verdict
from thalweg.serialization import to_dict
from thalweg.storage import write_json, write_text
from thalweg.train.config import config_text

HERE = Provenance("0", "abc", "2", "3", "Linux", "cpu", "float32", 1)
STRATA = ("low", "high", "all")
NOISE = (0.013, -0.008, 0.004, -0.011, 0.002)
RELATIVE = 1e-9
"""Of scipy's intervals, which invert to their own tolerance."""

Loss = Callable[[str, int], float]
"""Arm, seed -> held-out loss at the end."""


def data_of(kind: str, words: str = "one") -> dict:
    if kind == "text":
        counts = dict.fromkeys(("files", "train_bytes", "held_out_bytes", "held_out_files"), 5)
        return {"kind": "text", "name": "corpus", "sha256": words * 20, **counts}
    return {"kind": kind, "long_tail": {"mean": 5.0, "skewness": 1.0, "top_quarter_share": 0.5}}


def plant(folder: Path, name: str, settings: object, jobs: list[Job], loss: Loss, data: dict, changes: tuple = ()) -> Path:
    """Plan, configs and complete runs of 9 evaluations; the last three lie around the loss."""
    write_json(folder / name, to_dict(settings))
    for job in jobs:
        text = config_text(job.config)
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        write_text(job.folder / "config.toml", text)
        plant_run(job, loss(job.config.arm, job.config.seed), data)
    return folder


def plant_run(job: Job, end: float, data: dict) -> None:
    arm, seed = job.config.arm, job.config.seed
    losses = [3.0, 2.5, 2.0, 1.6, 1.3, 1.1, end + 0.1, end, end - 0.1]
    records = []
    for place, value in enumerate(losses):
        scores = {where: dict.fromkeys(STRATA, Score(1 - value / 4, value)) for where in ("train", "held-out")}
        records.append(EvaluationRecord(100 * place, place * (1 + NOISE[seed]), place * 2e11, 1, scores))
    lines = [json.dumps({"type": "evaluation", **to_dict(record)}) for record in records]
    write_text(job.folder / "metrics.jsonl", "\n".join(lines) + "\n")
    ceilings = {where: dict.fromkeys(STRATA, Score(0.9, 0.3)) for where in ("train", "held-out")}
    last = records[-1]
    summary = RunSummary(arm, seed, "h", 800, 8.0, 1.0, last.flops, 10, "w", 9, (), last.scores, ceilings, data, HERE)
    write_json(job.folder / "summary.json", to_dict(summary))


def base(arm: str, seed: int) -> float:
    return {"single": 0.9, "looped": 0.7}.get(arm, 0.8) + NOISE[seed]


def markov(folder: Path, loss: Loss = base, seeds: int = 5, arms: tuple = ("single", "looped"), changes: tuple = ()) -> Path:
    settings = plan("markov", "quick", arms, seeds, landscape=False)
    return plant(folder, "study.json", settings, jobs_of(settings, folder), loss, data_of("markov"), changes)


def told(first: Path, second: Path, out: Path) -> dict:
    page = compare(first, second, out, as_json=True)
    assert page == out / "compare.html"
    return json.loads((out / "compare.json").read_text())


def row(found: dict, arm: str, number: str) -> dict:
    return next(one for one in found["numbers"] if (one["arm"], one["number"]) == (arm, number))


def ends(cell: dict) -> list:
    return [cell["mean"], cell["low"], cell["high"]]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to be in; the figure has tests of its own and is not drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thalweg.report.compare.page.losses_drawn", lambda found, curves: None)
    return tmp_path


def higher(arm: str, seed: int) -> float:
    """Single as before, Looped 0.05 above with noise of its own."""
    return base(arm, seed) + (0.05 + 0.01 * (seed - 2) ** 2 if arm == "looped" else 0.0)


def test_paired_differences_are_the_t_intervals_of_the_seeds_differences(here) -> None:
    found = told(markov(here / "a"), markov(here / "b", higher), here / "out")
    one = row(found, "looped", "held-out loss (nats)")
    apart = [higher("looped", seed) - base("looped", seed) for seed in range(5)]
    low, high = stats.t.interval(0.95, 4, np.mean(apart), stats.sem(apart))
    assert ends(one["apart"]) == pytest.approx([np.mean(apart), low, high], rel=RELATIVE)
    first = [base("looped", seed) for seed in range(5)]
    assert one["first"]["mean"] == pytest.approx(np.mean(first))
    assert (one["paired"], one["differs"], one["apart"]["n"]) == (True, True, 5)
    assert not row(found, "single", "held-out loss (nats)")["differs"]


def test_another_language_is_not_paired_and_has_welchs_interval(here) -> None:
    other = markov(here / "b", higher, changes=(("source_seed = 3", "source_seed = 4"),))
    found = told(markov(here / "a"), other, here / "out")
    one = row(found, "looped", "held-out loss (nats)")
    sides = [[loss("looped", seed) for seed in range(5)] for loss in (higher, base)]
    ours = stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    assert ends(one["apart"])[1:] == pytest.approx([ours.low, ours.high], rel=RELATIVE)
    assert not one["paired"]
    assert [(one["key"], one["first"], one["second"], one["arms"]) for one in found["configs"]] == [("data.source_seed", 3, 4, [])]


def test_seeds_of_one_study_alone_are_named_and_left_out_of_the_pairs(here) -> None:
    found = told(markov(here / "a"), markov(here / "b", higher, seeds=3), here / "out")
    one = row(found, "looped", "held-out loss (nats)")
    apart = [higher("looped", seed) - base("looped", seed) for seed in range(3)]
    assert one["apart"]["mean"] == pytest.approx(np.mean(apart))
    assert (one["apart"]["n"], one["first"]["n"], one["second"]["n"]) == (3, 5, 3)
    assert found["seeds"] == [{"key": "seeds", "first": [3, 4], "second": [], "arms": []}]
    assert [one["key"] for one in found["plan"]] == ["seeds"]


def test_a_study_beside_itself_differs_in_nothing(here, capsys) -> None:
    folder = markov(here / "a")
    found = told(folder, folder, here / "out")
    assert found["numbers"]
    assert not any(one["differs"] for one in found["numbers"])
    assert {one["apart"]["mean"] for one in found["numbers"] if one["apart"]["n"]} == {0.0}
    assert found["plan"] == found["configs"] == found["software"] == found["seeds"] == []
    assert not any(one["changed"] for one in found["answers"])
    compare(folder, folder, here / "out")
    said = capsys.readouterr().out
    assert "0 keys of plan and configs differ" in said
    assert "Numbers that differ" not in said


def test_changes_of_all_arms_are_told_once_and_others_with_their_arms(here) -> None:
    first = markov(here / "a")
    second = markov(here / "b", changes=(("width = 24", "width = 32"),))
    for path in (second / "runs").glob("looped-*/config.toml"):
        path.write_text(path.read_text().replace("stages = [3]", "stages = [4]"))
    found = told(first, second, here / "out")
    assert [[one[k] for k in ("key", "first", "second", "arms")] for one in found["configs"]] == [
        ["model.width", 24, 32, []],
        ["shift.stages", [3], [4], ["looped"]],
    ]


def test_a_config_of_another_version_is_read_as_it_lies_there(here) -> None:
    first = markov(here / "a")
    second = markov(here / "b", changes=(("width = 24", "width = 24\nfuture = true"),))
    found = told(first, second, here / "out")
    assert [(one["key"], one["first"], one["second"]) for one in found["configs"]] == [("model.future", None, True)]


def test_arms_of_one_study_alone_are_named(here) -> None:
    found = told(markov(here / "a", arms=("single", "looped", "shift")), markov(here / "b"), here / "out")
    assert (found["first"]["arms_alone"], found["second"]["arms_alone"]) == (["shift"], [])
    assert found["arms"] == ["single", "looped"]
    assert {one["arm"] for one in found["numbers"]} == {"single", "looped"}


def test_a_partial_study_is_compared_as_far_as_it_is(here) -> None:
    first, second = markov(here / "a"), markov(here / "b", higher)
    for name in ("looped-seed1", "single-seed0"):
        shutil.rmtree(second / "runs" / name)
    found = told(first, second, here / "out")
    assert not found["second"]["complete"]
    assert len(found["second"]["missing"]) == 2
    assert {tuple(one["arms"]): (one["first"], one["second"]) for one in found["seeds"]} == {
        ("single",): ([0], []),
        ("looped",): ([1], []),
    }
    assert found["configs"] == []  # another seed's config is the same one
    assert row(found, "looped", "held-out loss (nats)")["apart"]["n"] == 4
    assert "B is not complete" in (here / "out" / "compare.html").read_text()


def test_an_arm_that_has_not_begun_has_no_config_to_compare(here) -> None:
    first, second = markov(here / "a", seeds=2), markov(here / "b", seeds=2, changes=(("width = 24", "width = 32"),))
    for seed in (0, 1):
        shutil.rmtree(second / "runs" / f"looped-seed{seed}")
    found = told(first, second, here / "out")
    assert [(one["key"], one["arms"]) for one in found["configs"]] == [("model.width", [])]
    assert {one["arm"] for one in found["numbers"]} == {"single"}


def test_what_some_runs_never_reach_has_no_difference(here) -> None:
    found = told(markov(here / "a"), markov(here / "b"), here / "out")
    never = row(found, "single", "time to Looped's quality (s)")
    assert (never["never"], never["apart"]["mean"], never["differs"]) == ([5, 5], None, False)
    assert row(found, "looped", "time to Looped's quality (s)")["never"] == [0, 0]


def test_verdicts_that_changed_come_first(here) -> None:
    def worse(arm: str, seed: int) -> float:
        return base("looped" if arm == "single" else "single", seed)

    found = told(markov(here / "a"), markov(here / "b", worse), here / "out")
    changed = [one["changed"] for one in found["answers"]]
    assert changed == sorted(changed, reverse=True)
    named = {one["claim"]: one for one in found["answers"]}
    one = named["looped ends with a lower held-out loss than single"]
    assert (one["first"]["verdict"], one["second"]["verdict"], one["changed"]) == ("supported", "contradicted", True)


def test_numbers_in_the_words_of_an_answer_are_no_change() -> None:
    first = [Verdict("a", "no: 0.60 of its time"), Verdict("b", "yes"), Verdict("c", "none"), Verdict("d", "1e-3")]
    second = [Verdict("b", "no"), Verdict("a", "no: 0.55 of its time"), Verdict("e", "yes"), Verdict("d", "-2.5")]
    found = [(one.claim, one.changed) for one in answers(first, second)]
    assert found == [("b", True), ("c", False), ("e", False), ("a", False), ("d", False)]


def test_what_one_study_did_not_measure_has_not_changed() -> None:
    first = [Verdict("a", "supported"), Verdict("b", "not measured"), Verdict("c", "not measured")]
    second = [Verdict("a", "supported"), Verdict("b", "supported"), Verdict("c", "not measured")]
    assert [(one.claim, one.changed) for one in answers(first, second)] == [("b", False), ("a", False), ("c", False)]


def test_the_set_up_of_runs_with_other_configs_is_not_told_in_this_versions_words(here) -> None:
    found = told(markov(here / "a", seeds=2), markov(here / "b", seeds=2, changes=(("width = 24", "width = 32"),)), here / "out")
    assert "width 24" in found["first"]["setup"]
    assert found["second"]["setup"].startswith("Made with other configs than this version of thalweg plans")
    same = told(sweep(here / "s"), sweep(here / "t"), here / "sweeps")
    other = told(tasks(here / "k", 0.5), tasks(here / "l", 0.5), here / "tasks")
    assert not any("Made with" in one[side]["setup"] for one in (same, other) for side in ("first", "second"))


def text(folder: Path, words: str, path: str) -> Path:
    settings = plan("text", "quick", ("single", "looped"), 2, path, landscape=False)
    return plant(folder, "study.json", settings, jobs_of(settings, folder), base, data_of("text", words))


def test_losses_of_text_are_drawn_in_bits(here, monkeypatch) -> None:
    drawn: list[dict] = []
    monkeypatch.setattr("thalweg.report.compare.page.losses_drawn", lambda found, curves: drawn.append(curves))
    told(text(here / "a", "one", ""), text(here / "b", "one", ""), here / "out")
    assert list(drawn[0]) == ["single", "looped"]
    ends = [run.evaluations[-2].scores["held-out"]["all"].loss for run in drawn[0]["looped"]["looped"][1]]
    assert ends == pytest.approx([base("looped", seed) / np.log(2) for seed in range(2)])


def test_text_is_paired_by_its_content_not_by_its_path(here) -> None:
    first = text(here / "a", "one", "/one")
    same = told(first, text(here / "b", "one", "/two"), here / "same")
    other = told(first, text(here / "c", "two", "/one"), here / "other")
    assert [one["paired"] for one in same["numbers"] if one["apart"]["n"]] == [True] * 12
    assert not any(one["paired"] for one in other["numbers"])
    assert same["unit"] == "bits per byte"
    assert row(same, "looped", "held-out bits per byte")["first"]["mean"] == pytest.approx(0.7025 / np.log(2))


def sweep(folder: Path, loss: Loss = base) -> Path:
    settings = sweep_of("markov", "quick", 3, (), seeds=2)
    return plant(folder, "sweep.json", settings, reference_jobs(settings, folder), loss, data_of("markov"))


def test_sweeps_are_compared_way_by_way_and_shares_as_ratios(here) -> None:
    def dearer(arm: str, seed: int) -> float:
        return base(arm, seed) - (0.15 + 0.01 * seed if arm == "shift" else 0.0)

    found = told(sweep(here / "a"), sweep(here / "b", dearer), here / "out")
    assert found["kind"] == "a sweep of markov"
    assert "shift-short" in found["arms"]
    one = row(found, "shift", "held-out loss minus Looped's (nats)")
    assert one["apart"]["mean"] == pytest.approx(-0.155)
    assert one["first"]["mean"] == pytest.approx(0.1)
    assert row(found, "shift", "share of Looped's operations")["never"] == [2, 0]
    looped = row(found, "looped", "share of Looped's operations")
    assert looped["ratio"]
    assert looped["apart"]["mean"] == 1.0
    assert not looped["differs"]


def tasks(folder: Path, right: float) -> Path:
    settings = plan_tasks("quick", ("parity",), ("single", "looped"), 2)
    jobs = list(task_jobs(settings, folder).values())
    plant(folder, "tasks.json", settings, jobs, lambda arm, seed: 0.5 + NOISE[seed], data_of("task"))
    for job in jobs:
        accuracy = right + 0.01 * job.config.seed**2
        lengths = [TaskLength(n, n, 100, accuracy / n, 0.5, 3.0, 0.5, (0.1,)) for n in (1, 2)]
        write_json(job.folder / "lengths.json", [to_dict(one) for one in lengths])
    return folder


def test_studies_of_tasks_are_compared_at_each_tested_length(here) -> None:
    found = told(tasks(here / "a", 0.5), tasks(here / "b", 0.7), here / "out")
    assert found["arms"] == ["parity, single", "parity, looped"]
    one = row(found, "parity, looped", "exact match at n = 2")
    assert (one["first"]["mean"], one["second"]["mean"]) == (pytest.approx(0.2525), pytest.approx(0.3525))
    assert one["apart"]["mean"] == pytest.approx(0.1)
    assert one["differs"]
    assert "exact match, trained lengths" in {one["number"] for one in found["numbers"]}


def test_studies_of_different_kinds_are_refused(here) -> None:
    kinds = [markov(here / "m", seeds=2), text(here / "t", "one", ""), sweep(here / "s"), tasks(here / "k", 0.5)]
    words = ["a study of markov", "a study of text", "a sweep of markov", "a study of algorithmic tasks"]
    for second, what in zip(kinds[1:], words[1:], strict=True):
        with pytest.raises(BadInputError, match=f"m is a study of markov, .* is {what}; expected two of the same kind") as refused:
            compare(kinds[0], second, here / "out")
        assert refused.value.exit_code == 2
    assert not (here / "out").exists()


def test_a_folder_that_is_no_study_is_refused_in_one_line(here) -> None:
    expected = r"study .*/none: there is no study\.json, sweep\.json, tasks\.json, frontier\.json or experiment\.json in it"
    with pytest.raises(FolderError, match=expected) as refused:
        compare(markov(here / "a", seeds=2), here / "none")
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_a_study_without_complete_runs_is_refused(here) -> None:
    empty = markov(here / "b", seeds=2)
    shutil.rmtree(empty / "runs")
    with pytest.raises(FolderError, match="none of its 4 runs is complete"):
        compare(markov(here / "a", seeds=2), empty)


def test_studies_of_the_same_name_are_told_apart_by_their_paths(here, capsys) -> None:
    page = compare(markov(here / "old" / "study"), markov(here / "new" / "study", higher))
    assert page == Path("compare-old-study-new-study/compare.html")
    said = capsys.readouterr().out
    assert "A: old/study," in said
    assert "B: new/study," in said
    assert "looped" in said[said.index("Numbers that differ") :]
    assert said.rstrip().endswith(f"page: {page}")


def test_another_comparisons_folder_is_refused_and_its_own_made_again(here) -> None:
    first, second = markov(here / "a", seeds=2), markov(here / "b", seeds=2)
    compare(first, second, here / "out")
    compare(first, second, here / "out")
    with pytest.raises(FolderError, match="holds another comparison; choose an empty or new --out"):
        compare(second, first, here / "out")
    with pytest.raises(FolderError, match="holds 'runs'; choose"):
        compare(first, second, first)


def test_with_json_the_record_alone_is_printed(here, capsys) -> None:
    compare(markov(here / "a", seeds=2), markov(here / "b", higher, seeds=2), here / "out", as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads((here / "out" / "compare.json").read_text())


def test_names_with_markup_are_printed_as_they_are(here, capsys) -> None:
    compare(markov(here / "[red]a", seeds=2), markov(here / "b", higher, seeds=2), here / "out")
    assert "A: [red]a," in capsys.readouterr().out


def test_a_share_of_the_users_own_may_be_zero() -> None:
    arms = [ComparedArm({}, {"share of wrong answers": dict(enumerate(values))}, {}) for values in ((0.0, 0.5), (0.5, 0.6))]
    (found,) = differences("deep", *arms)
    assert not found.ratio
