"""The Hessian of a mean loss as an operator.

Shape letters: P number of chosen parameters, k number of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from thalweg.bounds import of_their_kind
from thalweg.curvature.check import CheckReport, check_hessian, scales
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.differences import LADDER, second_difference
from thalweg.curvature.loss_operator import LossOperator, Method, Parts
from thalweg.curvature.objective import LossFunction
from thalweg.errors import KinkWarning, WrongProductError, warn
from thalweg.vectors import Choice

_UNSURE, _UNSURE_ROUGH = 1e-3, 0.05
"""Estimated relative error of a product by differences above which it is refused, in float64 and in float32."""


class Hessian(LossOperator):
    """The Hessian ``H = d^2 L / dtheta^2`` of the mean loss at the model's present weights, as an operator ``v -> H v``.

    The derivative of the gradient is recorded once for each batch and replayed at every product (`thalweg.curvature.linear`).
    Batches that do not fit into the memory allowed are differentiated twice at every product; ``explain()`` says which. The model
    is evaluated in the mode given, its attention by matrix products, and is left as it was. Under a process group each rank gives
    its own batches, and all ranks get the product of the whole, by one sum of ``(k, P)``. A recorded product of a small GPT costs
    about 2.5 gradients (``benchmarks/hessian_product_costs_2_5_gradients.py``).

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; its weights are copied, so that training on does not change the operator.
        batches: a list of batches.
        params: a name, a pattern with ``*``, a list of them, a function of (name, parameter), or None for all that train.
        dtype: arithmetic, ``torch.float32`` or ``torch.float64``; None keeps the weights' own.
        method: "auto", "recorded" (or an error), "rebuilt" (double backward), or "differences" for kernels that have no second
            derivative.
        memory: bytes that recorded batches may hold; None takes half of what is free.
        check: whether determinism, a central difference and symmetry are checked first, see `thalweg.curvature.check`.
        mode, seed: evaluation mode or training mode, and what fixes random parts, see `thalweg.curvature.objective.Objective`.
    Raises:
        BadInputError: and its kinds, see `thalweg.curvature.objective.Objective`.
        NotDifferentiableError: an operation has no second derivative.
        NotDeterministicError, NotSymmetricError, WrongProductError: the check failed.
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

    @undisturbed
    @of_their_kind
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
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> None:
        super().__init__(loss_fn, model, batches, params, dtype, method, memory, mode, seed)
        if self.objective.kinks:
            warn_of_kinks(self.objective.kinks)
        self.report: CheckReport | None = self.settle(self.check) if check else None

    @property
    def loss(self) -> float:
        """Mean loss at the point, in the loss function's unit."""
        return self.objective.value

    @property
    def gradient(self) -> Tensor:
        """Gradient ``(P,)`` of the mean loss at the point."""
        return self.objective.gradient

    def check(self, seed: int = 0) -> CheckReport:
        """Check that products are those of the gradient's derivative, see `thalweg.curvature.check.check_hessian`."""
        return check_hessian(self, self.objective, seed)

    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        parts = self.layout.split(self.objective.point)

        def total(parameters: Parts) -> Tensor:
            return self.objective.total(index, parameters)

        def along(*direction: Tensor) -> list[Tensor]:
            tangents = dict(zip(self.layout.names, direction, strict=True))
            return list(jvp(grad(total), (parts,), (tangents,))[1].values())

        return along

    def product(self, batch: Any, direction: Tensor) -> Tensor:
        return self.objective.twice_differentiated(batch, self.objective.point, direction)

    def rows(self, vectors: Tensor) -> Tensor:
        if self.method != "differences":
            return super().rows(vectors)
        products, errors = zip(*(self.by_differences(vector) for vector in vectors), strict=True)
        self.difference_error = max(errors)
        return torch.stack(products).to(vectors.dtype)

    def by_differences(self, vector: Tensor) -> tuple[Tensor, float]:
        """``H v`` by differences of the gradient, in the most precise arithmetic that the loss works in, and its error.

        Args:
            vector: v, ``(P,)``.
        Returns:
            The product ``(P,)``, and an estimate of its relative error.
        Raises:
            WrongProductError: differences at all steps disagree, because the gradient jumps or is too noisy.
        """
        objective = self.objective
        try:
            product, error = self._difference(vector)
        except Exception:  # an operation without float64; an error of the loss itself is raised again in its own arithmetic
            if objective.precise == objective.dtype:
                raise
            objective.precise = objective.dtype
            product, error = self._difference(vector)
        rough = objective.precise != torch.float64 or objective.rounds_below_float64
        if error > (_UNSURE_ROUGH if rough else _UNSURE):
            kinks = f" (the loss has kinks: {', '.join(objective.kinks)})" if objective.kinks else ""
            raise WrongProductError(
                f"product: differences of the gradient at {len(LADDER)} steps disagree by {error:.1e} of their size{kinks}; use "
                "method='auto' if the loss has a second derivative, or dtype=torch.float64"
            )
        return product, error

    def _difference(self, vector: Tensor) -> tuple[Tensor, float]:
        """`second_difference` in the objective's precise arithmetic."""
        objective, precise = self.objective, self.objective.precise
        point, along, sizes = (value.to(precise) for value in (objective.point, vector, scales(objective)))
        return second_difference(lambda x: objective.gradient_at(x, precise), point, along, sizes)


def warn_of_kinks(kinks: Sequence[str]) -> None:
    """Warn that the loss has kinks, and name them: second derivatives then describe its smooth pieces only."""
    where = "the numbers hold for the smooth piece at these weights, not across a kink"
    warn(f"the loss has kinks ({', '.join(kinks)}): {where}", KinkWarning)
