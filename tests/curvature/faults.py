"""Shared by the files ``test_faults_*.py``: inputs on which curvature was once wrong, or refused for a wrong reason.

Each must be right, or refused in one line that helps. A small function builds a loss, a model and batches; where the loss itself
cannot be differenced (weights that were captured before), it gives another loss with the same Hessian. The table of a file says
the kind and what may come of it, see `Verdict.is_as`. ``python tests/curvature/test_faults.py`` prints all tables.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.curvature.cases import normal, stirred
from tests.curvature.cases import whole as integers
from tests.curvature.oracle import Verdict, by_differences, verdict, whole
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg as tw

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
WAYS = {"Hessian 32": torch.float32, "Hessian 64": torch.float64, "dense 64": torch.float64, "probe 32": torch.float32}
X, Y, LABELS = normal(8, 3, seed=1), normal(8, 2, seed=2), integers(2, 8, seed=3)
EITHER = "right | refused: "


@dataclass(frozen=True)
class Given:
    """What `Hessian` gets, and a loss, model and batches with the same Hessian where differences of its own are none."""

    loss: Any
    model: Any
    batches: Any = field(default_factory=lambda: [(X, Y)])
    same: Any = None
    """A `Given`, or the matrix itself."""
    params: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    step: float = 1e-3
    train: bool = False

    @property
    def truth(self) -> Tensor:
        if isinstance(self.same, Tensor):
            return self.same
        of = self.same or self
        chosen = (lambda name: True) if self.params is None else (lambda name: name.startswith(self.params.rstrip("*")))
        return by_differences(of.loss, of.model, of.batches, of.step, chosen=chosen, train=self.train)


@dataclass(frozen=True)
class Fault:
    """One member of a kind."""

    name: str
    build: Callable[[], Given]
    kind: int
    expected: str = "right"
    ways: Sequence[str] = tuple(WAYS)
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


class Faults(list[Fault]):
    """The table of one test file."""

    def add(self, *given: Any, **named: Any) -> None:
        """Put a member into the table; arguments as for `Fault`."""
        self.append(Fault(*given, **named))

    def case(self, *given: Any, **named: Any) -> Callable[[Callable[[], Given]], Callable[[], Given]]:
        """Decorator that puts a function into the table; its name is the member's, other arguments as for `Fault`."""

        def keep(build: Callable[[], Given]) -> Callable[[], Given]:
            self.add(build.__name__.replace("_", " "), build, *given, **named)
            return build

        return keep

    def attempts(self) -> list[tuple[Fault, str]]:
        """Every member with every way to ask for its curvature."""
        return [(fault, way) for fault in self for way in fault.ways]


@functools.cache
def truth_of(build: Callable[[], Given]) -> Tensor:
    return build().truth


def attempted(given: Given, way: str) -> Tensor:
    """The matrix, or what the probe gives of it."""
    first, dtype = (given.loss, given.model, given.batches), WAYS[way]
    torch.manual_seed(0)
    if way.startswith("probe"):
        probe = tw.LandscapeProbe(top=1, forms=0, dtype=dtype)
        record = probe.measure(*first, params=given.params, **given.options)
        return torch.tensor([record.trace.value, record.largest[0]])
    if way.startswith("dense"):
        return tw.dense_hessian(*first, given.params, dtype, **given.options).matrix
    return whole(tw.Hessian(*first, given.params, dtype, **given.options))


def squared(m: Any, b: Any) -> Tensor:
    return (m(b[0]) - b[1]).square().mean()


def summed(m: Any, b: Any) -> tuple[Tensor, int]:
    """Cross-entropy as a sum, and the number of targets."""
    return F.cross_entropy(m(b[0]), b[1], reduction="sum"), len(b[1])


def mlp(inputs: int = 3, outputs: int = 2) -> nn.Sequential:
    """20 weights as it comes."""
    return stirred(nn.Sequential(nn.Linear(inputs, 3), nn.Tanh(), nn.Linear(3, outputs)), 0.6)


def many(size: int = 8, *shape: int) -> Tensor:
    """Inputs for more samples than one piece of a batch holds."""
    return normal(size, *shape, seed=4)


class Net(nn.Module):
    """Modules by name, and a forward function that is handed over."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Any) -> Tensor:
        return self.run(self, *inputs)


def net(forward: Callable[..., Tensor], **modules: Any) -> Net:
    """With weights drawn anew, single numbers excepted."""
    made = Net(forward, **modules)
    with torch.no_grad():
        for seed, weight in enumerate(p for p in made.parameters() if p.dim() and not p.is_complex()):
            weight.copy_(0.6 * normal(*weight.shape, seed=seed) + (1.0 if weight.dim() == 1 else 0.0))
    return made


def by_key(m: Any, b: Any) -> Tensor:
    return squared(m, (b["x"], b["y"]))


def plain_network() -> Given:
    """The small network with squares; many cases have its Hessian."""
    return Given(squared, mlp())


def normed() -> nn.Module:
    model = stirred(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)), 0.6)
    model[1].running_mean.copy_(normal(3, seed=6))
    return model


def classes() -> nn.Module:
    return mlp(3, 3)


def dropout_in_evaluation():
    return Given(squared, stirred(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)), 0.6))


def as_seen(truth: Tensor, way: str) -> Tensor:
    """The matrix, or its trace and largest eigenvalue, as the way gives them."""
    return torch.stack([truth.trace(), torch.linalg.eigvalsh(truth)[-1]]) if way.startswith("probe") else truth


def outcome_of(fault: Fault, way: str) -> Verdict:
    """What comes of a member of a table by one way."""
    truth = as_seen(truth_of(fault.build), way)
    return verdict(lambda: attempted(fault.build(), way), truth, fault.tolerance or TOLERANCE[WAYS[way]])
