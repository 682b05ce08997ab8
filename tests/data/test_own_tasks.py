"""A task of the user's own: a function of what it is given, and imported where its data are made and nowhere before."""

import itertools
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from thalweg import cli
from thalweg.data.find_task import Guarded, check_task, checked_task, find_task
from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.data.tasks.copy import Copy
from thalweg.data.tasks.parity import Parity
from thalweg.errors import BadInputError
from thalweg.experiments.engine import make
from thalweg.experiments.registry import experiment_in
from thalweg.experiments.tasks import recipes as task_recipes
from thalweg.experiments.tasks.definition import TaskStudy, facts_in, task_jobs
from thalweg.experiments.tasks.recipes import ALL, TaskPreset, plan_tasks, remembered, task_recipe, task_runs
from thalweg.models.config import ModelConfig
from thalweg.shift.criterion import AtStep
from thalweg.train.assemble import make_data
from thalweg.train.config import RunConfig, ShiftConfig, TrainingConfig, config_text, read_config
from thalweg.train.trainer import train

CALLS = itertools.count()


class Mine(Copy):
    """Right in everything; others differ from it in one member."""

    name = "mine"


class GlobalOfNumpy(Mine):
    def query(self, length, count, rng):
        return np.random.randint(0, 2, size=(count, length))  # noqa: NPY002


class GlobalOfPython(Mine):
    def query(self, length, count, rng):
        return np.array([[random.randrange(2) for _ in range(length)] for _ in range(count)])


class ALittleGlobal(Mine):
    """Draws from the generator, and then changes one token in a hundred by another."""

    def query(self, length, count, rng):
        return super().query(length, count, rng) ^ (np.random.random((count, length)) < 0.01)  # noqa: NPY002


class Counter(Mine):
    def query(self, length, count, rng):
        return (super().query(length, count, rng) + next(CALLS)) % 2


class Clock(Mine):
    def query(self, length, count, rng):
        return np.random.default_rng(time.time_ns()).integers(2, size=(count, length))


class Entropy(Mine):
    def query(self, length, count, rng):
        return np.random.default_rng().integers(2, size=(count, length))


class GeneratorOfItsOwn(Mine):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def query(self, length, count, rng):
        return self.rng.integers(2, size=(count, length))


@pytest.mark.parametrize(
    "task",
    [GlobalOfNumpy, GlobalOfPython, ALittleGlobal, Counter, Clock, Entropy, GeneratorOfItsOwn],
    ids=lambda task: task.__name__,
)
def test_a_task_that_ignores_its_generator_is_refused_by_the_check_and_by_the_data(task):
    message = r"task mine, length \d+: query gives other samples for the same rng; expected a function"
    with pytest.raises(BadInputError, match=message):
        check_task(task())
    with pytest.raises(BadInputError, match=message):
        TaskData(TaskConfig(f"{__name__}:{task.__name__}", longest=4), seed=0)


class FixedSeed(Mine):
    def query(self, length, count, rng):
        return np.random.default_rng(3).integers(2, size=(count, length))


class Remembers(Mine):
    """Draws once for each length and number."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def query(self, length, count, rng):
        if (length, count) not in self.known:
            self.known[length, count] = super().query(length, count, rng)
        return self.known[length, count]


@pytest.mark.parametrize("task", [FixedSeed, Remembers], ids=lambda task: task.__name__)
def test_a_task_that_draws_the_same_for_every_generator_is_refused(task):
    with pytest.raises(BadInputError, match="task mine: query gives the same samples for every rng; draw from the rng that"):
        check_task(task())


class OneQuery(Mine):
    """There is one query of each length: nothing to draw."""

    symbols = 1


class SeedsAnother(Mine):
    """Hands its generator's numbers on, which is as good as drawing from it."""

    def query(self, length, count, rng):
        return np.random.default_rng(rng.integers(2**63)).integers(2, size=(count, length))


class Spawns(Mine):
    def query(self, length, count, rng):
        return rng.spawn(1)[0].integers(2, size=(count, length))


def test_a_class_in_place_of_an_object_is_refused_in_one_line():
    with pytest.raises(BadInputError, match=r"^task: given the class Mine, expected an object of it: Mine\(\)$"):
        check_task(Mine)


@pytest.mark.parametrize("task", [OneQuery(symbols=1), SeedsAnother(), Parity()], ids=lambda task: type(task).__name__)
@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_task_that_is_a_function_of_its_generator_is_taken(task, count):
    for seed in range(20):
        check_task(task, lengths=(1, 2), count=count, seed=seed)


