"""A study of tasks, small enough for seconds, and its outcomes and answers from planted records."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made import make_report, plan_in, run_task_study

from thalweg import cli
from thalweg.data.find_task import find_task
from thalweg.data.task_data import TaskData
from thalweg.data.tasks import TASKS
from thalweg.data.tasks.parity import Parity
from thalweg.errors import BadInputError, FolderError
from thalweg.experiments.registry import experiment_in
from thalweg.experiments.tasks import recipes as task_recipes
from thalweg.experiments.tasks.answers import task_verdicts
from thalweg.experiments.tasks.definition import task_setup
from thalweg.experiments.tasks.outcomes import task_outcome
from thalweg.experiments.tasks.recipes import ALL, ARMS, PRESETS, TaskPreset, plan_tasks, task_recipe, task_runs
from thalweg.records.run import EvaluationRecord, RunRecord, Score, SwitchRecord, TaskLength, Verdict
from thalweg.train.config import read_config

TINY = TaskPreset(1, ("single", "looped", "shift"), 24, 2, 8, 1, 8)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(task_recipes.PRESETS, "quick", TINY)
        yield


@pytest.fixture(scope="module")
def once(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "study"
    run_task_study(plan_tasks("quick", ("parity",)), folder, 2, as_json=False)
    return folder


@pytest.fixture
def made(once, tmp_path) -> Path:
    """A complete study that a test may spoil."""
    return Path(shutil.copytree(once, tmp_path / "study"))


@pytest.mark.slow
def test_a_study_ends_with_table_answers_figures_and_page(made, capsys):
    assert cli.call(["report", str(made)]) == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("parity", "looped", "n=2:", "report.html", "On which tasks does shift reach Looped's exact match")
    )
    assert "accuracy-over-length.svg" in {path.name for path in (made / "figures").iterdir()}
    assert cli.call(["report", str(made), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["arm"] for one in told["outcomes"]] == ["single", "looped", "shift"]
    assert told["outcomes"][1]["lengths"] == [1, 2, 3, 4]
    assert told["complete"]


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(made, capsys):
    whole = experiment_in(made).report(made)
    shutil.rmtree(made / "runs" / "parity-shift-seed0")
    partial = experiment_in(made).report(made)
    assert partial.missing == ("parity-shift-seed0",)
    run_task_study(plan_in(made), made, 1, as_json=False)
    assert "3 runs, 2 complete already" in capsys.readouterr().err
    again = experiment_in(made).report(made)
    assert [one.accuracy for one in again.outcomes] == [one.accuracy for one in whole.outcomes]


@pytest.mark.slow
def test_nothing_complete_and_a_folder_of_another_study_are_refused(made):
    with pytest.raises(FolderError, match="belongs to another study or other settings"):
        run_task_study(plan_tasks("quick", ("copy",)), made, 1, as_json=False)
    for path in (made / "runs").iterdir():
        (path / "summary.json").unlink()
    with pytest.raises(FolderError, match="none of its 3 runs is complete; run `thalweg study tasks` again"):
        make_report(made, False)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_arm_of_every_task_can_be_made_and_pairs_data_and_weights(preset):
    study = plan_tasks(preset, arms=ALL, seeds=1)
    runs = task_runs(study)
    assert len(runs) == len(study.tasks) * len(ALL)
    for (task, arm, _), run in runs.items():
        looped = runs[task, "looped", 0]
        assert run.model == looped.model
        share = 0.6 if arm.endswith("-short") else 1.0
        assert run.training.steps == round(share * looped.training.steps)
        assert replace(run.training, steps=1) == replace(looped.training, steps=1)
        assert run.optimizer == looped.optimizer
        own = {"shift": 0, "shift-short": 0, "looped-fast": looped.data.grow // 4, "looped-short": round(0.6 * looped.data.grow)}
        assert run.data.grow == own.get(arm, looped.data.grow)
        assert replace(run.data, format="full", loops="length", lengths="grow", grow=looped.data.grow) == looped.data
        assert run.shift.stages[-1] == (1 if arm in ("single", "next-token") else run.data.deepest)


def test_shift_trains_every_length_with_all_its_passes_and_has_seen_them_all_when_looped_has():
    for name in TASKS:
        recipe = task_recipe(name, PRESETS["paper"])
        run = ARMS["shift"](recipe)
        task, stages = find_task(name), run.shift.stages
        assert stages[-1] == recipe.loops
        data = TaskData(run.data, 0)
        longest = [data.config.longest_at(0, stage) for stage in stages]
        assert longest[-1] == recipe.data.longest
        assert longest == sorted(set(longest))
        assert all(task.loops(n) <= stage for n, stage in zip(longest, stages, strict=True))
        assert run.shift.criterion.most * (len(stages) - 1) <= recipe.data.grow


def test_a_task_may_have_amounts_of_its_own_and_the_page_says_so():
    preset = TaskPreset(1, ("looped",), 100, 4, 8, 1, 4, own={"copy": {"width": 16, "steps": 300}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(task_recipes.PRESETS, "quick", preset)
        study = plan_tasks("quick", ("parity", "copy"))
        runs = task_runs(study)
        amounts = [(runs[task, "looped", 0].model.width, runs[task, "looped", 0].training.steps) for task in study.tasks]
        assert amounts == [(8, 100), (16, 300)]
        assert runs["copy", "looped", 0].data.grow == 150
        recipes = {task: task_recipe(task, preset) for task in study.tasks}
        words = task_setup(study, recipes)["Training"]
        assert "100 updates of 4 samples" in words
        assert "; copy: width 16, at most 1 layers, 300 updates of 4 at rate 0.001" in words
        alone = plan_tasks("quick", ("copy",))
        assert "300 updates of 4 samples" in task_setup(alone, {"copy": recipes["copy"]})["Training"]
        assert "; copy" not in task_setup(alone, {"copy": recipes["copy"]})["Training"]


def test_what_is_smaller_than_in_the_source_is_said():
    def told(preset):
        study = plan_tasks(preset)
        return task_setup(study, {task: task_recipe(task, PRESETS[preset]) for task in study.tasks})

    assert "Shrunk against the source" not in told("source")
    words = told("gpu")["Shrunk against the source"]
    assert words.startswith("width 64 instead of 256, at most 3 layers instead of 4, 5000 updates at rate 0.0007 instead of 100000")
    assert "batches" not in words
    assert "; addition: width 64, at most 3 layers, 12000 updates" in told("paper")["Shrunk against the source"]
    assert "copy 2 layers of width 32, addition 3 layers of width 64" in told("paper")["Model"]


@pytest.mark.slow
def test_runs_that_were_planned_otherwise_are_told(made):
    assert "Made otherwise" not in experiment_in(made).report(made).setup
    path = made / "runs" / "parity-single-seed0" / "config.toml"
    path.write_text(path.read_text().replace("rate = 0.001", "rate = 0.002"))
    words = experiment_in(made).report(made).setup["Made otherwise"]
    assert words.startswith("1 of 3 complete runs have another config than this version plans")


def test_a_recipe_has_room_for_the_longest_training_length():
    recipe = task_recipe("multiplication", replace(TINY, longest=10))
    assert recipe.loops == 10  # 5 digits by 2
    assert recipe.base.model.vocabulary == 4
    assert recipe.data.tested_lengths == (1, 2, 4, 5, 6, 8, 9, 10)


class Wrong(Parity):
    """A task whose oracle is wrong."""

    def oracle(self, query, length):
        return [2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"preset": "papr"}, "unknown preset 'papr'.*paper"),
        ({"tasks": ("party",)}, "unknown task 'party'.*parity"),
        ({"tasks": ("nowhere:Task",)}, "task: given 'nowhere:Task', expected module:attribute that can be imported"),
        ({"tasks": (f"{__name__}:Wrong",)}, "task parity, length 1: the oracle disagrees with the answer of query"),
        ({"arms": ("lopped",)}, "unknown arm 'lopped'.*looped"),
        ({"seeds": -1}, "--seeds: given -1, expected a whole number of at least 1"),
    ],
)
def test_what_makes_no_study_is_refused_in_one_line(asked, message):
    with pytest.raises(BadInputError, match=message):
        plan_tasks(**({"preset": "quick"} | asked))


@pytest.mark.parametrize(("option", "message"), [(("--text", "x"), "--text: given 'x'"), (("--compile",), "--compile: given True")])
def test_what_a_study_of_tasks_does_not_know_is_refused(option, message, capsys, tmp_path):
    assert cli.call(["study", "tasks", "--out", str(tmp_path / "out"), *option]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_goes_with_the_study_of_tasks_alone(capsys):
    assert cli.call(["study", "markov", "--task", "parity"]) == 2
    assert "--task: given 'parity', expected to go with the study `tasks`" in capsys.readouterr().err


def planted(accuracies: list[float], seconds: float = 10.0) -> RunRecord:
    """Exact match at evaluations a tenth of the time apart."""
    last = len(accuracies) - 1
    records = [
        EvaluationRecord(100 * k, seconds * k / last, 1e9 * k, 1, {"held-out": {"all": Score(accuracy, 1 - accuracy)}})
        for k, accuracy in enumerate(accuracies)
    ]
    return RunRecord("r", tuple(records), (), None)


def measured(*accuracies: float, confident: float = 0.0) -> tuple[TaskLength, ...]:
    """Lengths 10, 20, ..."""
    return tuple(
        TaskLength(10 * (k + 1), 10 * (k + 1), 100, one, one - confident, 3.0, one, (0.0, one), one)
        for k, one in enumerate(accuracies)
    )


RISING = [k / 10 for k in range(11)]


def outcome(arm: str, runs: dict[int, RunRecord], lengths: dict, looped: dict[int, RunRecord]):
    return task_outcome("parity", arm, runs, lengths, looped)


def test_shares_are_of_loopeds_own_time_to_a_point_below_its_end():
    looped = {0: planted(RISING, 10.0)}  # smoothed: 0.9 at the end, 0.89 at 9.9 s
    twice = {0: planted(RISING, 5.0)}
    found = outcome("shift", twice, {0: measured(1.0)}, looped)
    assert found.share_seconds.value == pytest.approx(0.5)
    assert outcome("looped", looped, {0: measured(1.0)}, looped).share_seconds.value == pytest.approx(1.0)
    poor = {0: planted([0.4] * 11)}  # Looped itself has not learned it
    assert outcome("shift", twice, {0: measured(1.0)}, poor).share_seconds is None
    never = outcome("single", {0: planted([0.2] * 11, 4.0)}, {0: measured(0.1)}, looped)
    assert (never.share_seconds.value, never.share_seconds.censored) == (None, 1)


def test_tables_hold_a_row_for_each_length_and_a_number_for_each_seed():
    runs = {seed: planted(RISING) for seed in (0, 2)}
    found = outcome("looped", runs, {0: measured(1.0, 0.5), 2: measured(0.9, 0.4, confident=0.1)}, runs)
    assert found.accuracy == ((1.0, 0.9), (0.5, 0.4))
    assert found.confident == (pytest.approx((1.0, 0.8)), pytest.approx((0.5, 0.3)))
    assert found.by_loops["20"] == ((0.0, 0.0), (0.5, 0.4))
    assert (found.seeds, found.lengths, found.loops, found.samples) == ((0, 2), (10, 20), (10, 20), 100)


def answers_of(outcomes, arms: dict | None = None) -> dict[str, Verdict]:
    """Question -> answer, of one task trained to length 20."""
    return {one.claim: one for one in task_verdicts(outcomes, {"parity": arms or {}}, {"parity": 20})}


SOONER = "On which tasks does {} reach Looped's exact match in 70 % of its cost (geometric mean over seeds)?"
HALTING = "On which learned tasks is halting without knowing T(n) within 2 points of it at every tested length and seed?"
DROP = "Is the largest drop of {} at a switch at most 1 point (upper end of the interval) on every task?"


def test_answers_are_by_task_and_the_worst_seed_counts():
    looped = {seed: planted(RISING) for seed in range(3)}
    lengths = {seed: measured(1.0, 1.0, 0.96 - 0.02 * seed) for seed in range(3)}  # the third seed is at 0.92
    sure = {seed: measured(1.0, 1.0, 0.99, confident=0.01) for seed in range(3)}
    shift = {seed: planted(RISING, 6.0) for seed in range(3)}
    outcomes = [outcome("looped", looped, lengths, looped), outcome("shift", shift, lengths, looped)]
    found = answers_of(outcomes, {"looped": looped, "shift": shift})
    (first,) = [one for question, one in found.items() if question.startswith("On which tasks is every Looped seed")]
    assert first.verdict == "none"
    assert (
        found[HALTING].verdict == "each sample, most confident: parity; whole batch, most confident: parity; sharpest dip: parity"
    )
    assert found["Is shift on the trained lengths as good as Looped?"].verdict == "it is equal on parity"
    unsure = {seed: measured(1.0, 1.0, 0.96, confident=0.5) for seed in range(3)}
    halting = answers_of([*outcomes, outcome("random", looped, unsure, looped)])[HALTING]
    assert halting.numbers[
        "largest gap over lengths and seeds, each sample, most confident, parity (random)"
    ].mean == pytest.approx(0.5)
    assert halting.verdict.startswith("each sample, most confident: parity; whole batch, most confident: parity, parity (random);")
    better = answers_of([outcome("looped", looped, sure, looped), outcome("shift", shift, lengths, looped)])
    assert next(iter(better.values())).verdict == "parity"
    assert better["Is shift out of the trained range as good as Looped?"].verdict == "it is lower on parity"


@pytest.mark.parametrize(
    ("beyond", "verdict"),
    [
        ((0.80, 0.80, 0.80), "it is equal on parity"),
        ((0.85, 0.86, 0.87), "it is higher on parity"),
        ((0.795, 0.80, 0.80), "it is equal within 2 points on parity"),
        ((0.79, 0.79, 0.791), "it is equal within 2 points on parity"),
        ((0.81, 0.82, 0.84), "it is higher or at most 2 points lower on parity"),
        ((0.74, 0.75, 0.76), "it is lower on parity"),
        ((0.77, 0.83, 0.79), "undecided on parity"),
    ],
)
def test_as_good_as_looped_is_at_most_two_points_lower(beyond, verdict):
    looped = {seed: planted(RISING) for seed in range(3)}
    fixed = {seed: measured(1.0, 1.0, 0.80) for seed in range(3)}
    own = {seed: measured(1.0, 1.0, value) for seed, value in enumerate(beyond)}
    found = answers_of([outcome("looped", looped, fixed, looped), outcome("shift", looped, own, looped)])
    assert found["Is shift out of the trained range as good as Looped?"].verdict == verdict


def test_each_arm_is_asked_by_itself_what_it_costs():
    looped, shift = ({seed: planted(RISING, seconds) for seed in range(3)} for seconds in (10.0, 6.0))
    never = {seed: planted([0.2] * 11, 4.0) for seed in range(3)}
    lengths = {seed: measured(1.0, 1.0, 1.0) for seed in range(3)}
    runs = {"looped": looped, "shift": shift, "shift-short": never, "looped-fast": shift, "looped-short": shift}
    found = answers_of([outcome(arm, mine, lengths, looped) for arm, mine in runs.items()], runs)
    for arm in ("shift", "looped-fast", "looped-short"):
        assert found[SOONER.format(arm)].verdict == "by time: parity; by operations: none"
        assert found[SOONER.format(arm)].numbers["share of time, parity"].mean == pytest.approx(0.6)
    short = found[SOONER.format("shift-short")]
    assert short.verdict == "by time: none; by operations: none; not in every run: parity (3 of 3 did not)"
    lower = found["Is shift-short on the trained lengths as good as Looped?"]
    assert lower.verdict == "it is lower on parity"
    assert lower.numbers["exact match on trained lengths, shift-short - looped, parity"].mean == pytest.approx(-0.7)


def test_a_recipe_of_a_task_is_a_config_that_can_be_read(tmp_path, capsys):
    assert cli.call(["recipe", "parity", "--arm", "next-token"]) == 0
    (tmp_path / "run.toml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "run.toml").data.format == "next"
    assert cli.call(["recipe", "tasks"]) == 2
    assert "unknown recipe 'tasks'" in capsys.readouterr().err


def test_a_drop_is_answered_beside_what_looped_loses_there():
    accuracies = [0.1, 0.3, 0.5, 0.6, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8]  # falls by 20 points after 300 updates
    same = {"held-out": {"all": Score(0.6, 0.4)}}
    switch = SwitchRecord(250, 0.0, 0.0, 1, 6, "", same, same)
    shift = {seed: replace(planted(accuracies), switches=(switch,)) for seed in range(3)}
    shaking, steady = ({seed: planted(values) for seed in range(3)} for values in (accuracies, RISING))
    answers = (
        (shaking, "not on parity, but not shown to be more than Looped loses without a switch on parity"),
        (steady, "not on parity"),
        ({}, "not on parity"),
    )
    for looped, answer in answers:
        for arm in ("shift", "shift-hard"):  # whatever other arms there are
            made = [outcome(arm, shift, {seed: measured(1.0) for seed in range(3)}, looped)]
            found = answers_of(made, {arm: shift, "looped": looped})
            assert [one.verdict for question, one in found.items() if "drop" in question] == [answer]
            assert found[DROP.format(arm)].numbers["drop, parity (points)"].mean == pytest.approx(20.0)


def test_a_share_whose_interval_holds_1_is_told_as_such():
    looped = {seed: planted(RISING, 10.0) for seed in range(3)}
    uneven = {seed: planted(RISING, seconds) for seed, seconds in enumerate((3.0, 3.0, 15.0))}
    made = outcome("shift", uneven, {seed: measured(1.0) for seed in range(3)}, looped)
    assert made.share_seconds.value == pytest.approx((0.3 * 0.3 * 1.5) ** (1 / 3))
    told = "by time: none (undecided, as the interval holds 1: parity); by operations: none"
    assert answers_of([made])[SOONER.format("shift")].verdict == told


def test_halting_is_not_asked_of_a_task_that_was_not_learned():
    runs = {seed: planted([0.2] * 11) for seed in range(3)}
    made = outcome("looped", runs, {seed: measured(0.0, 0.0, 0.0) for seed in range(3)}, runs)
    assert HALTING not in answers_of([made])


def test_halting_is_not_asked_of_runs_that_were_told_a_part_of_t():
    """An earlier version tried up to 1.5 T(n) passes at each length; one seed of it is enough."""
    runs = {seed: planted(RISING) for seed in range(2)}
    now = tuple(replace(one, by_loops=(0.5,) * 45) for one in measured(1.0, 1.0, 1.0))
    then = tuple(replace(one, by_loops=(0.5,) * (15 * k)) for k, one in enumerate(now, 1))
    for second, asked in ((now, True), (then, False)):
        made = outcome("looped", runs, {0: now, 1: second}, runs)
        assert made.told_passes != asked
        assert (HALTING in answers_of([made])) == asked


def test_passes_are_shown_of_the_seeds_that_ended_in_the_last_stage():
    runs = {seed: planted(RISING) for seed in range(2)}
    one_pass = tuple(replace(one, loops=1, by_loops=(0.5,)) for one in measured(0.5, 0.5))
    found = outcome("shift-hard", runs, {0: measured(1.0, 0.9), 1: one_pass}, runs)
    assert (found.loops, found.by_loops["20"]) == ((10, 20), ((0.0,), (0.9,)))
    assert found.accuracy == ((1.0, 0.5), (0.9, 0.5))


class OnePass(Parity):
    """Of a user's own: the same passes at every length."""

    def loops(self, length):
        return 1


