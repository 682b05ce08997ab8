"""The mean loss over batches as a function of chosen parameters, at a fixed point.

Shape letters: P number of chosen parameters.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from thalweg import ranks
from thalweg.bounds import of_their_kind
from thalweg.curvature import memory
from thalweg.curvature.containers import cast, copied, map_tensors, shapes_in, tensors_in
from thalweg.curvature.context import Mode, checked_mode, quiet, random_state, seeded, unchanged_attributes, undisturbed
from thalweg.curvature.graph import captured, reached
from thalweg.curvature.kinks import Names
from thalweg.curvature.precision import Kept
from thalweg.errors import (
    BadInputError,
    MemoryLimitError,
    NonFiniteError,
    NotDifferentiableError,
    ShapeMismatchError,
    ThalwegError,
    require,
)
from thalweg.vectors import Choice, Layout, layout, select

LossFunction = Callable[[Any, Any], Any]
"""``loss_fn(model, batch) -> mean loss`` or ``(total, count)``, scalars."""


MOST_BATCHES = 100_000
"""Batches that are taken at most; an iterator with more is likely to have no end."""


@dataclass
class Seen:
    """What the first evaluation showed of the loss; used in messages, and to decide how a product can be checked."""

    kinks: tuple[str, ...] = ()
    """Operations with a kink."""
    custom: tuple[str, ...] = ()
    """Classes derived from ``torch.autograd.Function``."""
    cuts: tuple[str, ...] = ()
    """Ways out of the graph that a value depending on the weights took: "detach", "no_grad"."""
    casts: tuple[str, ...] = ()
    """Lower floating-point types that the loss casts to by itself; these casts are left out."""
    random: bool = False
    """Random numbers were drawn from a global generator."""
    reentrant: bool = False
    """It runs blocks under ``torch.utils.checkpoint`` with ``use_reentrant=True``."""


class Objective:
    """Mean loss over batches at the model's present weights. Weights and batches are copied; the model is left as it is.

    All arithmetic is in ``dtype``: weights, buffers and batches are converted, and casts of the loss's own to a lower precision are
    left out (`thalweg.curvature.precision`).

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; wrappers for data parallelism and compilation are taken off, sharded modules are refused.
        batches: a list (or other iterable that ends) of batches, see `thalweg.curvature.containers` for what they may be made of.
        params: which parameters, see `thalweg.vectors.select`.
        dtype: float32 or float64 for weights, buffers and inputs; None keeps the weights' own (float32 for half precision).
        mode: "eval" (dropout off, running statistics of BatchNorm), "train" (dropout on, statistics of the batch; running ones
            are left as they are) or "as-is" (every module in the mode that it is in).
        seed: of PyTorch's, numpy's and Python's global generators at each evaluation, which makes a random loss a fixed one;
            None leaves them alone, and a loss that is random is refused when it is checked.
    Raises:
        BadInputError: no batches, a bare mean over ragged batches, a count that is no positive number or depends on the weights,
            weights that do not enter, weights that the loss takes from elsewhere or writes into, autocast below float64.
        NonFiniteError: NaN or infinity in weights, loss or gradient.
        NotDifferentiableError: the loss has no graph.
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
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> None:
        _check_order(loss_fn, model)
        self.loss_fn, self.model, self.seed = loss_fn, unwrapped(model), seed
        self.mode: Mode = checked_mode(mode)
        chosen = select(self.model, params)
        self.own = tuple(self.model.parameters())
        self.layout = layout(chosen)
        first = next(iter(chosen.values()))
        self.device = first.device
        self.dtype = dtype or (first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32)
        require(self.dtype in (torch.float32, torch.float64), "dtype", dtype, "torch.float32 or torch.float64")
        self.pair = isinstance(batches, tuple)
        self.batches = [self.moved(batch, self.dtype) for batch in listed(batches)]
        rest = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self.frozen = {name: cast(value.detach(), self.dtype).clone() for name, value in rest.items() if name not in chosen}
        self.buffers = {name for name, _ in self.model.named_buffers()}
        self.point = self.layout.join(value.detach().to(self.dtype) for value in chosen.values())
        self.seen = Seen()
        self.precise = torch.float32 if self.device.type == "mps" else torch.float64
        self.rounds = self.foreign = False
        self.kept: dict[torch.dtype, bool] = {}
        self.writes_batches = False
        self.saved_bytes = 0
        self.bare = False
        self.weight, self.value, self.gradient = self._first_pass(chosen)

    @property
    def dim(self) -> int:
        """P."""
        return self.layout.dim

    @property
    def kinks(self) -> tuple[str, ...]:
        """Operations with a kink, by name."""
        return self.seen.kinks

    def moved(self, batch: Any, dtype: torch.dtype) -> Any:
        """The batch on the parameters' device, its floating-point tensors in ``dtype``."""
        return map_tensors(lambda tensor: cast(tensor.to(self.device), dtype), batch)

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """The surroundings in which this loss is evaluated."""
        return quiet(self.model, self.mode)

    def call(self, function: LossFunction, batch: Any, parameters: Mapping[str, Tensor]) -> Any:
        """``function(model, batch)`` with these weights in place of the model's, all in the weights' dtype.

        What ``function`` does with derivatives inside is done while the weights are exchanged, which checkpointed blocks need: they
        run again in the backward pass. Attributes, buffers and batches that are written to are copies or put back.
        """
        dtype = next(iter(parameters.values())).dtype
        frozen = self.frozen if dtype == self.dtype else {name: cast(value, dtype) for name, value in self.frozen.items()}
        frozen = {name: value.clone() if name in self.buffers else value for name, value in frozen.items()}
        given = copied(batch) if self.writes_batches else batch
        given = self.moved(given, dtype)
        bound = Bound(self.model, function)
        with unchanged_attributes(self.model), seeded(self.seed), self._arithmetic(dtype):
            return functional_call(bound, named(parameters, frozen), (given,))

    @contextlib.contextmanager
    def _arithmetic(self, dtype: torch.dtype) -> Iterator[None]:
        """Keep to ``dtype``; left out where the first evaluation in it showed that nothing has to be kept."""
        if self.kept.get(dtype, True):
            with Kept(dtype) as kept:
                yield
            self.kept[dtype] = self.kept.get(dtype, False) or kept.intervened
            self.rounds |= dtype == torch.float64 and bool(kept.rounded)
        else:
            yield

    def part(self, batch: Any, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """What the loss function gives for one batch: ``(mean, None)`` or ``(total, count)``."""
        return _scalar_and_count(self.call(self.loss_fn, batch, parameters))

    def total(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Loss of one batch as the loss function gives it; its share of the mean is this times ``weight``."""
        return self.part(self.batches[index], parameters)[0]

    def gradient_of(self, batch: Any, point: Tensor) -> Tensor:
        """Gradient ``(P,)`` of the loss of one batch as the loss function gives it, in the point's dtype."""
        leaves = {name: part.detach().clone().requires_grad_() for name, part in self.layout.split(point).items()}

        def differentiate(model: nn.Module, given: Any) -> Tensor:
            value = _scalar_and_count(self.loss_fn(model, given))[0]
            return joined(self.layout, self._gradients(value, leaves), point)

        return self.call(differentiate, batch, leaves)

    @undisturbed
    def gradient_at(self, point: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Gradient of the mean loss ``(P,)`` at another point, in ``dtype`` arithmetic; summed over ranks."""
        dtype = dtype or self.dtype
        summed = torch.zeros_like(point, dtype=dtype)
        with self.quiet():
            for batch in self.batches:
                summed += self.weight * self.gradient_of(batch, point.detach().to(dtype))
        return ranks.total(summed)

    def twice_differentiated(self, batch: Any, point: Tensor, direction: Tensor) -> Tensor:
        """``H v`` ``(P,)`` of the loss of one batch at a point, by double backward.

        Raises:
            NotDifferentiableError: an operation has no second derivative.
        """
        leaves = {name: part.detach().clone().requires_grad_() for name, part in self.layout.split(point).items()}
        along = self.layout.split(direction)

        def differentiate(model: nn.Module, given: Any) -> Tensor:
            value = _scalar_and_count(self.loss_fn(model, given))[0]
            kept = self._others_kept(value, leaves) if self.foreign else contextlib.nullcontext()
            with kept:
                return joined(self.layout, _second_derivatives(value, leaves, along), point)

        return self.call(differentiate, batch, leaves)

    def product_at(self, point: Tensor, direction: Tensor) -> Tensor:
        """``H v`` ``(P,)`` of the mean loss at another point by double backward, in the point's dtype; summed over ranks."""
        with self.quiet():
            parts = [self.weight * self.twice_differentiated(batch, point, direction) for batch in self.batches]
        return ranks.total(torch.stack(parts).sum(0))

    def _gradients(self, value: Tensor, leaves: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
        """Derivatives of a value; None where a leaf does not enter.

        Blocks under a reentrant checkpoint write gradients into the leaves and do nothing else, so there a whole backward pass is
        made; gradients that it leaves on other tensors are put back.
        """
        if not self.seen.reentrant:
            return torch.autograd.grad((get_gradient_edge(value),), _edges(leaves), allow_unused=True)
        with self._others_kept(value, leaves):
            torch.autograd.backward((get_gradient_edge(value),))
        return [leaf.grad for leaf in leaves.values()]

    @contextlib.contextmanager
    def _others_kept(self, value: Tensor, leaves: Mapping[str, Tensor]) -> Iterator[None]:
        """Gradients that a whole backward pass leaves on other tensors than ours are put back."""
        ours = {id(leaf) for leaf in leaves.values()}
        others = [(leaf, leaf.grad) for leaf in (*reached(value).leaves, *self.own) if id(leaf) not in ours]
        for leaf, _ in others:
            leaf.grad = None  # what is there would be added to in place
        try:
            yield
        finally:
            for leaf, before in others:
                leaf.grad = before

    def _first_pass(self, chosen: Mapping[str, nn.Parameter]) -> tuple[float, float, Tensor]:
        """Factor of every batch's loss in the mean, the mean loss, its gradient ``(P,)``; refuses what is no mean loss."""
        values, counts, gradients = 0.0, [], torch.zeros_like(self.point)
        entered = [0.0] * len(self.layout.names)
        with ranks.together(), self.quiet(), _tracked(chosen):
            for index in range(len(self.batches)):
                value, count, parts = self._first_look(index, chosen)
                gradients += joined(self.layout, parts, self.point)
                entered = [times + (part is not None) for times, part in zip(entered, parts, strict=True)]
                values += value
                counts.append(count)
            _refuse_ragged(counts, self.batches)
            self._refuse_moving_count(counts)
        if self.seed is not None and self.seen.random and not self._same_draws():
            self.precise = self.dtype
        self.bare = counts[0] is None
        self._refuse_unused(ranks.total(torch.tensor(entered, device="cpu")))
        whole = sum(1.0 if count is None else count for count in counts)
        sums = ranks.total(torch.tensor([values, whole], dtype=torch.float64, device="cpu")).tolist()
        return 1 / sums[1], sums[0] / sums[1], ranks.total(gradients) / sums[1]

    def _first_look(self, index: int, chosen: Mapping[str, nn.Parameter]) -> tuple[float, Any, Sequence[Tensor | None]]:
        """Value, count and gradients of one batch's loss; an error that only our surroundings cause is told as such."""
        try:
            return self._differentiated(index, chosen)
        except ThalwegError:
            raise
        except Exception as problem:
            if isinstance(problem, torch.OutOfMemoryError):
                raise
            if "use_reentrant" in str(problem) and not self.seen.reentrant:
                self.seen.reentrant = True
                return self._differentiated(index, chosen)
            explained = self._explained(problem, index)
            if explained is problem:
                raise
            raise explained from problem

    def _explained(self, problem: Exception, index: int) -> Exception:
        """The loss's own error where it fails on the model as it is too; else a refusal that says what we do differently."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with unchanged_attributes(self.model):
                self.loss_fn(self.model, copied(self.batches[index]))
        except Exception:
            converted = isinstance(problem, RuntimeError) and self.dtype not in {weight.dtype for weight in self.own}
            if converted:  # the batches are, so the model as it is cannot take them
                return BadInputError(f"loss of batch {index}: fails with weights and batches in {self.dtype}: {_line(problem)}")
            if self.pair:
                words = "tuple, the loss fails on its first part"
                return BadInputError(f"batches: given a {words} ({_line(problem)}); for one batch write [batch]")
            return problem
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        limited = [name for name, module in self.model.named_modules() if getattr(module, "max_norm", None) is not None]
        cause = f"max_norm of {limited[0] or 'the embedding'} writes into its weight" if limited else _line(problem)
        return BadInputError(
            f"loss of batch {index}: works on the model itself, but not as a function of its weights in {self.dtype}: {cause}"
        )

    def _differentiated(self, index: int, chosen: Mapping[str, nn.Parameter]) -> tuple[float, Any, Sequence[Tensor | None]]:
        """Value, count and gradient of one batch's loss, None where a parameter does not enter; looks on in the first batch."""
        leaves = {name: part.clone().requires_grad_() for name, part in self.layout.split(self.point).items()}
        names, handed, said = Names(), copied(self.batches[index]), []
        versions = [tensor._version for tensor in tensors_in(handed)]
        kept = Kept(self.dtype)

        def look(model: nn.Module, batch: Any) -> tuple[float, Any, Sequence[Tensor | None]]:
            before = random_state()
            with names if index == 0 else contextlib.nullcontext(), kept, _listening(said):
                value, count = _scalar_and_count(self.loss_fn(model, batch))
            self.seen.random |= before != random_state()
            if index == 0:
                self.saved_bytes = names.alive()
            count = _checked_count(count, index)
            self._check_value(value, index, said)
            found = reached(value)
            self._note(names, kept, found.custom)
            self._refuse_captured(captured(found.leaves, chosen))
            ours = {id(leaf) for leaf in leaves.values()}
            self.foreign |= self.seen.reentrant or any(id(leaf) not in ours for leaf in found.leaves)
            kept.noting = False
            with kept:  # checkpointed blocks run again
                parts = self._gradients(value, leaves)
            self._check_gradients(parts, index)
            return value.item(), count, parts

        self.kept[self.dtype] = False  # `look` keeps the arithmetic by itself, so that what it notes is seen
        result = self.call(look, handed, leaves)
        self.kept[self.dtype] = kept.intervened or bool(self.seen.casts)
        self.rounds |= self.dtype == torch.float64 and bool(kept.rounded)
        self.writes_batches |= versions != [tensor._version for tensor in tensors_in(handed)]
        self._refuse_written(leaves)
        return result

    def _note(self, names: Names, kept: Kept, custom: tuple[str, ...]) -> None:
        """Keep what was seen; autocast is refused below float64, which it leaves alone."""
        if kept.autocast is not None and self.dtype != torch.float64:
            raise BadInputError(
                f"loss_fn: computes under torch.autocast in {kept.autocast}, whose rounding hides its second derivative; leave "
                "autocast off inside of loss_fn, or give dtype=torch.float64, which it does not touch"
            )
        seen = self.seen
        seen.kinks = tuple(sorted({*seen.kinks, *names.found}))
        seen.custom = tuple(sorted({*seen.custom, *custom}))
        seen.cuts = tuple(sorted({*seen.cuts, *kept.cuts}))
        seen.casts = tuple(sorted({*seen.casts, *(str(dtype) for dtype in kept.casts)}))

    def _check_value(self, value: Tensor, index: int, said: Sequence[str]) -> None:
        """The loss is finite and has a graph."""
        if not torch.isfinite(value.detach()):
            raise NonFiniteError(f"loss of batch {index}: {value.item()}, expected a finite number")
        self.seen.reentrant |= any("None of the inputs have requires_grad" in line for line in said)
        if not value.requires_grad:
            raise NotDifferentiableError(
                f"loss of batch {index}: has no graph; none of the chosen parameters enters it, or it was detached on the way"
            )

    def _check_gradients(self, parts: Sequence[Tensor | None], index: int) -> None:
        """Every entry of the gradient is finite."""
        bad = [name for name, part in zip(self.layout.names, parts, strict=True) if part is not None and not _all_finite(part)]
        if bad:
            raise NonFiniteError(
                f"gradient of batch {index}: NaN or infinity for {_shown(bad)} although the loss is finite (the square root of 0, "
                "0 times infinity); move the loss away from that point, or add a small number inside of the root"
            )

    def _same_draws(self) -> bool:
        """Does a seed give the same random numbers in the most precise arithmetic? On a GPU they depend on the type."""
        here = self.layout.split(self.point.to(self.precise))
        try:
            with self.quiet(), torch.no_grad():
                values = [
                    float(self.part(batch, parts)[0]) for parts in (here, self.layout.split(self.point)) for batch in self.batches
                ]
        except Exception:
            return False
        half = len(values) // 2
        return all(abs(a - b) <= 1e-3 * abs(b) for a, b in zip(values[:half], values[half:], strict=True))

    def _refuse_captured(self, names: Sequence[str]) -> None:
        """A loss that reaches a chosen weight past the model that it is given would take it for a constant."""
        if names:
            raise BadInputError(
                f"loss_fn: takes {_shown(names)} from outside of the model that it is given (a list made before, an optimizer, an "
                "attribute that is no parameter), where exchanged weights do not arrive; take weights from the argument: "
                "model.parameters(), and tie them as attributes of modules"
            )

    def _refuse_written(self, leaves: Mapping[str, Tensor]) -> None:
        """A loss that changes weights while it is evaluated is no function of them."""
        with torch.no_grad():
            written = [name for name, part in self.layout.split(self.point).items() if not torch.equal(leaves[name], part)]
        if written:
            raise BadInputError(
                f"loss_fn: writes into {_shown(written)} while it is evaluated (an embedding with max_norm, a clamp in place); "
                "take max_norm off, or normalise out of place"
            )

    def _refuse_unused(self, entered: Tensor) -> None:
        """Every chosen parameter must enter the loss of some batch on some rank."""
        unused = [name for name, times in zip(self.layout.names, entered.tolist(), strict=True) if times == 0]
        unused = [name for name in unused if dict(zip(self.layout.names, self.layout.sizes, strict=True))[name]]
        if unused and self.seen.reentrant:
            raise NotDifferentiableError(
                f"params: no gradient reaches {_shown(unused)} through torch.utils.checkpoint with use_reentrant=True, whose "
                "inputs do not require one; pass use_reentrant=False"
            )
        if unused:
            raise BadInputError(f"params: {_shown(unused)} do not enter the loss; choose the others with params=, or freeze these")

    def _refuse_moving_count(self, counts: Sequence[float | None]) -> None:
        """A count is a property of the batch: at other weights it is the same. An accuracy, say, is not."""
        if counts[0] is None:
            return
        other = {name: part + self.scales_of(part) for name, part in self.layout.split(self.point).items()}
        try:
            with torch.no_grad():
                count = _checked_count(self.part(self.batches[0], other)[1], 0)
        except Exception:  # the loss may not be defined there
            return
        if count is not None and abs(count - counts[0]) > 1e-6 * counts[0]:
            raise BadInputError(
                f"count of batch 0: {counts[0]:g} at the model's weights and {count:g} at others, expected what the batch alone "
                "decides, such as the number of targets; return the loss alone if the second value is something else"
            )

    @staticmethod
    def scales_of(part: Tensor) -> Tensor:
        """Random signs times the size of a weight, so that it is moved by as much as it is long."""
        generator = torch.Generator().manual_seed(0)
        signs = 2.0 * torch.randint(0, 2, part.shape, generator=generator, device="cpu").to(part) - 1
        size = part.square().mean().sqrt() if part.numel() else part.new_zeros(())
        return signs * (size if float(size) > 0 else 1.0)


def _second_derivatives(value: Tensor, leaves: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
    """``H v`` in the leaves' shapes.

    Raises:
        NotDifferentiableError: an operation has no second derivative.
    """
    try:
        edge, inputs = (get_gradient_edge(value),), _edges(leaves)
        gradients = torch.autograd.grad(edge, inputs, create_graph=True, allow_unused=True)
        dense = [g if g is None or g.layout == torch.strided else g.to_dense() for g in gradients]
        pairs = [(g, direction[name]) for g, name in zip(dense, leaves, strict=True) if g is not None and g.requires_grad]
        # Not autograd.grad with the leaves as inputs: that leaves out the nodes that would report a missing derivative.
        torch.autograd.backward([get_gradient_edge(pair[0]) for pair in pairs], [pair[1] for pair in pairs])
    except (RuntimeError, NotImplementedError) as problem:
        if isinstance(problem, torch.OutOfMemoryError):
            raise
        line = _line(problem)
        if "use_reentrant" in line:
            raise NotDifferentiableError(
                "loss: torch.utils.checkpoint with use_reentrant=True has no second derivative; pass use_reentrant=False, or use "
                "method='differences'"
            ) from problem
        raise NotDifferentiableError(f"loss: an operation has no second derivative ({line}); use method='differences'") from problem
    return [leaf.grad for leaf in leaves.values()]


def _edges(leaves: Mapping[str, Tensor]) -> tuple[GradientEdge, ...]:
    """The places of leaves in a graph. Given these instead of tensors, autograd runs under the modes that are on, as checkpointed
    blocks need when they run again; given tensors, it would leave the modes first."""
    return tuple(get_gradient_edge(leaf) for leaf in leaves.values())


class Bound(nn.Module):
    """``loss_fn`` with its model as one module, so that all weights can be exchanged for a call."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> Any:
        return self.loss_fn(self.model, batch)


def joined(layout: Layout, parts: Iterable[Tensor | None], like: Tensor) -> Tensor:
    """One vector ``(P,)`` of gradients: zeros where there is none, entries of sparse ones in their places."""
    filled = [
        like.new_zeros(shape) if part is None else part.to_dense() if part.layout != torch.strided else part
        for part, shape in zip(parts, layout.shapes, strict=True)
    ]
    return layout.join(filled).to(like.dtype)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers for data parallelism and compilation; sharded ones are refused."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    require(
        isinstance(model, nn.Module),
        "model",
        type(model).__name__,
        "a torch.nn.Module; weights that a function holds can be wrapped in one",
    )
    if isinstance(model, torch.jit.ScriptModule):
        raise BadInputError("model: its weights cannot be exchanged, as it is a ScriptModule; give the module that it was made of")
    sharded = any(type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for module in model.modules())
    if sharded or any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise BadInputError(
            "model: its parameters are sharded (FSDP); gather the full state dict into an unwrapped copy and give that"
        )
    return model


def listed(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list that is not empty, each copied as it is drawn: an iterator may fill one buffer again and again."""
    single = isinstance(batches, Tensor | Mapping | str | np.ndarray) or not isinstance(batches, Iterable)
    require(not single, "batches", type(batches).__name__, "a list of batches; for one batch write [batch]")
    kept, held, allowed = [], 0, memory.budget(None)
    for batch in batches:
        kept.append(copied(batch))
        held += sum(tensor.untyped_storage().nbytes() for tensor in tensors_in(kept[-1]) if tensor.layout == torch.strided)
        if held > allowed or len(kept) > MOST_BATCHES:
            raise MemoryLimitError(
                f"batches: {len(kept):,} of them hold {memory.words(held)} and there are more; the limit is "
                f"{memory.words(allowed)} or {MOST_BATCHES:,} batches; take fewer with itertools.islice if the iterator has no end"
            )
    require(bool(kept), "batches", "none", "at least one batch (an iterator that was used up is empty)")
    return kept


def named(parameters: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights under the names they have inside `Bound`."""
    return {f"model.{name}": value for name, value in {**frozen, **parameters}.items()}


def _scalar_and_count(given: Any) -> tuple[Tensor, Any]:
    """``(total, count)``, the count None for a bare mean."""
    value, count = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(value, Tensor):
        raise BadInputError(f"loss_fn: returned {type(value).__name__}, expected a scalar tensor or (total, count)")
    if value.dim() != 0:
        raise ShapeMismatchError(
            f"loss_fn: returned shape {tuple(value.shape)}, expected a scalar; reduce it by mean, or give (sum, count)"
        )
    if not value.is_floating_point():
        raise BadInputError(f"loss_fn: returned {value.dtype}, expected a floating-point loss; take the real part of a complex one")
    return value, count


def _checked_count(count: Any, index: int) -> float | None:
    """A positive number, or None for a bare mean."""
    if count is None:
        return None
    plain = isinstance(count, Number | np.generic) and not isinstance(count, bool | np.bool_ | complex)
    if isinstance(count, Tensor | np.ndarray):
        shape = tuple(count.shape)
        size = count.numel() if isinstance(count, Tensor) else count.size
        if size != 1:
            raise BadInputError(
                f"count of batch {index}: given shape {shape}, expected one number; return the loss alone if it is none"
            )
        if isinstance(count, Tensor) and count.requires_grad:
            raise BadInputError(
                f"count of batch {index}: depends on the weights (it requires a gradient), expected a plain number; return the "
                "loss alone, with other terms added to it"
            )
        plain = isinstance(count, np.ndarray) or (count.dtype != torch.bool and not count.is_complex())
    require(plain, f"count of batch {index}", type(count).__name__, "a plain number; return the loss alone if it is none")
    number = float(count)  # type: ignore[arg-type]
    require(
        0 < number < float("inf"), f"count of batch {index}", number, "a positive number; leave out batches in which nothing counts"
    )
    return number


def _refuse_ragged(counts: Sequence[float | None], batches: Sequence[Any]) -> None:
    """A bare mean over batches of different shapes would weigh them alike, whatever they hold."""
    given = [count is not None for count in counts]
    require(
        all(given) or not any(given), "loss_fn", "a count for some batches only", "(total, count) for all, or a bare mean for all"
    )
    ragged = not any(given) and len({shapes_in(batch) for batch in batches}) > 1
    require(
        not ragged,
        "batches",
        "different shapes with a bare mean",
        "a loss_fn that returns (total, count), so that the mean is weighted",
    )


def _check_order(loss_fn: Any, model: Any) -> None:
    """The two first arguments are not exchanged, and the first can be called."""
    exchanged = isinstance(loss_fn, nn.Module) and not isinstance(model, nn.Module)
    require(not exchanged, "arguments", "a module first", "(loss_fn, model, batches), loss_fn being a function of (model, batch)")
    homes = ("torch.nn.modules.loss", "torch.nn.functional")
    compares = any(getattr(kind, "__module__", "") in homes for kind in (loss_fn, type(loss_fn)))
    if compares:
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise BadInputError(
            f"loss_fn: given {name}, which compares outputs with targets, expected a function of (model, batch); write "
            f"lambda model, batch: {name}(model(batch[0]), batch[1])"
        )
    require(callable(loss_fn), "loss_fn", type(loss_fn).__name__, "a function (model, batch) -> loss")


@contextlib.contextmanager
def _tracked(chosen: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """The model's own chosen weights require gradients for a while, so that a graph shows whether the loss reaches them."""
    off = [weight for weight in chosen.values() if not weight.requires_grad and not weight.is_inference()]
    for weight in off:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in off:
            weight.requires_grad_(False)


@contextlib.contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """Keep what the computation warns of, and hand it on afterwards."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said += [str(one.message) for one in caught]
    for one in caught:
        if "None of the inputs have requires_grad" not in str(one.message):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _all_finite(part: Tensor) -> bool:
    """Of a dense or sparse gradient."""
    return bool(torch.isfinite(part.coalesce().values() if part.is_sparse else part).all())


def _shown(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _line(problem: Exception) -> str:
    """The first line of an error, or its class."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
