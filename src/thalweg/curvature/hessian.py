"""The Hessian of a mean loss as an operator.

Shape letters: P number of chosen parameters, k number of vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from thalweg.curvature.check import CheckReport, check_hessian
from thalweg.curvature.differences import second_difference
from thalweg.curvature.loss_operator import LossOperator, Method, Parts, differentiated_twice
from thalweg.curvature.objective import LossFunction
from thalweg.errors import KinkWarning
from thalweg.vectors import Choice


class Hessian(LossOperator):
    """Second derivative of the mean loss with respect to chosen parameters, at the model's present weights.

    The derivative of the gradient is recorded once a batch and replayed (`thalweg.curvature.linear`), batches that do not fit into
    the memory allowed are differentiated twice at every product; ``explain()`` says which. Evaluation mode (dropout off)
    and attention by matrix products are set for each call and restored. Under a process group each rank gives its own batches
    and all get the product of the whole, by one sum of ``(k, P)``.

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; its weights are copied, so that training on does not change the operator.
        batches: a list of batches.
        params: a name, a pattern with ``*``, a list of them, a function of (name, parameter), or None for all that train.
        dtype: arithmetic, ``torch.float32`` or ``torch.float64``; None keeps the weights' own.
        method: "auto", "recorded" (or refuse), "rebuilt", or "differences" for kernels that have no second derivative.
        memory: bytes that may be kept; None takes half of what is free.
        check: compare with a central difference, with its own transpose, and with itself before it is used.
    Raises:
        BadInputError: and its kinds, see `thalweg.curvature.objective.Objective`.
        NotDifferentiableError: an operation has no second derivative.
        NotDeterministicError, NotSymmetricError, WrongProductError: what `check` found.
    Warns:
        KinkWarning: the loss has kinks; they are named.
    Example:
        >>> model, data = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> hessian = Hessian(lambda m, x: (m(x) ** 2).mean(), model, [data])
        >>> (hessian @ torch.tensor([1.0, 1.0])).tolist()
        [1.0, 4.0]

    Source:
        Pearlmutter 1994 for the product; forward over reverse, the order that is right through LayerNorm.
    """

    def __init__(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice = None,
        dtype: torch.dtype | None = None,
        *,
        method: Method = "auto",
        memory: int | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(loss_fn, model, batches, params, dtype, method, memory)
        self.difference_error = 0.0
        if self.objective.kinks:
            names = ", ".join(self.objective.kinks)
            warnings.warn(f"the loss has kinks ({names}): curvature is that of its smooth pieces", KinkWarning, stacklevel=2)
        self.report: CheckReport | None = self.check() if check else None

    @property
    def loss(self) -> float:
        """Mean loss at the point, in nats where the loss function is."""
        return self.objective.value

    @property
    def gradient(self) -> Tensor:
        """Gradient ``(P,)`` of the mean loss at the point."""
        return self.objective.gradient

    def check(self, seed: int = 0) -> CheckReport:
        """Is this the derivative of the gradient? Raises when not; see `thalweg.curvature.check`."""
        return check_hessian(self, self.objective, seed)

    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        parts = self.layout.split(self.objective.point)

        def total(parameters: Parts) -> Tensor:
            return self.objective.total(index, parameters)

        def along(*direction: Tensor) -> list[Tensor]:
            tangents = dict(zip(self.layout.names, direction, strict=True))
            return list(jvp(grad(total), (parts,), (tangents,))[1].values())

        return along

    def product(self, index: int, direction: Tensor) -> Tensor:
        parts = self.layout.split(self.objective.point)
        value = lambda parameters: self.objective.total(index, parameters)  # noqa: E731
        return self.layout.join(differentiated_twice(value, parts, self.layout.split(direction)))

    def rows(self, vectors: Tensor) -> Tensor:
        if self.method != "differences":
            return super().rows(vectors)
        results = [second_difference(self.objective.gradient_at, self.objective.point, vector) for vector in vectors]
        self.difference_error = max(error for _, error in results)
        return torch.stack([product for product, _ in results])
