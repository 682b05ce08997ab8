"""The Gauss-Newton matrix of a loss that is convex in the model's outputs, as an operator with the interface of the Hessian.

Shape letters: P number of chosen parameters, N targets, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import grad, jvp
from torch.nn import functional

from thalweg.bounds import of_their_kind
from thalweg.curvature.check import CheckReport
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.head import HeadLogits, head_product
from thalweg.curvature.loss_operator import Method, gaussian
from thalweg.curvature.objective import scalar_and_count
from thalweg.curvature.output_operator import OutputOperator, Outputs
from thalweg.errors import BadInputError, Phrase, ShapeMismatchError, require, unknown
from thalweg.vectors import Choice

_OutputFunction = Callable[[Any, Any], tuple[Tensor, Any]]
"""``outputs(model, batch) -> (outputs, targets)``."""
Named = Literal["cross-entropy", "squared-error", "binary-cross-entropy"]
"""Losses whose second derivative in the outputs is known in closed form."""
ConvexLoss = Callable[[Tensor, Any], Any]
"""``loss(outputs, targets) -> mean loss`` or ``(total, count)``, convex in the outputs."""
_CONCAVE = 1e-6
"""Share of ``|z| |C z|`` below which a negative ``z.C z`` counts as rounding."""


class GaussNewton(OutputOperator):
    """The Gauss-Newton matrix ``G = (1/N) sum_n J_n^T C_n J_n`` of a mean loss, ``(P, P)``.

    J_n is the Jacobian of the outputs f_n with respect to the parameters, and C_n the second derivative of the loss in f_n. G is
    positive semi-definite. It equals the Hessian where the outputs are linear in the parameters or the residual vanishes, and the
    Fisher matrix for the three named losses. The mean runs over all that counts, in all batches and ranks:

    * "cross-entropy": outputs are logits ``(..., C)``, targets class numbers ``(...)``; ``C_n = diag(p) - p p^T``, p the softmax.
    * "squared-error": targets in the shape of the outputs; the mean of ``(f - y)^2`` over all entries, as ``mse_loss``; ``C = 2``.
    * "binary-cross-entropy": outputs are logits, targets from 0 to 1 in their shape; ``C = p (1 - p)``, p the sigmoid.
    * a function ``loss(outputs, targets)`` that is convex in the outputs, such as ``nn.HuberLoss()``; C is differentiated.

    Args:
        outputs: ``(model, batch) -> (outputs, targets)``.
        model, batches, params, dtype, memory, check, mode, seed: as for `thalweg.curvature.hessian.Hessian`.
        method: "auto", "recorded" or "rebuilt".
        ignore: the class number that does not count, for "cross-entropy".
        loss: one of the names above, or a function. Convexity of a function is tried along a few changes of the outputs.
    Raises:
        ShapeMismatchError: targets do not match the outputs.
        BadInputError: and its kinds, as for `Hessian`; a batch in which no target counts; a loss that is not convex.
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
        loss: Named | ConvexLoss = "cross-entropy",
    ) -> None:
        require(method != "differences", "method", method, "auto, recorded or rebuilt")
        require(callable(outputs), "outputs", Phrase(type(outputs).__name__), "a function (model, batch) -> (outputs, targets)")
        if not callable(loss) and loss not in get_args(Named):
            raise unknown("loss", str(loss), get_args(Named))
        self.outputs, self.ignore, self.loss = outputs, ignore, loss
        super().__init__(self.total_loss, model, batches, params, dtype, method, memory, mode, seed)
        if callable(loss):
            self.refuse_concave()
        self.report: CheckReport | None = self.settle(self.check) if check else None

    def total_loss(self, model: nn.Module, batch: Any) -> Any:
        """The loss function of the objective: the loss summed over what counts, in its unit (nats), and the number that counts."""
        if self.loss == "cross-entropy":
            logits, targets = self.checked_logits(*self.pair(model, batch))
            total = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=self.ignore)
            return total, int((targets != self.ignore).sum())
        (outputs,), targets = self.split(model, batch)
        if callable(self.loss):
            return self.loss(outputs, targets)
        function = functional.mse_loss if self.loss == "squared-error" else functional.binary_cross_entropy_with_logits
        return function(outputs, targets, reduction="sum"), outputs.numel()

    def pair(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """What the function ``outputs`` returns for a batch, a pair."""
        pair = self.outputs(model, batch)
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        is_pair = is_pair and isinstance(pair[0], Tensor) and (callable(self.loss) or isinstance(pair[1], Tensor))
        form = "(logits (..., C), targets (...))" if self.loss == "cross-entropy" else "(outputs, targets)"
        require(is_pair, "outputs", Phrase(f"a {type(pair).__name__}"), f"a pair of tensors {form}")
        outputs: Any = pair[0]
        later = type(outputs) is HeadLogits and self.loss != "cross-entropy"
        return (outputs.whole() if later else outputs), pair[1]

    def checked_logits(self, logits: Any, targets: Tensor) -> tuple[Any, Tensor]:
        """Logits ``(..., C)`` and class numbers ``(...)``, checked.

        Raises:
            ShapeMismatchError, BadInputError: they do not belong together.
        """
        if logits.dim() < 2 or logits.shape[:-1] != targets.shape:
            shapes = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
            raise ShapeMismatchError(f"outputs: given {shapes}, expected (..., C) and (...)")
        whole_numbers = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        require(whole_numbers, "targets", targets.dtype, "whole numbers, the classes of a softmax, or another loss=")
        wrong = targets[(targets != self.ignore) & ((targets < 0) | (targets >= logits.shape[-1]))]
        if wrong.numel():
            raise BadInputError(
                f"targets: hold {int(wrong[0])}, expected 0 to {logits.shape[-1] - 1}, or {self.ignore} where nothing counts; pass "
                f"ignore={int(wrong[0])} if that marks what does not count"
            )
        return logits, targets.long()

    def split(self, model: nn.Module, batch: Any) -> tuple[Outputs, Any]:
        """The outputs that count: logits ``(N, C)`` of the targets that count, or the outputs as they are, and their targets.

        Where the head is computed in pieces, its states, weight and bias count as the outputs.
        """
        outputs, targets = self.pair(model, batch)
        if self.loss == "cross-entropy":
            logits, targets = self.checked_logits(outputs, targets)
            counting = (targets.flatten() != self.ignore).nonzero().squeeze(-1)
            rows = logits.flatten(0, -2).index_select(0, counting)
            if type(rows) is not HeadLogits:
                return (rows,), None
            bias = rows.weight.new_zeros(len(rows.weight)) if rows.bias is None else rows.bias
            return (rows.states, rows.weight, bias), None
        if not callable(self.loss):
            if outputs.shape != targets.shape:
                shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
                raise ShapeMismatchError(f"outputs: given {shapes}, expected the same shape")
            targets = targets.to(outputs.dtype)
            binary = self.loss != "binary-cross-entropy" or bool(((targets >= 0) & (targets <= 1)).all())
            require(binary, "targets", Phrase("a number outside of 0 to 1"), "probabilities of the class 1")
        return (outputs,), targets

    def curved(self, fixed: Any, outputs: Outputs, change: Outputs) -> Outputs:
        if len(outputs) == 3:
            states = outputs[0]
            targets = torch.zeros(len(states), dtype=torch.long, device=states.device)  # all count, and C does not depend on them
            return head_product(*outputs, targets, states.new_ones(()), *change, -1, True)[:3]
        (given,), (along,) = outputs, change
        if self.loss == "cross-entropy":
            return (_softmax_curvature(given, along),)
        if self.loss == "squared-error":
            return (2.0 * along,)
        if self.loss == "binary-cross-entropy":
            shares = given.sigmoid()
            return (shares * (1 - shares) * along,)
        return (jvp(grad(lambda values: self.summed(values, fixed)), (given,), (along,))[1],)

    def summed(self, outputs: Tensor, targets: Any) -> Tensor:
        """A user's loss as it enters the mean: the mean, or the total of ``(total, count)``."""
        assert callable(self.loss)
        return scalar_and_count(self.loss(outputs, targets))[0]

    def form(self, fixed: Any, behind: Outputs, ahead: Outputs, step: float) -> float:
        """As for the base class; for a user's loss ``C z`` is the difference of the loss's gradient at the two outputs."""
        if not callable(self.loss):
            return super().form(fixed, behind, ahead, step)
        targets = fixed.to(ahead[0].dtype) if isinstance(fixed, Tensor) and fixed.is_floating_point() else fixed
        gradients = [grad(lambda values: self.summed(values, targets))(part[0]) for part in (behind, ahead)]
        return float(((ahead[0] - behind[0]) * (gradients[1] - gradients[0])).sum()) / (2 * step) ** 2

    def refuse_concave(self) -> None:
        """Refuse a user's loss with negative curvature along one of three random changes of each batch's outputs.

        Raises:
            BadInputError: the loss is not convex in the outputs.
        """
        parts = self.layout.split(self.objective.point)
        for index in range(len(self.objective.batches)):
            with self.objective.quiet():
                fixed = self.fixed_at(index, parts)
                outputs = tuple(part.detach() for part in self.outputs_at(index, parts))
                noise = gaussian(outputs[0])
                for change in (noise, noise.abs(), outputs[0]):
                    (curved,) = self.curved(fixed, outputs, (change,))
                    form = float((change * curved).sum())
                    if form < -_CONCAVE * float(change.norm() * curved.norm()):
                        raise BadInputError(
                            f"loss: its curvature along a change of the outputs is {form / float(change.square().sum()):.2e}, "
                            "expected a loss that is convex in the outputs; Hessian takes any loss"
                        )


def _softmax_curvature(logits: Tensor, change: Tensor) -> Tensor:
    """``(diag(p) - p p^T) z`` for each row, p the softmax of the logits and z their change, ``(N, C)`` both."""
    shares = logits.softmax(dim=-1)
    return shares * (change - (shares * change).sum(dim=-1, keepdim=True))
