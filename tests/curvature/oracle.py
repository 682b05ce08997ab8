"""The oracle of the sweeps: a whole Hessian by differences of plain gradients; and what became of an attempt at one.

It knows nothing of thalweg but its errors, and takes no second derivative of PyTorch's.

Shape letters: P number of chosen parameters.
"""

import copy
import dataclasses
import math
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import ThalwegError

STEP = 1e-3
"""Of the fourth-order difference, in the weights' own units: truncation and rounding are both near 1e-12 of curves of size 1."""
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-8}
"""Largest relative error (Frobenius) of a Hessian that counts as right."""


def in_float64(batch: Any) -> Any:
    """A batch in any container that people use, its floating-point tensors in float64."""
    if isinstance(batch, Tensor):
        return batch.to(torch.complex128 if batch.is_complex() else torch.float64) if is_real(batch) else batch
    if isinstance(batch, dict | UserDict):
        return type(batch)({key: in_float64(part) for key, part in batch.items()})
    if isinstance(batch, list | tuple):
        parts = [in_float64(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(batch, **{f.name: in_float64(getattr(batch, f.name)) for f in dataclasses.fields(batch)})
    return batch.astype("float64") if getattr(getattr(batch, "dtype", None), "kind", "") == "f" else batch


def is_real(tensor: Tensor) -> bool:
    """Has the tensor derivatives?"""
    return tensor.is_floating_point() or tensor.is_complex()


class Gradient:
    """Gradient ``(P,)`` of the mean loss as a function of a shift of the chosen weights, in a float64 copy of the model."""

    def __init__(
        self,
        loss_fn: Callable[[Any, Any], Any],
        model: nn.Module,
        batches: Iterable[Any],
        chosen: Callable[[str], bool] = lambda name: True,
        train: bool = False,
    ) -> None:
        self.loss_fn, self.model = loss_fn, copy.deepcopy(model).double()
        for module in self.model.modules():  # not by train(), which some modules act upon
            module.training = train
        self.batches = [in_float64(batch) for batch in batches]
        self.ours = [p for name, p in self.model.named_parameters() if p.requires_grad and chosen(name)]
        self.point = self.joined(self.ours).clone()

    @staticmethod
    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([(part.to_dense() if part.is_sparse else part).detach().reshape(-1) for part in parts])

    def __call__(self, shift: Tensor | float = 0.0) -> Tensor:
        sizes = [p.numel() for p in self.ours]
        for p, part in zip(self.ours, (self.point + shift).split(sizes), strict=True):
            p.data.copy_(part.view_as(p))
        total, count = torch.zeros_like(self.point), 0.0
        for batch in self.batches:
            given = self.loss_fn(self.model, batch)
            value, number = given if isinstance(given, tuple) else (given, 1.0)
            parts = torch.autograd.grad(value, self.ours, allow_unused=True)
            filled = [torch.zeros_like(p) if part is None else part for p, part in zip(self.ours, parts, strict=True)]
            total, count = total + self.joined(filled), count + float(number)
        return total / count

    def product(self, direction: Tensor, step: float = STEP) -> Tensor:
        """``H v`` ``(P,)`` by the fourth-order central difference; ``step`` is that of v as it is given."""
        near = self(step * direction) - self(-step * direction)
        far = self(2 * step * direction) - self(-2 * step * direction)
        return (8 * near - far) / (12 * step)


def by_differences(
    loss_fn: Callable[[Any, Any], Any], model: nn.Module, batches: Iterable[Any], step: float = STEP, **options: Any
) -> Tensor:
    """The Hessian ``(P, P)`` of the mean loss in float64; ``options`` as for `Gradient`."""
    gradient = Gradient(loss_fn, model, batches, **options)
    rows = torch.stack([gradient.product(one, step) for one in torch.eye(len(gradient.point), dtype=torch.float64)])
    return (rows + rows.T) / 2


def whole(operator: Any) -> Tensor:
    """All entries of an operator, by its products with the identity."""
    return operator @ torch.eye(operator.dim, dtype=torch.float64)


def error(found: Tensor, truth: Tensor) -> float:
    """Distance relative to the truth (or absolute, where the truth is zero)."""
    return float((found.double() - truth).norm()) / (float(truth.norm()) or 1.0)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of an attempt."""

    word: str
    """"right", "wrong", "refused" (an error of thalweg in one line) or "raw error"."""
    detail: str
    """The relative error, or the message."""

    def is_as(self, expected: str) -> bool:
        """Is it what a table says: "right", "refused: words of the message", or either of two, joined by " | "?"""
        return any(self.is_one(choice) for choice in expected.split(" | "))

    def is_one(self, choice: str) -> bool:
        word, _, words = choice.partition(": ")
        return self.word == word and words.lower() in self.detail.lower()


def verdict(attempt: Callable[[], Tensor], truth: Tensor, tolerance: float) -> Verdict:
    """The attempt's matrix against the truth, or its error."""
    try:
        found = attempt()
    except ThalwegError as problem:
        one_line = "\n" not in str(problem) and len(str(problem)) > 10
        return Verdict("refused" if one_line else "raw error", f"{type(problem).__name__}: {problem}")
    except Exception as problem:
        return Verdict("raw error", f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0][:160]}")
    apart = error(found, truth)
    return Verdict("right" if apart <= tolerance and math.isfinite(apart) else "wrong", f"{apart:.0e}")
