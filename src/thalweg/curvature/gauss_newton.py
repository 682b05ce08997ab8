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

from thalweg.curvature.check import CheckReport, check_gauss_newton
from thalweg.curvature.loss_operator import LossOperator, Method, Parts
from thalweg.errors import ShapeMismatchError, require
from thalweg.vectors import Choice

OutputFunction = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""``outputs(model, batch) -> (logits (..., C), targets (...))``, targets whole numbers, ``ignore`` where nothing counts."""


class GaussNewton(LossOperator):
    """``G = (1/N) sum_n J_n^T (diag(p_n) - p_n p_n^T) J_n``, J the Jacobian of the logits and p their softmax.

    Positive semi-definite; equal to the Fisher matrix under the model's own labels, and to the Hessian where the logits are
    linear in the parameters or the residual vanishes. The mean runs over all targets that count, in all batches and ranks.

    Args:
        outputs: ``(model, batch) -> (logits (..., C), targets (...))``.
        model, batches, params, dtype, memory, check: as for `thalweg.curvature.hessian.Hessian`.
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

    def __init__(
        self,
        outputs: OutputFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice = None,
        dtype: torch.dtype | None = None,
        *,
        method: Method = "auto",
        memory: int | None = None,
        check: bool = True,
        ignore: int = -100,
    ) -> None:
        require(method != "differences", "method", method, "auto, recorded or rebuilt")
        self.outputs, self.ignore = outputs, ignore
        super().__init__(self.cross_entropy, model, batches, params, dtype, method, memory)
        self.report: CheckReport | None = self.check() if check else None

    def check(self, seed: int = 0) -> CheckReport:
        """Compare with central differences of the logits; raises when they disagree."""
        return check_gauss_newton(self, self.objective, self.quadratic_form, seed)

    def cross_entropy(self, model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """Sum over the targets that count, in nats, and their number."""
        logits, targets = self.outputs(model, batch)
        if logits.dim() < 2 or logits.shape[:-1] != targets.shape:
            given = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise ShapeMismatchError(f"outputs: given {given}, expected (..., C) and (...)")
        value = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=self.ignore)
        return value, int((targets != self.ignore).sum())

    def logits(self, index: int, parameters: Parts) -> Tensor:
        """Logits ``(N, C)`` of the targets that count in one batch."""
        captured: list[Tensor] = []

        def keep(model: nn.Module, batch: Any) -> Tensor:
            logits, targets = self.outputs(model, batch)
            captured.append(logits * (targets != self.ignore).unsqueeze(-1))
            return captured[0].sum()

        self.objective.call(keep, self.objective.batches[index], parameters)
        return captured[0].flatten(0, -2)

    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        parts = self.layout.split(self.objective.point)

        def along(*direction: Tensor) -> list[Tensor]:
            tangents = dict(zip(self.layout.names, direction, strict=True))
            logits, change = jvp(lambda given: self.logits(index, given), (parts,), (tangents,))[:2]
            pulled = vjp(lambda given: self.logits(index, given), parts)[1](softmax_curvature(logits, change))
            return list(pulled[0].values())

        return along

    def product(self, index: int, direction: Tensor) -> Tensor:
        parts, along = self.layout.split(self.objective.point), self.layout.split(direction)
        leaves = {name: part.clone().requires_grad_() for name, part in parts.items()}
        logits = self.logits(index, leaves)
        dual = torch.zeros_like(logits, requires_grad=True)
        options = {"allow_unused": True, "materialize_grads": True}
        pulled = torch.autograd.grad(logits, list(leaves.values()), dual, create_graph=True, **options)
        change = torch.autograd.grad(pulled, dual, [along[name] for name in leaves])[0]
        bent = softmax_curvature(logits.detach(), change.detach())
        return self.layout.join(torch.autograd.grad(logits, list(leaves.values()), bent, **options))

    def quadratic_form(self, direction: Tensor, step: float) -> float:
        """``v.G v`` from central differences of the logits in float64: no derivative, no product."""
        point, along = self.objective.point.double(), direction.double()
        moved = [self.layout.split(point + sign * step * along) for sign in (-1, 1)]
        total = 0.0
        for index in range(len(self.objective.batches)):
            behind, ahead = (self.logits(index, parts).detach() for parts in moved)
            change = (ahead - behind) / (2 * step)
            total += float((change * softmax_curvature((ahead + behind) / 2, change)).sum())
        return total * self.objective.weight


def softmax_curvature(logits: Tensor, change: Tensor) -> Tensor:
    """``(diag(p) - p p^T) z`` for rows of logits and changes ``(N, C)``."""
    shares = logits.softmax(dim=-1)
    return shares * (change - (shares * change).sum(dim=-1, keepdim=True))
