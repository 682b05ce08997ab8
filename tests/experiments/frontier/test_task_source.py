"""Algorithmic tasks on the frontier: what their runs cost, and what is said of exact matches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from thalweg.data.tasks import TASKS
from thalweg.errors import BadInputError
from thalweg.experiments.frontier.definition import FrontierStudy
from thalweg.experiments.frontier.plan import plan_frontier
from thalweg.experiments.frontier.source import GIGA, Setting
from thalweg.experiments.frontier.sources import source_of
from thalweg.experiments.frontier.task_answers import error_curves, exact_match_answers, match_beyond
from thalweg.records.run import TaskLength, read_run
from thalweg.storage import read_json
from thalweg.train.trainer import train

SETTING = Setting(3e-3, (0.0, 0.5))
PLAN = plan_frontier("parity", "quick")


@pytest.fixture(scope="module")
def frontier(tmp_path_factory):
    """A frontier of parity, a hundredth as long as the preset's, trained in this process."""
    arms = ("depth-10", "staged")
    plan = replace(PLAN, arms=arms, budgets=(5.0,), rates=(3e-3,), curricula=((0.0, 0.5),), seeds=(300, 301))
    folder = tmp_path_factory.mktemp("frontier")
    study = FrontierStudy(plan)
    for job in study.jobs(folder):
        train(replace(job.config, data=replace(job.config.data, tests=20)), job.folder)
    study.report(folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_every_arm_has_a_complete_schedule_and_the_same_lengths(task):
    plan = plan_frontier(task, "quick")
    for arm in plan.arms:
        run = source_of(task).run(plan, arm, plan.budgets[0], SETTING, 300)
        assert (run.arm, run.seed, run.optimizer.schedule, run.optimizer.decay_share) == (arm, 300, "wsd", 0.4)
        assert run.training.steps > 2 * run.optimizer.warmup
        assert run.data.grow == (0 if arm == "staged" else round(0.5 * run.training.steps))
        assert run.shift.stages[-1] == (1 if arm == "depth-1" else plan.loops)


def test_looped_costs_its_budget_within_a_tenth(frontier):
    runs = [read_run(frontier / "runs" / f"{arm}-5gf-seed300") for arm in ("depth-10", "staged")]
    looped, staged = (run.evaluations[-1].flops for run in runs)
    assert looped == pytest.approx(5 * GIGA, rel=0.1)
    assert staged < looped  # so few updates end before its lengths are grown


def test_the_page_tells_of_exact_matches_and_of_lengths_beyond(frontier):
    summary = read_json(frontier / "summary.json")
    claims = [verdict["claim"] for verdict in summary["verdicts"]]
    assert (
        "staged needs fewer operations than T(n) passes for the same share of wrong answers, at every budget but the cheapest"
        in claims
    )
    beyond = next(verdict for verdict in summary["verdicts"] if verdict["claim"].startswith("Beyond the trained lengths"))
    assert beyond["numbers"]["staged minus the other, paired"]["n"] == 2
    assert "samples of lengths 1 to 10" in summary["setup"]["Data"]


def test_wrong_answers_are_one_minus_the_exact_match_and_half_an_answer(frontier):
    run = read_run(frontier / "runs" / "staged-5gf-seed301")
    curve = error_curves({"staged": {5.0: {301: run}}}, samples=500)["staged"][301]
    exact = run.evaluations[-1].scores["held-out"]["all"].accuracy
    assert curve == [(run.evaluations[-1].flops, pytest.approx(1 - exact + 0.001))]


def curves(operations: float, error: float):
    """Three seeds, two budgets; the second with this error."""
    return {seed: [(operations, 0.5), (2 * operations, error * (1 + seed / 100))] for seed in range(3)}


@pytest.mark.parametrize(
    ("gap", "verdict"), [((0.0, 0.01, 0.0), "supported"), ((-0.3, -0.28, -0.32), "contradicted"), ((-0.3, 0.3, 0), "undecided")]
)
def test_matches_beyond_are_compared_seed_by_seed(gap, verdict):
    plan = replace(PLAN, budgets=(1.0, 2.0))
    beyond = {"depth-10": {0: 0.5, 1: 0.7, 2: 0.6}, "staged": {0: 0.5 + gap[0], 1: 0.7 + gap[1], 2: 0.6 + gap[2]}}
    made = exact_match_answers({"depth-10": curves(1e9, 0.2), "staged": curves(5e8, 0.2)}, beyond, plan)
    assert [made[0].verdict, made[1].verdict] == ["supported", verdict]
    name = "share of the rival's 2 GFLOP needed for its share of wrong answers"
    assert made[0].numbers[name].mean == pytest.approx(0.5)


def test_the_match_beyond_is_the_mean_over_longer_lengths():
    tested = [
        TaskLength(length, length, 9, accuracy, 0, 0, 0, ()) for length, accuracy in ((5, 1.0), (10, 0.9), (15, 0.6), (20, 0.2))
    ]
    assert match_beyond(tested, 10) == pytest.approx(0.4)
    assert match_beyond(tested[:2], 10) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budgets": (0.5, 160)}, r"budget: given 0.5 GFLOP, which pay for \d+ updates of arm 'depth-1'; expected at least 40"),
        ({"loops": 4}, "--loops: given 4, expected 10, the passes that the longest length of 'parity' needs"),
        ({"preset": "paper"}, "unknown preset 'paper'; known: quick"),
        ({"arms": ("shift",)}, "unknown arm 'shift'"),
    ],
)
def test_what_a_task_has_not_is_refused(arguments, message):
    with pytest.raises(BadInputError, match=message.replace("(", r"\(")):
        FrontierStudy(plan_frontier(**{"source": "parity", "preset": "quick"} | arguments)).check()


