"""Small losses of many kinds, and the oracle for their curvature: differences of a float64 gradient that knows nothing of thalweg.

Shape letters: P number of chosen parameters.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import LoopedTransformer, ModelConfig

STEP = 2e-4
"""Of the oracle's fourth-order difference, in units of the direction's length: truncation and rounding are both near 1e-11."""


@dataclass(frozen=True)
class Case:
    """A loss at a point; ``chosen`` says in the test's own words which parameters ``params`` means."""

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Any]
    batches: list[Any]
    params: Any = None
    chosen: Callable[[str], bool] = lambda name: True

    @property
    def given(self) -> tuple[Any, ...]:
        """The first four arguments of `Hessian`."""
        return self.loss_fn, self.model, self.batches, self.params

    def gradient(self, shift: Tensor | float = 0.0) -> Tensor:
        """Gradient ``(P,)`` in float64 at the weights moved by ``shift``, by plain backward passes of the module itself."""
        model = copy.deepcopy(self.model).double().eval()
        ours = [p for name, p in model.named_parameters() if p.requires_grad and self.chosen(name)]
        flat = nn.utils.parameters_to_vector(ours).detach()
        nn.utils.vector_to_parameters(flat + shift, ours)
        total, count = 0.0, 0.0
        for batch in self.batches:
            given = self.loss_fn(model, in_float64(batch))
            value, number = given if isinstance(given, tuple) else (given, 1.0)
            total, count = total + value, count + float(number)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(total / count, ours)])

    def product(self, direction: Tensor) -> Tensor:
        """``H v`` ``(P,)`` by the fourth-order central difference of `gradient`."""
        step = STEP / float(direction.norm())
        near = self.gradient(step * direction) - self.gradient(-step * direction)
        far = self.gradient(2 * step * direction) - self.gradient(-2 * step * direction)
        return (8 * near - far) / (12 * step)

    def direction(self, seed: int = 0) -> Tensor:
        """A random direction ``(P,)``, float64."""
        return torch.randn(len(self.gradient()), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def in_float64(batch: Any) -> Any:
    """A batch in any nesting, its floating-point tensors in float64."""
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: in_float64(part) for key, part in batch.items()}
    return type(batch)(in_float64(part) for part in batch) if isinstance(batch, list | tuple) else batch


def apart(a: Tensor, b: Tensor) -> float:
    """Distance relative to the second."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(below: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def stirred(model: nn.Module, scale: float = 0.3) -> nn.Module:
    """The module with weights that are drawn anew: no zero biases, no unit norms, no dependence on the global generator."""
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(scale * normal(*parameter.shape, seed=seed) + (1.0 if parameter.dim() == 1 else 0.0))
    return model


def squares(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def pairs(inputs: int, outputs: int, count: int = 2, size: int = 7) -> list[Any]:
    return [(normal(size, inputs, seed=10 + i), normal(size, outputs, seed=20 + i)) for i in range(count)]


def mlp() -> Case:
    return Case(stirred(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))), squares, pairs(3, 2))


def layer_norm() -> Case:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4), nn.LayerNorm(4))
    return Case(stirred(model), squares, pairs(4, 4))


def language(loops: int, **config: Any) -> Case:
    """Next-token prediction by a looped transformer."""
    shape = {"vocabulary": 5, "length": 4, "width": 4, "heads": 2, "expansion": 2} | config
    model = stirred(LoopedTransformer(ModelConfig(**shape)), 0.5)

    def loss_fn(model: nn.Module, tokens: Tensor) -> Tensor:
        return functional.cross_entropy(model(tokens[:, :-1], loops=loops).flatten(0, 1), tokens[:, 1:].flatten())

    return Case(model, loss_fn, [whole(5, 3, 5, seed=i) for i in (1, 2)])


def dict_batches() -> Case:
    def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch["x"]), batch["y"])

    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 3))
    return Case(stirred(model), loss_fn, [{"x": normal(6, 3, seed=i), "y": whole(3, 6, seed=i)} for i in (1, 2)])


def nested_batches() -> Case:
    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        (x, extra), scale = batch["inputs"], batch["options"][0]
        return scale * (model(x) + extra["shift"] - batch["y"]).square().mean()

    x, y, shift = normal(5, 3, seed=1), normal(5, 2, seed=2), normal(2, seed=3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2))
    return Case(stirred(model), loss_fn, [{"inputs": [x, {"shift": shift}], "options": (0.5, "name", None), "y": y}])


def tied() -> Case:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[4].bias = model[0].bias
    return Case(stirred(model, 0.6), squares, pairs(4, 4))


def frozen() -> Case:
    model = stirred(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    model[2].requires_grad_(False)
    return Case(model, squares, pairs(3, 2))


def by_pattern() -> Case:
    model = stirred(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    return Case(model, squares, pairs(3, 2), ["4.*", "0.bias"], lambda name: name in ("0.bias", "4.weight", "4.bias"))


def batch_norm() -> Case:
    model = stirred(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)))
    model[1].running_mean.copy_(normal(5, seed=30))
    model[1].running_var.copy_(normal(5, seed=31).exp())
    return Case(model.train(), squares, pairs(3, 2))


def convolution() -> Case:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    return Case(stirred(model), loss_fn, [(normal(3, 2, 4, 4, seed=i), whole(3, 3, seed=i)) for i in (1, 2)])


def ragged() -> Case:
    """Batches of different sizes, some places of which do not count."""
    inner = language(2, attention="linear", norm="none")

    def loss_fn(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
        targets = torch.where(tokens[:, 1:] == 0, -100, tokens[:, 1:])
        total = functional.cross_entropy(model(tokens[:, :-1], loops=2).flatten(0, 1), targets.flatten(), reduction="sum")
        return total, (targets != -100).sum()

    return Case(inner.model, loss_fn, [whole(5, rows, length, seed=rows) for rows, length in ((4, 5), (1, 3), (2, 4))])


def dropout() -> Case:
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2), nn.Dropout(0.1))
    return Case(stirred(model).train(), squares, pairs(3, 2))


LOOPED = {
    f"{kind}, {loops} loops": functools.partial(language, loops, **config)
    for kind, config in {
        "linear attention without norm": {"attention": "linear", "norm": "none"},
        "softmax attention with norm": {},
        "gpt, tied": {"block": "gpt", "tied": True},
    }.items()
    for loops in (1, 2, 3, 4)
}
CASES: dict[str, Callable[[], Case]] = {
    "MLP": mlp,
    "LayerNorm": layer_norm,
    "rotary gpt with injection": functools.partial(language, 2, block="gpt", positions="rotary", injection=True),
    **LOOPED,
    "dict batches": dict_batches,
    "nested batches": nested_batches,
    "tied": tied,
    "frozen": frozen,
    "by pattern": by_pattern,
    "BatchNorm": batch_norm,
    "convolution": convolution,
    "ragged": ragged,
    "dropout": dropout,
}


@functools.cache
def case_of(name: str) -> Case:
    """The case by name, built once; nobody may change it, which the tests of `Hessian` ask for anyway."""
    return CASES[name]()
