"""The Gauss-Newton matrix of softmax cross-entropy, as an operator with the same interface as the Hessian.

Shape letters: P number of chosen parameters, N targets, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp
from torch.nn import functional

from thalweg.bounds import of_their_kind
from thalweg.curvature.check import CheckReport, check_gauss_newton
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.loss_operator import LossOperator, Method, Parts
from thalweg.curvature.objective import joined
from thalweg.errors import BadInputError, ShapeMismatchError, require
from thalweg.vectors import Choice

_OutputFunction = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""``outputs(model, batch) -> (logits (..., C), targets (...))``; targets are class numbers, or ``ignore`` where none counts."""


class GaussNewton(LossOperator):
    """The Gauss-Newton matrix ``G = (1/N) sum_n J_n^T (diag(p_n) - p_n p_n^T) J_n`` of the mean cross-entropy, ``(P, P)``.

    J_n is the Jacobian ``(C, P)`` of the logits of target n and p_n their softmax. G is positive semi-definite. It equals the
    Fisher matrix under the model's own labels, and the Hessian where the logits are linear in the parameters or the residual
    vanishes. The mean runs over all targets that count, in all batches and ranks.

    Args:
        outputs: ``(model, batch) -> (logits (..., C), targets (...))``.
        model, batches, params, dtype, memory, check, mode, seed: as for `thalweg.curvature.hessian.Hessian`.
        method: "auto", "recorded" or "rebuilt".
        ignore: the target value that does not count.
    Raises:
        ShapeMismatchError: targets do not match the logits.
        BadInputError: and its kinds, as for `Hessian`; a batch in which no target counts.
        NotDeterministicError, NotSymmetricError, WrongProductError: a check failed, see `thalweg.curvature.check`.
    Example:
        >>> model, data = nn.Linear(1, 2, bias=False), (torch.ones(1, 1), torch.tensor([0]))
        >>> _ = nn.init.zeros_(model.weight)
        >>> (GaussNewton(lambda m, b: (m(b[0]), b[1]), model, [data]) @ torch.tensor([1.0, 0.0])).tolist()
        [0.25, -0.25]

    Source:
        Schraudolph 2002; Martens 2020, arXiv 1412.1193.
    """

    @undisturbed
    @of_their_kind
    def __init__(
        self,
        outputs: _OutputFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice = None,
        dtype: torch.dtype | None = None,
        *,
        method: Method = "auto",
        memory: int | None = None,
        check: bool = True,
        ignore: int = -100,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> None:
        require(method != "differences", "method", method, "auto, recorded or rebuilt")
        require(callable(outputs), "outputs", type(outputs).__name__, "a function (model, batch) -> (logits, targets)")
        self.outputs, self.ignore = outputs, ignore
        super().__init__(self.cross_entropy, model, batches, params, dtype, method, memory, mode, seed)
        self.report: CheckReport | None = self.settle(self.check) if check else None

    def check(self, seed: int = 0) -> CheckReport:
        """Compare products with central differences of the logits, see `thalweg.curvature.check.check_gauss_newton`."""
        return check_gauss_newton(self, self.objective, self.quadratic_form, seed)

    def cross_entropy(self, model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """The loss function of the objective: cross-entropy summed over the targets that count, in nats, and their number."""
        logits, targets = self.checked_outputs(model, batch)
        value = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=self.ignore)
        return value, int((targets != self.ignore).sum())

    def checked_outputs(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits ``(..., C)`` and targets ``(...)`` of a batch, checked.

        Raises:
            ShapeMismatchError, BadInputError: the function ``outputs`` does not return what `_OutputFunction` says.
        """
        pair = self.outputs(model, batch)
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)
        require(is_pair, "outputs", f"a {type(pair).__name__}", "a pair of tensors (logits (..., C), targets (...))")
        logits, targets = pair
        if logits.dim() < 2 or logits.shape[:-1] != targets.shape:
            shapes = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise ShapeMismatchError(f"outputs: given {shapes}, expected (..., C) and (...)")
        whole_numbers = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        require(whole_numbers, "targets", targets.dtype, "whole numbers, the classes of a softmax")
        wrong = targets[(targets != self.ignore) & ((targets < 0) | (targets >= logits.shape[-1]))]
        if wrong.numel():
            raise BadInputError(
                f"targets: hold {int(wrong[0])}, expected 0 to {logits.shape[-1] - 1}, or {self.ignore} where nothing counts; pass "
                f"ignore={int(wrong[0])} if that marks what does not count"
            )
        return logits, targets.long()

    def logits(self, index: int, parameters: Parts) -> Tensor:
        """Logits ``(N, C)`` of the targets that count in one batch."""

        def counted(model: nn.Module, batch: Any) -> Tensor:
            logits, targets = self.checked_outputs(model, batch)
            counting = (targets.flatten() != self.ignore).nonzero().squeeze(-1)
            return logits.flatten(0, -2).index_select(0, counting)

        return self.objective.call(counted, self.objective.batches[index], parameters)

    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        parts = self.layout.split(self.objective.point)

        def along(*direction: Tensor) -> list[Tensor]:
            # Forward: z = J v, the change of the logits. Backward: J^T ((diag(p) - p p^T) z).
            tangents = dict(zip(self.layout.names, direction, strict=True))
            logits, change = jvp(lambda given: self.logits(index, given), (parts,), (tangents,))[:2]
            products = vjp(lambda given: self.logits(index, given), parts)[1](_softmax_curvature(logits, change))
            return list(products[0].values())

        return along

    def product(self, index: int, direction: Tensor) -> Tensor:
        layout, along = self.layout, self.layout.split(direction)
        leaves = {name: part.clone().requires_grad_() for name, part in layout.split(self.objective.point).items()}

        def differentiate(model: nn.Module, batch: Any) -> Tensor:
            logits, targets = self.checked_outputs(model, batch)
            logits = logits.flatten(0, -2)[targets.flatten() != self.ignore]
            # J v by two backward passes: J^T u is linear in a dual u, and its derivative along v is J v.
            dual = torch.zeros_like(logits, requires_grad=True)
            options = {"allow_unused": True, "materialize_grads": True}
            pulled_dual = torch.autograd.grad(logits, list(leaves.values()), dual, create_graph=True, **options)
            change = torch.autograd.grad(pulled_dual, dual, [along[name] for name in leaves])[0]
            curved = _softmax_curvature(logits.detach(), change.detach())
            return joined(layout, torch.autograd.grad(logits, list(leaves.values()), curved, **options), direction)

        return self.objective.call(differentiate, self.objective.batches[index], leaves)

    def quadratic_form(self, direction: Tensor, step: float) -> float:
        """``v.G v`` of this rank's batches from central differences of the logits, without any derivative or product.

        ``sum_n z_n^T (diag(p_n) - p_n p_n^T) z_n / N`` with ``z = (f(theta + h v) - f(theta - h v)) / 2h``, in the most precise
        arithmetic that the loss works in.

        Args:
            direction: v, ``(P,)``.
            step: h.
        """
        precise = self.objective.precise
        point, along = self.objective.point.to(precise), direction.to(precise)
        moved = [self.layout.split(point + sign * step * along) for sign in (-1, 1)]
        total = 0.0
        for index in range(len(self.objective.batches)):
            behind, ahead = (self.logits(index, parts).detach() for parts in moved)
            # Equal infinities, as of masked classes, have a difference of 0 and not NaN.
            change = torch.where(ahead == behind, torch.zeros_like(ahead), ahead - behind) / (2 * step)
            total += float((change * _softmax_curvature((ahead + behind) / 2, change)).sum())
        return total * self.objective.weight


def _softmax_curvature(logits: Tensor, change: Tensor) -> Tensor:
    """``(diag(p) - p p^T) z`` for each row, p the softmax of the logits and z their change, ``(N, C)`` both."""
    shares = logits.softmax(dim=-1)
    return shares * (change - (shares * change).sum(dim=-1, keepdim=True))
