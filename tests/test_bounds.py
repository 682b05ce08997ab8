import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated

import numpy as np
import pytest

import thalweg
from thalweg.bounds import Bound, Number, Whole, bound_in, bounds_of, check, named_arguments, of_their_kind
from thalweg.data.markov_data import MarkovConfig
from thalweg.data.task_data import TaskConfig
from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError, UnknownArgumentError
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import LandscapePlan
from thalweg.shift.criterion import AtFraction, AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Handover, Ramp
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig, TrainingConfig

CONFIGS = (
    RunConfig,
    MarkovConfig,
    TextConfig,
    TaskConfig,
    ModelConfig,
    OptimizerConfig,
    ShiftConfig,
    TrainingConfig,
    LandscapePlan,
    Plateau,
    AtStep,
    AtFraction,
    LossBelow,
    Ramp,
    Handover,
    SafetyNet,
)
NUMBERS = [
    (cls, name, bound_in(hint))
    for cls in CONFIGS
    for name, hint in bounds_of(cls).items()
    if bound_in(hint) or hint in (int, float)
]
OUTSIDE = [math.nan, math.inf, -math.inf, 1e308, -1e308, 2**63, 10**30, -(10**30), True, "1", None]


@dataclass(frozen=True)
class Section:
    count: Annotated[int, Whole(2, 2000)] = 5
    part: Annotated[float, Number(0, 1, "a share above 0, at most 1", open_below=True)] = 0.5
    several: tuple[Annotated[int, Whole(1, 9, "digits")], ...] = ()
    spare: Annotated[int, Whole(1, 9)] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        check(self, "section.")


@pytest.mark.parametrize(("cls", "name", "bound"), NUMBERS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_every_number_of_a_config_has_a_bound(cls: type, name: str, bound: Bound | None) -> None:
    assert isinstance(bound, Bound)


@pytest.mark.parametrize("value", OUTSIDE, ids=repr)
@pytest.mark.parametrize(("cls", "name", "bound"), NUMBERS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_no_number_of_a_config_is_beyond_all_bounds(cls: type, name: str, bound: Bound, value: object) -> None:
    several = next(f for f in fields(cls) if f.name == name).default.__class__ is tuple
    given = (value,) if several else value
    with pytest.raises(BadInputError, match=rf"{name}(\[\d\])?: given .*, expected "):
        cls(**{name: given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1}, r"section\.count: given 1, expected a whole number of at least 2"),
        ({"count": 2001}, r"section\.count: given 2001, expected a whole number of at most 2,000"),
        ({"count": 3.0}, r"section\.count: given 3\.0, expected a whole number"),
        ({"part": 0.0}, r"section\.part: given 0\.0, expected a share above 0, at most 1"),
        ({"part": 1.5}, r"section\.part: given 1\.5, expected a share above 0, at most 1"),
        ({"part": math.nan}, r"section\.part: given nan, expected a share above 0, at most 1"),
        ({"part": 1e-320}, r"section\.part: given 1e-320, expected a number above 0, at most 1, no smaller beside 0 than 1e-30"),
        ({"several": (3, 10)}, r"section\.several: given \(3, 10\), expected a whole number of at most 9"),
        ({"several": (0,)}, r"section\.several: given \(0,\), expected digits"),
        ({"spare": 0}, r"section\.spare: given 0, expected a whole number of at least 1"),
        ({"name": "\udcff"}, r"section\.name: given '\\udcff', expected text that can be written as UTF-8"),
    ],
    ids=str,
)
def test_a_value_out_of_its_bound_is_refused_with_its_place(given: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Section(**given)


def test_the_ends_of_a_bound_are_in_it() -> None:
    assert Section(count=2, part=1, several=(1, 9)).count == Section(count=2000).count - 1998


def test_a_bound_says_its_range() -> None:
    told = [bound.range for hint in bounds_of(Section).values() if (bound := bound_in(hint))]
    assert told == ["from 2 to 2,000", "above 0, at most 1", "from 1 to 9", "from 1 to 9"]


@of_their_kind
def rolled(sides: int, times: int | None = 1, weight: float = 1.0, name: str = "die") -> tuple[object, ...]:
    return sides, times, weight, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sides": "6"}, "^sides: given '6', expected a whole number$"),
        ({"sides": 2.5}, r"^sides: given 2\.5, expected a whole number$"),
        ({"sides": True}, "^sides: given True, expected a whole number$"),
        ({"sides": None}, "^sides: given None, expected a whole number$"),
        ({"sides": 6, "times": "x"}, "^times: given 'x', expected a whole number, or None$"),
        ({"sides": 6, "weight": "heavy"}, "^weight: given 'heavy', expected a number$"),
    ],
)
def test_a_function_refuses_what_is_no_number_where_it_takes_one(arguments: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        rolled(**arguments)


def test_a_function_takes_numbers_of_every_library_and_none_where_it_says_so() -> None:
    assert rolled(np.int64(6), None, 3, "coin") == (6, None, 3, "coin")
    assert rolled(6, weight=np.float32(0.5)) == (6, 1, 0.5, "die")


CALLED = [name for name in thalweg.__all__ if name not in {"BadInputError", "ThalwegError", "Experiment", "Task", "alone"}]


@pytest.mark.parametrize("name", CALLED)
def test_every_public_name_says_which_arguments_it_has(name: str) -> None:
    with pytest.raises(TypeError, match=r"^unknown argument of \w+ 'no_such_thing'; known: ") as caught:
        getattr(thalweg, name)(no_such_thing=1)
    assert isinstance(caught.value, BadInputError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: thalweg.ModelConfig(d_model=4), "unknown argument of ModelConfig 'd_model'; did you mean 'width'"),
        (lambda: thalweg.Shift(n_loops=4), "unknown argument of Shift 'n_loops'; did you mean 'loops'"),
        (lambda: thalweg.Plateau(patiense=4), "unknown argument of Plateau 'patiense'; did you mean 'patience'"),
        (lambda: thalweg.trace(None, num_samples=4), "unknown argument of trace 'num_samples'; did you mean 'probes'"),
        (
            lambda: thalweg.LandscapeProbe().measure(dataloader=[]),
            r"unknown argument of .*measure 'dataloader'; did you mean 'batches'",
        ),
        (lambda: replace(thalweg.ModelConfig(), n_heads=2), "unknown argument of ModelConfig 'n_heads'; did you mean 'heads'"),
    ],
)
def test_an_argument_by_another_s_name_leads_to_ours(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownArgumentError, match=message):
        call()


def test_what_takes_any_argument_and_what_is_given_by_place_is_left_alone() -> None:
    @named_arguments
    def kept(first: int, /, second: int = 0, **others: int) -> tuple[int, int, dict[str, int]]:
        return first, second, others

    assert kept(1, 2, third=3) == (1, 2, {"third": 3})
    assert inspect.signature(thalweg.ModelConfig).parameters["width"].default == thalweg.ModelConfig().width
