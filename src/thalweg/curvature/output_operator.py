"""Products with ``sum_b J_b^T C_b J_b``: the Jacobian of a model's outputs on both sides of a curvature of the outputs.

The Gauss-Newton matrix (C the second derivative of the loss in the outputs) and the empirical Fisher matrix (the outputs are the
losses of single samples, C the identity) have this form.

Shape letters: P number of chosen parameters.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp

from thalweg.curvature.check import CheckReport, check_gauss_newton
from thalweg.curvature.loss_operator import LossOperator, Parts
from thalweg.curvature.objective import joined

Outputs = tuple[Tensor, ...]
"""The tensors through which the parameters act on the loss."""


class OutputOperator(LossOperator):
    """A positive semi-definite operator ``sum_b J_b^T C_b J_b`` over batches b, times the weight of a batch in the mean.

    A subclass says what the outputs are and how C acts on a change of them.
    """

    @abc.abstractmethod
    def split(self, model: nn.Module, batch: Any) -> tuple[Outputs, Any]:
        """The outputs of a batch, and what C needs besides them and does not depend on the weights, such as targets."""

    @abc.abstractmethod
    def curved(self, fixed: Any, outputs: Outputs, change: Outputs) -> Outputs:
        """``C z`` for a change z of the outputs."""

    def form(self, fixed: Any, behind: Outputs, ahead: Outputs, step: float) -> float:
        """``z^T C z`` of one batch from outputs at ``theta - h v`` and ``theta + h v``, z their central difference."""
        # Equal infinities, as of masked classes, have a difference of 0 and not NaN.
        pairs = list(zip(behind, ahead, strict=True))
        change = tuple(torch.where(b == a, torch.zeros_like(a), a - b) / (2 * step) for b, a in pairs)
        curved = self.curved(fixed, tuple((a + b) / 2 for b, a in pairs), change)
        return sum(float((z * c).sum()) for z, c in zip(change, curved, strict=True))

    def check(self, seed: int = 0) -> CheckReport:
        """Compare products with central differences of the outputs, see `thalweg.curvature.check.check_gauss_newton`."""
        return check_gauss_newton(self, self.objective, self.quadratic_form, seed)

    def outputs_at(self, index: int, parameters: Parts) -> Outputs:
        """Outputs of batch number ``index`` with these weights."""
        return self.objective.call(lambda model, batch: self.split(model, batch)[0], self.objective.batches[index], parameters)

    def fixed_at(self, index: int, parameters: Parts) -> Any:
        """What does not depend on the weights, see `split`."""
        with torch.no_grad():
            return self.objective.call(lambda model, batch: self.split(model, batch)[1], self.objective.batches[index], parameters)

    def derivative(self, index: int) -> Callable[..., Sequence[Tensor]]:
        parts = self.layout.split(self.objective.point)
        fixed = self.fixed_at(index, parts)

        def along(*direction: Tensor) -> list[Tensor]:
            # Forward: z = J v, the change of the outputs. Backward: J^T (C z).
            tangents = dict(zip(self.layout.names, direction, strict=True))
            outputs, change = jvp(lambda given: self.outputs_at(index, given), (parts,), (tangents,))[:2]
            products = vjp(lambda given: self.outputs_at(index, given), parts)[1](self.curved(fixed, outputs, change))
            return list(products[0].values())

        return along

    def product(self, batch: Any, direction: Tensor) -> Tensor:
        layout, along = self.layout, self.layout.split(direction)
        leaves = {name: part.clone().requires_grad_() for name, part in layout.split(self.objective.point).items()}

        def differentiate(model: nn.Module, given: Any) -> Tensor:
            outputs, fixed = self.split(model, given)
            moving = [part for part in outputs if part.requires_grad]
            # J v by two backward passes: J^T u is linear in a dual u, and its derivative along v is J v.
            duals = [torch.zeros_like(part, requires_grad=True) for part in moving]
            options = {"allow_unused": True, "materialize_grads": True}
            pulled_duals = torch.autograd.grad(moving, list(leaves.values()), duals, create_graph=True, **options)
            linear = [(pulled, along[name]) for pulled, name in zip(pulled_duals, leaves, strict=True) if pulled.requires_grad]
            pulled, directions = zip(*linear, strict=True)
            changes = iter(torch.autograd.grad(pulled, duals, directions, **options))
            change = tuple(next(changes).detach() if part.requires_grad else torch.zeros_like(part) for part in outputs)
            curved = self.curved(fixed, tuple(part.detach() for part in outputs), change)
            weights = [value for part, value in zip(outputs, curved, strict=True) if part.requires_grad]
            return joined(layout, torch.autograd.grad(moving, list(leaves.values()), weights, **options), direction)

        return self.objective.call(differentiate, batch, leaves)

    def quadratic_form(self, direction: Tensor, step: float) -> float:
        """``v.G v`` of this rank's batches from central differences of the outputs, without any derivative or product of ours.

        ``sum z^T C z`` times the batches' weight, with ``z = (f(theta + h v) - f(theta - h v)) / 2h``, in the most precise
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
            behind, ahead = (tuple(part.detach() for part in self.outputs_at(index, parts)) for parts in moved)
            total += self.form(self.fixed_at(index, moved[0]), behind, ahead, step)
        return total * self.objective.weight
