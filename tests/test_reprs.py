"""Every public object says in one short line what it is: its kind, its size, and what it is made of."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.curvature.operator import FromFunction, as_operator
from thalweg.data.find_task import Guarded
from thalweg.data.markov_data import MarkovConfig, MarkovData
from thalweg.data.pointers import PointersConfig, PointersData
from thalweg.data.tasks import TASKS
from thalweg.data.text import TextConfig, TextData
from thalweg.landscape.slices import Slices
from thalweg.landscape.split import parts
from thalweg.reprs import brief
from thalweg.theory.quadratic import Quadratic
from thalweg.train.config import OptimizerConfig, TrainingConfig

LONGEST = 700
"""Characters of the longest repr; a net of several stages has the longest one."""


def loss(model: Any, batch: Any) -> torch.Tensor:
    return model(batch).square().mean()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def hessian() -> tw.Hessian:
    return tw.Hessian(loss, linear(), [torch.eye(3)])


def measured() -> tw.LandscapeProbe:
    probe = tw.LandscapeProbe(top=1, forms=0)
    probe.measure(loss, linear(), [torch.eye(3)], step=7)
    return probe


def text(folder: Path) -> TextData:
    (folder / "a.txt").write_text("the river runs down the valley\n" * 40)
    return TextData(TextConfig(path=str(folder), length=9, windows=2), seed=0)


class Widths(tw.Experiment):
    """Two widths."""

    def arms(self) -> dict[str, tw.RunConfig]:
        return {"narrow": tw.RunConfig(), "wide": tw.RunConfig()}


def classes() -> dict[str, Callable[[], Any]]:
    """Public class -> how one of it is made."""
    fisher = lambda model, batch: (model(batch).square().sum(1), batch)  # noqa: E731
    return {
        "AtFraction": lambda: tw.AtFraction(0.2, 100),
        "AtStep": lambda: tw.AtStep(3),
        "EmpiricalFisher": lambda: tw.EmpiricalFisher(lambda model, batch: fisher(model, batch)[0], linear(), [torch.eye(3)]),
        "Experiment": Widths,
        "GaussNewton": lambda: tw.GaussNewton(lambda model, x: (model(x), torch.tensor([0, 1, 0])), linear(), [torch.eye(3)]),
        "Handover": tw.Handover,
        "Hard": tw.Hard,
        "Hessian": hessian,
        "LandscapeProbe": measured,
        "LayerProbe": tw.LayerProbe,
        "LoopedTransformer": lambda: tw.LoopedTransformer(tw.ModelConfig(width=4)),
        "LossBelow": tw.LossBelow,
        "LowPrecision": lambda: tw.LowPrecision(hessian()),
        "MarkovLanguage": lambda: tw.MarkovLanguage(8, order=1),
        "ModelConfig": tw.ModelConfig,
        "Plateau": tw.Plateau,
        "Ramp": tw.Ramp,
        "Refine": tw.Refine,
        "RunConfig": tw.RunConfig,
        "SafetyNet": tw.SafetyNet,
        "Shift": lambda: tw.Shift(loops=3),
        "TaskConfig": tw.TaskConfig,
        "TaskData": lambda: tw.TaskData(tw.TaskConfig(longest=3), seed=0),
        "Verdict": lambda: tw.Verdict("a claim", "supported", "a test", "paper"),
    }


RESULTS: dict[str, Callable[[], Any]] = {
    "check_task": lambda: Guarded(TASKS["parity"]),
    "cost": lambda: tw.cost(tw.ModelConfig(), 2, 11),
    "dense_hessian": lambda: tw.dense_hessian(loss, linear(), [torch.eye(3)]),
    "diagonal": lambda: tw.diagonal(hessian()),
    "eigenpairs": lambda: tw.eigenpairs(hessian(), k=2),
    "plan": lambda: tw.Shift.plan(1000.0, loops=5, price=float),
    "solve": lambda: tw.solve(hessian() + 1.0, torch.ones(8)),
    "spectral_density": lambda: tw.spectral_density(hessian()),
    "trace": lambda: tw.trace(hessian()),
    "spectrum": lambda: measured().spectrum,
    "layout": lambda: hessian().layout,
    "slices": lambda: Slices(loss, linear(), [torch.eye(3)]),
    "parts": lambda: parts(torch.linspace(-1, 1, 40), 0.1),
    "quadratic": lambda: Quadratic(*(torch.eye(12) for _ in range(3)), torch.ones(12), torch.ones(12)),
    "scaled": lambda: 2.0 * hessian(),
    "shifted": lambda: hessian() + 1.0,
    "deflated": lambda: hessian().deflate(torch.ones(1), torch.ones(8, 1)),
    "restricted": lambda: hessian()["weight"],
    "sum": lambda: hessian() - hessian(),
    "matrix": lambda: as_operator(torch.eye(3)),
    "foreign": lambda: as_operator(np.eye(3)),
    "function": lambda: FromFunction(lambda v: v, dim=3),
    "markov data": lambda: MarkovData(MarkovConfig(sequences=32, held_out=16), seed=0),
    "pointers data": lambda: PointersData(PointersConfig(samples=4), seed=0),
    "samples": lambda: tw.TaskData(tw.TaskConfig(longest=3), seed=0).at(length=3, count=9),
    "training": TrainingConfig,
    "optimizer": OptimizerConfig,
}
NO_OBJECTS = {"BadInputError", "ThalwegError", "Task"}
"""Public classes of which no object is printed: errors, and a protocol."""


def is_told(thing: Any) -> None:
    told = repr(thing)
    assert " object at 0x" not in told
    assert "function " not in told
    assert len(told) < LONGEST or isinstance(thing, nn.Module | tw.RunConfig), told
    assert "\n" not in told or isinstance(thing, nn.Module), told
    assert told.startswith(f"{type(thing).__name__}(")


def test_the_table_holds_every_public_class() -> None:
    public = {name for name in tw.__all__ if isinstance(getattr(tw, name), type)}
    assert public == classes().keys() | NO_OBJECTS


@pytest.mark.parametrize("name", sorted(classes()))
def test_an_object_of_a_public_class_has_a_short_repr(name: str) -> None:
    is_told(classes()[name]())


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_what_public_functions_return_has_a_short_repr(name: str) -> None:
    is_told(RESULTS[name]())


def test_text_has_a_short_repr(tmp_path: Path) -> None:
    is_told(text(tmp_path))


def test_an_operator_tells_its_size_arithmetic_model_and_batches() -> None:
    assert re.fullmatch(r"Hessian\(8 x 8, float32 on cpu, of Linear, loss 0\.\d+, 1 batch, 1 recorded\)", repr(hessian()))
    assert repr(2.0 * hessian()).startswith("Scaled(8 x 8, float32 on cpu, 2 * Hessian(8 x 8, ")
    assert repr(as_operator(torch.eye(3))) == "Matrix(3 x 3, float32 on cpu)"
    assert "exact at step 7" in repr(measured())


def test_large_arrays_are_told_by_shape_and_small_ones_by_their_entries() -> None:
    assert brief(torch.tensor([1.0, -0.333333])) == "[1, -0.3333]"
    assert brief(torch.zeros(9)) == "tensor (9,) float32"
    assert brief(torch.zeros(2, 2)) == "tensor (2, 2) float32"
    assert brief(torch.zeros(3, device="meta")) == "tensor (3,) float32 on meta"
    assert brief(np.arange(9)) == "array (9,) int64"
    assert brief((1, 2.5, None)) == "(1, 2.5, None)"
    assert brief((1,)) == "(1,)"
    assert brief(list(range(20))) == "20 items"
    assert brief({"a": 1}) == "1 entries"


def test_a_layout_of_many_parameters_names_the_first_three() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(50)))
    told = repr(tw.Hessian(lambda m, x: m(x).square().mean(), model, [torch.ones(2, 1)]).layout)
    assert told == "Layout(100 entries of 100 parameters: 0.weight (1, 1), 0.bias (1,), 1.weight (1, 1), ...)"
