"""The empirical Fisher matrix as an operator with the same interface as the Hessian.

Shape letters: P number of chosen parameters, N samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.bounds import of_their_kind
from thalweg.curvature.check import CheckReport
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.loss_operator import Method
from thalweg.curvature.output_operator import OutputOperator, Outputs
from thalweg.errors import Phrase, require
from thalweg.vectors import Choice

_LossesFunction = Callable[[Any, Any], Tensor]
"""``losses(model, batch) -> (N,)``, the losses of the single samples."""


class EmpiricalFisher(OutputOperator):
    """The empirical Fisher matrix ``F = (1/N) sum_n g_n g_n^T``, g_n the gradient of the loss of sample n, ``(P, P)``.

    The mean runs over all samples of all batches and ranks. F is positive semi-definite, of rank N at most. It uses the labels of
    the data, and is neither the Fisher matrix (whose labels are the model's own) nor the Hessian, and no approximation of them far
    from a model that fits its data; `thalweg.curvature.gauss_newton.GaussNewton` is the Fisher matrix of a softmax. A product is
    made of the derivative of the N losses along v and of one backward pass: no gradient of a single sample is formed.

    Args:
        losses: ``(model, batch) -> (N,)``, for instance ``cross_entropy(model(x), y, reduction="none")``. What counts as a sample
            is the caller's choice: a sequence, or each of its tokens.
        model, batches, params, dtype, memory, check, mode, seed: as for `thalweg.curvature.hessian.Hessian`.
        method: "auto", "recorded" or "rebuilt".
    Raises:
        BadInputError: and its kinds, as for `Hessian`; losses that are no vector.
        NotDeterministicError, NotSymmetricError, WrongProductError: a check failed, see `thalweg.curvature.check`.
    Example:
        >>> model, data = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> fisher = EmpiricalFisher(lambda m, x: m(x)[:, 0], model, [data])  # gradients (1, 0) and (0, 2)
        >>> (fisher @ torch.tensor([1.0, 1.0])).tolist()
        [0.5, 2.0]

    Source:
        Kunstner, Balles and Hennig 2019 for what it is not.
    """

    @undisturbed
    @of_their_kind
    def __init__(
        self,
        losses: _LossesFunction,
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
        require(method != "differences", "method", method, "auto, recorded or rebuilt")
        require(
            callable(losses), "losses", Phrase(type(losses).__name__), "a function (model, batch) -> the losses (N,) of the samples"
        )
        self.losses = losses
        super().__init__(self.summed, model, batches, params, dtype, method, memory, mode, seed)
        self.report: CheckReport | None = self.settle(self.check) if check else None

    def summed(self, model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """The loss function of the objective: the sum of the losses, and their number."""
        values = self.split(model, batch)[0][0]
        return values.sum(), len(values)

    def split(self, model: nn.Module, batch: Any) -> tuple[Outputs, None]:
        values = self.losses(model, batch)
        given = Phrase(f"shape {tuple(values.shape)}") if isinstance(values, Tensor) else Phrase(type(values).__name__)
        expected = "a tensor (N,) with the loss of each sample, as reduction='none' gives it"
        require(isinstance(values, Tensor) and values.dim() == 1 and len(values) > 0, "losses", given, expected)
        return (values,), None

    def curved(self, fixed: None, outputs: Outputs, change: Outputs) -> Outputs:
        return change
