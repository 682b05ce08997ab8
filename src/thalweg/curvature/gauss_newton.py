"""The Gauss-Newton matrix of softmax cross-entropy, as an operator with the Hessian's face.

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
"""``outputs(model, batch) -> (logits (..., C), targets (...))``, targets whole numbers, ``ignore`` where nothing counts."""


class GaussNewton(LossOperator):
    """``G = (1/N) sum_n J_n^T (diag(p_n) - p_n p_n^T) J_n``, J the Jacobian of the logits and p their softmax.

    Positive semi-definite; equal to the Fisher matrix under the model's own labels, and to the Hessian where the logits are
    linear in the parameters or the residual vanishes. The mean runs over all targets that count, in all batches and ranks.

    Args:
        outputs: ``(model, batch) -> (logits (..., C), targets (...))``.
        model, batches, params, dtype, memory, check, mode, seed: as for `thalweg.curvature.hessian.Hessian`.
        method: "auto", "recorded" or "rebuilt".
        ignore: target that does not count.
    Raises:
        ShapeMismatchError: targets do not match the logits.
        BadInputError: and its kinds, as for `Hessian`; a batch in which no target counts.
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
        """Compare with central differences of the logits; raises when they disagree."""
        return check_gauss_newton(self, self.objective, self.quadratic_form, seed)

    def cross_entropy(self, model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """Sum over the targets that count, in nats, and their number."""
        logits, targets = self.given(model, batch)
        value = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=self.ignore)
        return value, int((targets != self.ignore).sum())

    def given(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits and targets, looked at; logits in the operator's arithmetic.

        Raises:
            ShapeMismatchError, BadInputError: not what `_OutputFunction` says; the message names it.
        """
        pair = self.outputs(model, batch)
        both = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)
        require(both, "outputs", f"a {type(pair).__name__}", "a pair of tensors (logits (..., C), targets (...))")
        logits, targets = pair
        if logits.dim() < 2 or logits.shape[:-1] != targets.shape:
            given = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise ShapeMismatchError(f"outputs: given {given}, expected (..., C) and (...)")
        whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        require(whole, "targets", targets.dtype, "whole numbers, the classes of a softmax")
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
            logits, targets = self.given(model, batch)
            places = (targets.flatten() != self.ignore).nonzero().squeeze(-1)
            return logits.flatten(0, -2).index_select(0, places)

        return self.objective.call(counted, self.objective.batches[index], parameters)

    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        parts = self.layout.split(self.objective.point)

        def along(*direction: Tensor) -> list[Tensor]:
            tangents = dict(zip(self.layout.names, direction, strict=True))
            logits, change = jvp(lambda given: self.logits(index, given), (parts,), (tangents,))[:2]
            pulled = vjp(lambda given: self.logits(index, given), parts)[1](_softmax_curvature(logits, change))
            return list(pulled[0].values())

        return along

    def product(self, index: int, direction: Tensor) -> Tensor:
        layout, along = self.layout, self.layout.split(direction)
        leaves = {name: part.clone().requires_grad_() for name, part in layout.split(self.objective.point).items()}

        def pulled(model: nn.Module, batch: Any) -> Tensor:
            logits, targets = self.given(model, batch)
            logits = logits.flatten(0, -2)[targets.flatten() != self.ignore]
            dual = torch.zeros_like(logits, requires_grad=True)
            options = {"allow_unused": True, "materialize_grads": True}
            back = torch.autograd.grad(logits, list(leaves.values()), dual, create_graph=True, **options)
            change = torch.autograd.grad(back, dual, [along[name] for name in leaves])[0]
            bent = _softmax_curvature(logits.detach(), change.detach())
            return joined(layout, torch.autograd.grad(logits, list(leaves.values()), bent, **options), direction)

        return self.objective.call(pulled, self.objective.batches[index], leaves)

    def quadratic_form(self, direction: Tensor, step: float) -> float:
        """``v.G v`` from central differences of the logits in the most precise arithmetic: no derivative, no product."""
        precise = self.objective.precise
        point, along = self.objective.point.to(precise), direction.to(precise)
        moved = [self.layout.split(point + sign * step * along) for sign in (-1, 1)]
        total = 0.0
        for index in range(len(self.objective.batches)):
            behind, ahead = (self.logits(index, parts).detach() for parts in moved)
            change = torch.where(ahead == behind, torch.zeros_like(ahead), ahead - behind) / (2 * step)  # infinities stand still
            total += float((change * _softmax_curvature((ahead + behind) / 2, change)).sum())
        return total * self.objective.weight


def _softmax_curvature(logits: Tensor, change: Tensor) -> Tensor:
    """``(diag(p) - p p^T) z`` for rows of logits and changes ``(N, C)``; classes at minus infinity have no share."""
    shares = logits.softmax(dim=-1)
    return shares * (change - (shares * change).sum(dim=-1, keepdim=True))