OWN = """
class Largest:
    name, symbols = "largest", 10
    def query(self, length, count, rng):
        return rng.integers(10, size=(count, length))
    def answer(self, query, length):
        return query.max(1, keepdims=True)
    def oracle(self, query, length):
        return [sorted(query)[-1]]
    def slots(self, length):
        return 1
    def loops(self, length):
        return length
class Flat(Largest):
    def loops(self, length):
        return 1
"""


def test_a_task_of_ones_own_has_a_frontier(tmp_path, monkeypatch):
    (tmp_path / "largest_of_n.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    plan = plan_frontier("largest_of_n:Largest", "quick")
    assert plan.arms == ("depth-1", f"depth-{plan.loops}", "staged")
    run = FrontierStudy(plan).source.run(plan, "staged", plan.budgets[0], SETTING, 300)
    assert run.data.task == "largest_of_n:Largest"
    with pytest.raises(BadInputError, match=r"loops\(length\): given 1, expected at least 2"):
        plan_frontier("largest_of_n:Flat", "quick")
    with pytest.raises(BadInputError, match="expected module:attribute that can be imported"):
        plan_frontier("largest_of_n:Smallest", "quick")


def test_a_task_that_contradicts_itself_is_refused_before_any_run(tmp_path, monkeypatch):
    wrong = "class Wrong(Largest):\n    def oracle(self, query, length):\n        return [min(query)]\n"
    (tmp_path / "wrong_of_n.py").write_text(OWN + wrong)
    monkeypatch.chdir(tmp_path)
    study = FrontierStudy(plan_frontier("wrong_of_n:Wrong", "quick"))
    with pytest.raises(BadInputError, match="the oracle disagrees with the answer"):
        study.check()


@pytest.mark.parametrize(("task", "most"), [("parity", 170), ("addition", 1300)])
def test_the_largest_budget_is_what_looped_costs_in_the_study_of_tasks(task, most):
    assert plan_frontier(task, "quick").budgets == (most / 4, most / 2, most)


def test_without_a_common_seed_nothing_is_said_beyond_the_trained_lengths():
    by_seed = {"staged": {0: [(1e9, 0.5), (2e9, 0.2)]}, "depth-10": {1: [(1e9, 0.5), (2e9, 0.2)]}}
    found = exact_match_answers(by_seed, {"staged": {0: 0.5}, "depth-10": {1: 0.4}}, replace(PLAN, budgets=(1.0, 2.0)))
    assert [verdict.verdict.startswith("undecided") for verdict in found] == [True]
    assert len(exact_match_answers({"staged": by_seed["staged"]}, {"staged": {0: 0.5}}, PLAN)) == 1