class Table(Parity):
    """Of a user's own: passes from a table that ends."""

    def loops(self, length):
        return {1: 1, 2: 2, 3: 3}[length]


class Falls(Parity):
    """Of a user's own: longer queries ask for less."""

    def loops(self, length):
        return max(1, 3 - length)


class Onepass(OnePass):
    """Another one whose folder would have the same name."""


def test_a_task_of_one_pass_can_be_studied_with_every_arm():
    runs = task_runs(plan_tasks("quick", (f"{__name__}:OnePass",), ALL))
    assert {run.shift.stages for run in runs.values()} == {(1,)}


def test_a_users_task_is_tried_at_every_length_of_the_study_before_anything_is_written(tmp_path, capsys):
    for tasks, message in (
        ("Table", "task parity, length 4: loops: failed with KeyError: 4"),
        ("Falls", "whose T(n) falls at length [2]: shift take a pass more for every length"),
        ("OnePass,Onepass", "expected names that differ in more than case and punctuation"),
    ):
        named = ",".join(f"{__name__}:{task}" for task in tasks.split(","))
        assert cli.call(["study", "tasks", "--task", named, "--out", str(tmp_path / "study")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "study").exists()


def test_an_arm_named_twice_is_made_once():
    assert plan_tasks("quick", ("parity", "parity"), ("looped", "looped")).arms == ("looped",)
