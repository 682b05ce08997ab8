"""The mean loss over batches as a function of chosen parameters, at a fixed point.

Shape letters: P number of chosen parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from thalweg import ranks
from thalweg.curvature.kinks import Names
from thalweg.errors import BadInputError, NonFiniteError, NotDifferentiableError, ShapeMismatchError, require
from thalweg.vectors import Choice, layout, select

LossFunction = Callable[[Any, Any], Any]
"""``loss_fn(model, batch) -> mean loss`` or ``(total, count)``, scalars."""


class Objective:
    """Mean loss over batches at the model's present weights, which are copied.

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; wrappers for data parallelism and compilation are taken off, sharded modules are refused.
        batches: a list (or other iterable that ends) of batches in any nesting of lists, tuples and dicts.
        params: which parameters, see `thalweg.vectors.select`.
        dtype: float32 or float64 for weights, buffers and inputs; None keeps the weights' own (float32 for half precision).
    Raises:
        BadInputError: no batches, a bare mean over ragged batches, a count that is not positive, weights that do not enter.
        NonFiniteError: NaN or infinity in weights or loss.
        NotDifferentiableError: the loss has no graph.
    """

    def __init__(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        params: Choice = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.loss_fn, self.model = loss_fn, unwrapped(model)
        chosen = select(self.model, params)
        self.layout = layout(chosen)
        first = next(iter(chosen.values()))
        self.device = first.device
        self.dtype = dtype or (first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32)
        require(self.dtype in (torch.float32, torch.float64), "dtype", dtype, "torch.float32 or torch.float64")
        self.batches = [self.moved(batch, self.dtype) for batch in listed(batches)]
        rest = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self.frozen = {name: cast(value.detach(), self.dtype).clone() for name, value in rest.items() if name not in chosen}
        self.point = self.layout.join(value.detach().to(self.dtype) for value in chosen.values())
        self.kinks: tuple[str, ...] = ()
        self.saved_bytes = 0
        self.bare = False
        self.weight, self.value, self.gradient = self.first_pass()

    @property
    def dim(self) -> int:
        """P."""
        return self.layout.dim

    def moved(self, batch: Any, dtype: torch.dtype) -> Any:
        """The batch on the parameters' device, its floating-point tensors in ``dtype``."""
        return pytree.tree_map(lambda leaf: cast(leaf.to(self.device), dtype) if isinstance(leaf, Tensor) else leaf, batch)

    def call(self, function: LossFunction, batch: Any, parameters: Mapping[str, Tensor]) -> Any:
        """``function(model, batch)`` with these weights in place of the model's, all in the weights' dtype."""
        frozen, dtype = self.frozen, next(iter(parameters.values())).dtype
        if dtype != self.dtype:
            frozen = {name: cast(value, dtype) for name, value in frozen.items()}
            batch = self.moved(batch, dtype)
        return functional_call(Bound(self.model, function), named(parameters, frozen), (batch,))

    def part(self, batch: Any, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """What the loss function gives for one batch: ``(mean, None)`` or ``(total, count)``."""
        return scalar_and_count(self.call(self.loss_fn, batch, parameters))

    def total(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Loss of one batch as the loss function gives it; its share of the mean is this times ``weight``."""
        return self.part(self.batches[index], parameters)[0]

    def first_pass(self) -> tuple[float, float, Tensor]:
        """Factor of every batch's loss in the mean, the mean loss, its gradient ``(P,)``; refuses what is no mean loss."""
        values, counts, gradients = 0.0, [], torch.zeros_like(self.point)
        entered = torch.zeros(len(self.layout.names))
        names, saved = Names(), Saved()
        with ranks.together(), quiet(self.model):
            for index in range(len(self.batches)):
                value, count, parts = self.differentiated(index, names, saved)
                filled = [
                    part if part is not None else self.point.new_zeros(shape)
                    for part, shape in zip(parts, self.layout.shapes, strict=True)
                ]
                gradients += self.layout.join(filled)
                entered += torch.tensor([part is not None for part in parts], dtype=entered.dtype)
                values += value
                counts.append(checked_count(count, index))
            refuse_ragged(counts, self.batches)
        self.bare = counts[0] is None
        self.kinks, self.saved_bytes = tuple(sorted(names.found)), saved.bytes()
        self.refuse_unused(ranks.total(entered))
        whole = sum(1.0 if count is None else count for count in counts)
        sums = ranks.total(torch.tensor([values, whole], dtype=torch.float64)).tolist()
        return 1 / sums[1], sums[0] / sums[1], ranks.total(gradients) / sums[1]

    def differentiated(self, index: int, names: Names, saved: Saved) -> tuple[float, Any, tuple[Tensor | None, ...]]:
        """Value, count and gradient of one batch's loss, None where a parameter does not enter; looks on in the first batch."""
        parameters = {name: part.clone().requires_grad_() for name, part in self.layout.split(self.point).items()}
        with contextlib.ExitStack() as stack:
            if index == 0:
                stack.enter_context(names)
                stack.enter_context(saved_tensors_hooks(saved.add, saved.give))
            value, count = self.part(self.batches[index], parameters)
        if not value.requires_grad:
            raise NotDifferentiableError(
                f"loss of batch {index}: has no graph; none of the chosen parameters enters it, or it was detached on the way"
            )
        if not torch.isfinite(value.detach()):
            raise NonFiniteError(f"loss of batch {index}: {value.item()}, expected a finite number")
        return value.item(), count, torch.autograd.grad(value, list(parameters.values()), allow_unused=True)

    def refuse_unused(self, entered: Tensor) -> None:
        """Every chosen parameter must enter the loss of some batch on some rank."""
        unused = [name for name, times in zip(self.layout.names, entered.tolist(), strict=True) if times == 0]
        if unused:
            named = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
            raise BadInputError(f"params: {named} do not enter the loss; choose the others with params=, or freeze these")

    def gradient_at(self, point: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Gradient of the mean loss ``(P,)`` at another point, in ``dtype`` arithmetic; summed over ranks."""
        dtype = dtype or self.dtype
        summed = torch.zeros_like(point, dtype=dtype)
        with quiet(self.model):
            for batch in self.batches:
                leaf = point.detach().to(dtype).clone().requires_grad_()
                value = self.part(batch, self.layout.split(leaf))[0]
                summed += self.weight * torch.autograd.grad(value, leaf)[0]
        return ranks.total(summed)


class Bound(nn.Module):
    """``loss_fn`` with its model as one module, so that all weights can be exchanged for a call."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> Any:
        return self.loss_fn(self.model, batch)


class Saved:
    """Adds up what autograd saves for a backward pass; shared storage counts once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def add(self, tensor: Tensor) -> Tensor:
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def give(self, tensor: Tensor) -> Tensor:
        return tensor

    def bytes(self) -> int:
        return sum(self.storages.values())


@contextlib.contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, attention by matrix products, gradients on; every module's mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers for data parallelism and compilation; sharded ones are refused."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    sharded = any(type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for module in model.modules())
    if sharded or any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise BadInputError(
            "model: its parameters are sharded (FSDP); gather the full state dict into an unwrapped copy and give that"
        )
    return model


def listed(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list that is not empty."""
    single = isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable)
    require(not single, "batches", type(batches).__name__, "a list of batches; for one batch write [batch]")
    kept = list(batches)
    require(bool(kept), "batches", "none", "at least one batch (an iterator that was used up is empty)")
    return kept


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """In ``dtype`` if it is floating-point; whole numbers and flags stay."""
    return value.to(dtype) if value.is_floating_point() else value


def named(parameters: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights under the names they have inside `Bound`."""
    return {f"model.{name}": value for name, value in {**frozen, **parameters}.items()}


def scalar_and_count(given: Any) -> tuple[Tensor, Any]:
    """``(total, count)``, the count None for a bare mean."""
    value, count = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(value, Tensor):
        raise BadInputError(f"loss_fn: returned {type(value).__name__}, expected a scalar tensor or (total, count)")
    if value.dim() != 0:
        raise ShapeMismatchError(
            f"loss_fn: returned shape {tuple(value.shape)}, expected a scalar; reduce it by mean, or give (sum, count)"
        )
    return value, count


def checked_count(count: Any, index: int) -> float | None:
    """A positive number, or None for a bare mean."""
    if count is None:
        return None
    number = float(count)
    require(
        0 < number < float("inf"), f"count of batch {index}", number, "a positive number; leave out batches in which nothing counts"
    )
    return number


def refuse_ragged(counts: Sequence[float | None], batches: Sequence[Any]) -> None:
    """A bare mean over batches of different shapes would weigh them alike, whatever they hold."""
    given = [count is not None for count in counts]
    require(
        all(given) or not any(given), "loss_fn", "a count for some batches only", "(total, count) for all, or a bare mean for all"
    )
    shapes = {tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)) for batch in batches}
    ragged = not any(given) and len(shapes) > 1
    require(
        not ragged,
        "batches",
        "different shapes with a bare mean",
        "a loss_fn that returns (total, count), so that the mean is weighted",
    )