def test_a_generator_may_have_children():
    check_task(Spawns())


class RandomAnswer(Mine):
    def answer(self, query, length):
        return super().answer(query, length) ^ np.random.randint(0, 2, size=query.shape)  # noqa: NPY002


class AnswerBesideOthers(Mine):
    def answer(self, query, length):
        return super().answer(query, length) ^ (len(query) > 1)

    def oracle(self, query, length):
        return [1 - token for token in query]


class OtherSlots(Mine):
    def slots(self, length):
        return length + next(CALLS)


class OtherLoops(Mine):
    def loops(self, length):
        return length + next(CALLS)


class OtherOracle(Mine):
    calls = 0

    def oracle(self, query, length):
        self.calls += 1
        return list(query) if self.calls % 2 else [*query[:-1], 1 - query[-1]]


class OtherSymbols(Mine):
    @property
    def symbols(self):
        return 2 + next(CALLS)

    @symbols.setter
    def symbols(self, value):
        pass

    def query(self, length, count, rng):
        return rng.integers(2, size=(count, length))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (RandomAnswer, "length 1: answer gives other answers to the same query; expected a function of its arguments"),
        (AnswerBesideOthers, "length 1: answer gives another answer to a query alone than beside others; expected a function"),
        (OtherSlots, r"length 1: slots gives \d+ and \d+ for the same length; expected a function|as slots says"),
        (OtherLoops, r"length 1: loops gives \d+ and \d+ for the same length; expected a function of its arguments"),
        (OtherOracle, "length 1: oracle gives other answers to the same query; expected a function of its arguments"),
        (OtherSymbols, r"task mine: symbols: given \d+, expected the same number as before"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_any_member_that_is_no_function_of_its_arguments_is_refused(task, message):
    with pytest.raises(BadInputError, match=message):
        check_task(task())


class Later(Mine):
    """Right at first."""

    asked = 0

    def query(self, length, count, rng):
        self.asked += 1
        return (super().query(length, count, rng) + (next(CALLS) if self.asked > 20 else 0)) % 2


def drawn_often(task):
    for seed in range(64):
        task.query(3, 5, np.random.default_rng(seed))


def test_a_task_that_ceases_to_follow_its_generator_is_refused_when_it_is_asked_again():
    with pytest.raises(BadInputError, match="task mine, length 3: query gives other samples for the same rng"):
        drawn_often(Guarded(Later()))


def test_asking_twice_leaves_the_generator_as_asking_once():
    mine, own = np.random.default_rng(1), np.random.default_rng(1)
    for length in range(1, 9):
        assert np.array_equal(Guarded(Mine()).query(length, 5, mine), Mine().query(length, 5, own))


class ByChance(Mine):
    """Every object has symbols in an order of its own."""

    def __init__(self):
        super().__init__()
        self.flip = next(CALLS) % 2

    def query(self, length, count, rng):
        return super().query(length, count, rng) ^ self.flip


def test_a_class_whose_objects_differ_is_refused():
    with pytest.raises(BadInputError, match=r"task mine, length 1: two objects of .*:ByChance differ; expected a class without"):
        checked_task(f"{__name__}:ByChance", (1, 2))


MODULE = '''
from thalweg.data.tasks.copy import Copy

(__import__("pathlib").Path(__file__).parent / "was-imported").touch()


class Task(Copy):
    """Twice as many passes as digits."""

    name = "mine"

    def loops(self, length):
        return 2 * length
'''
NAME = "thalweg_task_that_goes"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder with the module of a task that says where it is imported."""
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def imported(folder):
    return (folder / "was-imported").exists()


def run_of(**model):
    return RunConfig(
        data=TaskConfig(f"{NAME}:Task", longest=4, samples=2, tests=2),
        model=ModelConfig(**({"vocabulary": 3, "width": 4, "positions": "none"} | model)),
        shift=ShiftConfig((1, 8), AtStep(1)),
        training=TrainingConfig(steps=2, batch=4, evaluate_every=2, device="cpu", threads=1),
    )


def test_a_config_of_a_users_task_is_made_written_and_read_without_its_module(module):
    config = run_of()
    (module / "run.toml").write_text(config_text(config))
    assert read_config(module / "run.toml") == config
    assert not imported(module)
    (module / f"{NAME}.py").unlink()
    assert read_config(module / "run.toml", ["training.steps=3"]).training.steps == 3


def test_the_module_is_imported_when_the_data_are_made(module):
    assert make_data(run_of()).deepest == 8
    assert imported(module)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"vocabulary": 9}, "model.vocabulary: given 9, expected the data's 3 tokens"),
        ({"positions": "learned", "length": 4}, "data.tested: given 8, expected lengths of at most 4 positions"),
        ({"learned_gains": 8}, "model.learned_gains: given 8, expected 0, or at least the 24 passes that are tried"),
    ],
    ids=str,
)
def test_a_model_that_does_not_fit_a_users_task_is_refused_before_anything_is_written(module, model, message):
    with pytest.raises(BadInputError, match=message):
        train(run_of(**model), module / "run")
    assert not (module / "run").exists()


def test_a_run_of_a_task_that_is_gone_is_refused_in_one_line(module):
    (module / f"{NAME}.py").unlink()
    with pytest.raises(BadInputError, match=f"task: given '{NAME}:Task', expected module:attribute that can be imported"):
        train(run_of(), module / "run")


def test_a_complete_run_of_a_task_that_is_gone_is_read(module):
    done = train(run_of(), module / "run")
    (module / f"{NAME}.py").unlink()
    sys.modules.pop(NAME)
    assert train(run_of(), module / "run") == done


def test_a_file_in_place_of_a_module_leads_to_the_module(module):
    with pytest.raises(BadInputError, match=rf"task: given '{NAME}.py:Task', expected .*; give {NAME}:Task"):
        find_task(f"{NAME}.py:Task")


@pytest.mark.parametrize("name", [":", ":Task", "module:", "a..b:Task", " :x", "a\nb:Task"])
def test_a_name_that_no_task_can_have_is_refused_with_the_config(name):
    with pytest.raises(BadInputError, match=r"task: given .*, expected module:attribute that can be imported") as caught:
        TaskConfig(name)
    assert "\n" not in str(caught.value)


def test_a_message_of_a_users_task_is_shown_inert(module):
    (module / f"{NAME}.py").write_text("raise RuntimeError('\\x1b[31mred\\nline')")
    with pytest.raises(BadInputError, match="can be imported") as caught:
        TaskData(TaskConfig(f"{NAME}:Task"), 0)
    assert str(caught.value).isprintable()


TINY = TaskPreset(1, ("single", "looped", "shift"), 24, 2, 8, 1, 8)


@pytest.mark.parametrize("arms", [ALL, ("shift",), ("looped",), ("random",), ("single",)], ids="-".join)
def test_what_runs_remember_of_a_task_makes_the_same_plan(module, monkeypatch, arms):
    monkeypatch.setitem(task_recipes.PRESETS, "quick", TaskPreset(2, arms, 24, 9, 8, 1, 8))
    study = plan_tasks("quick", (f"{NAME}:Task",))
    runs = task_runs(study)
    facts = remembered({arm: config for (_, arm, _), config in runs.items()})
    (module / f"{NAME}.py").unlink()
    sys.modules.pop(NAME)
    assert task_runs(study, {f"{NAME}:Task": facts}) == runs
    if "shift" in arms:
        (module / f"{NAME}.py").write_text(MODULE)
        preset = task_recipes.PRESETS["quick"]
        assert task_recipe(f"{NAME}:Task", preset, facts=facts) == task_recipe(f"{NAME}:Task", preset)


@pytest.mark.slow
def test_a_report_of_a_task_that_is_gone_is_made_as_before(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(task_recipes.PRESETS, "quick", TINY)
    monkeypatch.setenv("PYTHONPATH", str(module), prepend=":")
    study, folder = plan_tasks("quick", (f"{NAME}:Task",)), tmp_path / "study"
    make(TaskStudy(study), folder, 2, as_json=False)
    before = TaskStudy(study).report(folder)
    Path(module / f"{NAME}.py").unlink()
    sys.modules.pop(NAME)
    capsys.readouterr()
    assert cli.call(["report", str(folder)]) == 0
    assert experiment_in(folder).report(folder) == before
    assert NAME not in sys.modules
    shutil.rmtree(folder / "runs" / f"{NAME.replace('_', '-')}-task-single-seed0", ignore_errors=True)
    assert len(task_jobs(study, folder, facts_in(study, folder))) == 3
