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
from thalweg.curvature.head import HeadInPieces, could_be_head
from thalweg.curvature.kinks import OperationLog
from thalweg.curvature.precision import KeepPrecision
from thalweg.curvature.sharded import gathered, is_sharded, refuse_other_shards, without_gathering
from thalweg.errors import (
    BadInputError,
    MemoryLimitError,
    NonFiniteError,
    NotDifferentiableError,
    Phrase,
    ShapeMismatchError,
    ThalwegError,
    require,
    warn_at,
)
from thalweg.vectors import Choice, Layout, layout, select

LossFunction = Callable[[Any, Any], Any]
"""``loss_fn(model, batch) -> mean loss`` or ``(total, count)``, scalars."""

MOST_BATCHES = 100_000
"""Largest number of batches that is accepted; an iterator with more is likely to have no end."""


@dataclass
class Observed:
    """What the first evaluation of the loss showed; messages quote it, and it decides how a product can be checked."""

    kinks: tuple[str, ...] = ()
    """Names of the operations with a kink, such as "relu"."""
    custom: tuple[str, ...] = ()
    """Names of the classes derived from ``torch.autograd.Function``."""
    cuts: tuple[str, ...] = ()
    """How values that depend on the weights leave the autograd graph: "detach", "no_grad"."""
    padded: tuple[int, ...] = ()
    """Tokens that an embedding with ``padding_idx`` looks up, whose weights get no gradient."""
    casts: tuple[str, ...] = ()
    """Lower floating-point types that the loss casts to by itself; these casts are left out."""
    random: bool = False
    """Whether the loss draws random numbers from a global generator."""
    classes: int = 0
    """Number of classes of a head whose cross-entropy is computed in pieces, see `thalweg.curvature.head`; 0 where none is."""
    reentrant: bool = False
    """Whether the loss runs blocks under ``torch.utils.checkpoint`` with ``use_reentrant=True``."""


class Objective:
    """Mean loss over batches as a function of the chosen parameters, with its gradient and its second derivative.

    The function is ``L(theta) = sum_b l_b(theta) / sum_b n_b`` over batches b, with l_b the loss that ``loss_fn`` returns and n_b
    the count (1 for a bare mean). Weights and batches are copied; the model is left as it is. All arithmetic is in ``dtype``:
    weights, buffers and batches are converted, and the loss's own casts to a lower precision are left out
    (`thalweg.curvature.precision`). Under a process group the sums run over all ranks. Construction costs one gradient.

    Args:
        loss_fn: ``(model, batch) -> mean loss``, or ``(total, count)`` for a mean weighted by what counts.
        model: any module; wrappers for data parallelism and compilation are taken off. The parameters of one sharded by
            ``fully_shard`` are gathered once, by all ranks; other sharded modules are refused.
        batches: a list (or other iterable that ends) of batches, see `thalweg.curvature.containers` for what they may be made of.
        params: which parameters, see `thalweg.vectors.select`.
        dtype: float32 or float64 for weights, buffers and inputs; None keeps the weights' own (float32 for half precision).
        mode: "eval" (dropout off, running statistics of BatchNorm), "train" (dropout on, statistics of the batch; running ones
            are left as they are) or "as-is" (every module in the mode that it is in).
        seed: seed of PyTorch's, numpy's and Python's global generators at each evaluation, which makes a random loss a fixed one;
            None leaves the generators alone, and a random loss is refused when it is checked.

    Attributes:
        point: theta, the chosen parameters as one vector ``(P,)`` in ``dtype``.
        value: L at the point, in the loss function's unit.
        gradient: gradient of L at the point, ``(P,)``.
        weight: factor of each batch's loss in the mean, ``1 / sum_b n_b``.
        precise: most precise dtype that the loss can be computed in; checks against differences use it.
        rounds_below_float64: whether an operation rounds to a lower precision although the computation is in float64.
        reaches_other_leaves: whether the graph holds leaves other than the chosen parameters.
        is_bare_mean: whether the loss function returns a mean without a count.
        saved_bytes: memory that autograd keeps for the backward pass of the first batch.

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
        _check_arguments(loss_fn, model)
        self.loss_fn, self.model, self.seed = loss_fn, unwrapped(model), seed
        self.mode: Mode = checked_mode(mode)
        self.is_sharded = is_sharded(self.model)
        if self.is_sharded:
            ranks.meet("an operator of the loss of a sharded model")
        with ranks.together() if self.is_sharded else contextlib.nullcontext():
            chosen = select(self.model, params)
        tensors = gathered(self.model)
        chosen = select(self.model, list(chosen)) if self.is_sharded else chosen  # the shards, whatever was in their place
        self.model_parameters = tuple(self.model.parameters())
        self.layout = layout(chosen)
        first = next(iter(chosen.values()))
        self.device = first.device
        # Arithmetic: the requested dtype, else that of the weights; half precision is computed in float32.
        self.dtype = dtype or (first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32)
        require(self.dtype in (torch.float32, torch.float64), "dtype", dtype, "torch.float32 or torch.float64")
        batch_list = listed(batches)
        self.given_as_tuple = isinstance(batch_list, _FromTuple)
        self.batches = [self.converted(batch, self.dtype) for batch in batch_list]
        self.frozen = {name: cast(value.detach(), self.dtype).clone() for name, value in tensors.items() if name not in chosen}
        self.may_have_head = any(map(could_be_head, tensors.values()))  # otherwise no call of the loss has to be watched for one
        self.buffers = {name for name, _ in self.model.named_buffers()}
        self.slots = slots_of(self.model)
        self.point = self.layout.join(tensors[name].to(self.dtype) for name in chosen)
        self.observed = Observed()
        self.precise = torch.float32 if self.device.type == "mps" else torch.float64
        self.rounds_below_float64 = self.reaches_other_leaves = False
        self.casts_left_out: dict[torch.dtype, bool] = {}
        self.writes_batches = False
        self.saved_bytes = 0
        self.is_bare_mean = False
        self.weight, self.value, self.gradient = self._first_pass(chosen)

    @property
    def dim(self) -> int:
        """P, the number of chosen parameters."""
        return self.layout.dim

    @property
    def kinks(self) -> tuple[str, ...]:
        """Names of the operations with a kink that the loss uses."""
        return self.observed.kinks

    def converted(self, batch: Any, dtype: torch.dtype) -> Any:
        """The batch on the parameters' device, its floating-point tensors in ``dtype``."""
        return map_tensors(lambda tensor: cast(tensor.to(self.device), dtype), batch)

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        """The context in which this loss is evaluated, see `thalweg.curvature.context.quiet`."""
        return quiet(self.model, self.mode)

    def call(self, function: LossFunction, batch: Any, parameters: Mapping[str, Tensor]) -> Any:
        """Return ``function(model, batch)`` with these weights in place of the model's, all in the weights' dtype.

        Derivatives belong inside ``function``, where the weights are still exchanged: checkpointed blocks run again in the backward
        pass and need them. The function may write to buffers and the batch, which are copies, and set attributes, which are
        restored (`thalweg.curvature.context.unchanged_attributes`).
        """
        dtype = next(iter(parameters.values())).dtype
        frozen = self.frozen if dtype == self.dtype else {name: cast(value, dtype) for name, value in self.frozen.items()}
        frozen = {name: value.clone() if name in self.buffers else value for name, value in frozen.items()}
        given = copied(batch) if self.writes_batches else batch
        given = self.converted(given, dtype)
        bound = Bound(self.model, function)
        hooks_off = without_gathering(self.model) if self.is_sharded else contextlib.nullcontext()
        with unchanged_attributes(self.model), hooks_off, seeded(self.seed), self._arithmetic(dtype):
            values = {**frozen, **parameters}
            weights = {f"model.{slot}": values[name] for slot, name in self.slots.items()}  # the names inside of `Bound`
            if not self.may_have_head:
                return functional_call(bound, weights, (given,), tie_weights=False)
            head = HeadInPieces()
            try:
                with head:
                    result = functional_call(bound, weights, (given,), tie_weights=False)
                self.observed.classes = max(self.observed.classes, head.classes)
                return result
            except Exception as problem:
                if not head.delayed or isinstance(problem, ThalwegError | torch.OutOfMemoryError):
                    raise
        self.may_have_head = False  # the loss may do with the logits what a delayed head cannot
        try:
            return self.call(function, batch, parameters)
        except Exception:
            self.may_have_head = True  # it fails anyway
            raise

    @contextlib.contextmanager
    def _arithmetic(self, dtype: torch.dtype) -> Iterator[None]:
        """Compute in ``dtype`` only; skipped where the first evaluation in that dtype showed no cast to leave out."""
        if self.casts_left_out.get(dtype, True):
            with KeepPrecision(dtype) as kept:
                yield
            self.casts_left_out[dtype] = self.casts_left_out.get(dtype, False) or kept.intervened
            self.rounds_below_float64 |= dtype == torch.float64 and bool(kept.rounded)
        else:
            yield

    def part(self, batch: Any, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """Evaluate the loss function on one batch: ``(mean, None)`` or ``(total, count)``."""
        return scalar_and_count(self.call(self.loss_fn, batch, parameters))

    def total(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Loss l_b of batch number ``index`` as the loss function returns it; its share of the mean is ``weight`` times l_b."""
        return self.part(self.batches[index], parameters)[0]

    def gradient_of(self, batch: Any, point: Tensor) -> Tensor:
        """Gradient ``(P,)`` of l_b, the loss of one batch as the loss function returns it, in the point's dtype."""
        leaves = {name: part.detach().clone().requires_grad_() for name, part in self.layout.split(point).items()}

        def differentiate(model: nn.Module, given: Any) -> Tensor:
            value = scalar_and_count(self.loss_fn(model, given))[0]
            return joined(self.layout, self._gradients(value, leaves), point)

        return self.call(differentiate, batch, leaves)

    @undisturbed
    def gradient_at(self, point: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Gradient ``(P,)`` of the mean loss at any point ``(P,)``, computed in ``dtype`` and summed over ranks."""
        dtype = dtype or self.dtype
        here = point.detach().to(dtype)

        def of_this_rank() -> Tensor:
            summed = torch.zeros_like(here)
            with self.quiet():
                for batch in self.batches:
                    summed += self.weight * self.gradient_of(batch, here)
            return summed

        return ranks.total_of(of_this_rank, here)

    def twice_differentiated(self, batch: Any, point: Tensor, direction: Tensor) -> Tensor:
        """``H_b v``, ``(P,)``, for the loss of one batch at any point, by double backward.

        Reverse over reverse: with ``g = dl/dtheta`` built as a graph, ``H v = d(g . v)/dtheta``.

        Raises:
            NotDifferentiableError: an operation has no second derivative.
        """
        leaves = {name: part.detach().clone().requires_grad_() for name, part in self.layout.split(point).items()}
        along = self.layout.split(direction)

        def differentiate(model: nn.Module, given: Any) -> Tensor:
            value = scalar_and_count(self.loss_fn(model, given))[0]
            restored = self._other_gradients_restored(value, leaves) if self.reaches_other_leaves else contextlib.nullcontext()
            with restored:
                return joined(self.layout, _second_derivatives(value, leaves, along), point)

        return self.call(differentiate, batch, leaves)

    def product_at(self, point: Tensor, direction: Tensor) -> Tensor:
        """``H v``, ``(P,)``, for the mean loss at any point by double backward, in the point's dtype; summed over ranks."""

        def of_this_rank() -> Tensor:
            with self.quiet():
                parts = [self.weight * self.twice_differentiated(batch, point, direction) for batch in self.batches]
            return torch.stack(parts).sum(0)

        return ranks.total_of(of_this_rank, point)

    def _gradients(self, value: Tensor, leaves: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
        """Derivatives of a scalar with respect to the leaves; None for a leaf that does not enter.

        Blocks under a reentrant checkpoint only write gradients into the leaves, so a loss with such blocks needs a whole backward
        pass. The gradients that this pass leaves on other tensors are restored.
        """
        if not self.observed.reentrant:
            return torch.autograd.grad((get_gradient_edge(value),), _edges(leaves), allow_unused=True)
        with self._other_gradients_restored(value, leaves):
            torch.autograd.backward((get_gradient_edge(value),))
        return [leaf.grad for leaf in leaves.values()]

    @contextlib.contextmanager
    def _other_gradients_restored(self, value: Tensor, leaves: Mapping[str, Tensor]) -> Iterator[None]:
        """Restore the gradients that a whole backward pass leaves on tensors other than the leaves."""
        ours = {id(leaf) for leaf in leaves.values()}
        others = [(leaf, leaf.grad) for leaf in (*reached(value).leaves, *self.model_parameters) if id(leaf) not in ours]
        for leaf, _ in others:
            leaf.grad = None  # what is there would be added to in place
        try:
            yield
        finally:
            for leaf, before in others:
                leaf.grad = before

    def _first_pass(self, chosen: Mapping[str, nn.Parameter]) -> tuple[float, float, Tensor]:
        """Evaluate and differentiate every batch once: the batches' weight, the mean loss and its gradient ``(P,)``.

        Everything that makes the loss no smooth function of the chosen weights alone is refused here.

        Raises:
            LostRankError: not all ranks build this operator.
        """
        ranks.meet("an operator of the loss")
        values, counts, gradients = 0.0, [], torch.zeros_like(self.point)
        entered = [0.0] * len(self.layout.names)  # in how many batches each parameter has a gradient
        with ranks.together(), self.quiet(), _tracked(chosen):
            for index in range(len(self.batches)):
                value, count, parts = self._evaluate_batch(index, chosen)
                gradients += joined(self.layout, parts, self.point)
                entered = [times + (part is not None) for times, part in zip(entered, parts, strict=True)]
                values += value
                counts.append(count)
            _refuse_ragged(counts, self.batches)
            self._refuse_moving_count(counts)
            self._refuse_read_flags()
        if self.seed is not None and self.observed.random and not self._same_draws():
            self.precise = self.dtype  # in another dtype the same seed would give another loss
        self.is_bare_mean = counts[0] is None
        self._agree()
        self._refuse_unused(ranks.total(torch.tensor(entered, device="cpu")))
        # The mean over all batches of all ranks, L = sum_b l_b / sum_b n_b.
        total_count = sum(1.0 if count is None else count for count in counts)
        sums = ranks.total(torch.tensor([values, total_count], dtype=torch.float64, device="cpu")).tolist()
        return 1 / sums[1], sums[0] / sums[1], ranks.total(gradients) / sums[1]

    def _agree(self) -> None:
        """Give all ranks what the evaluation showed on any of them, as it decides how products are made and checked.

        Raises:
            BadInputError: a bare mean on some ranks and ``(total, count)`` on others, or a bare mean over different shapes.
        """
        if ranks.world() == 1:
            return
        shapes = {shapes_in(batch) for batch in self.batches}
        everyone = ranks.gathered((self.observed, self.is_bare_mean, shapes, self.precise, self.rounds_below_float64))
        seen = [observed for observed, *_ in everyone]
        bare = {is_bare for _, is_bare, *_ in everyone}
        require(
            len(bare) == 1, "loss_fn", Phrase("a bare mean on some ranks"), "(total, count) on all ranks, or a bare mean on all"
        )
        ragged = self.is_bare_mean and len({shape for *_, shapes, _, _ in everyone for shape in shapes}) > 1
        weighted = "a loss_fn that returns (total, count), so that the mean is weighted"
        require(not ragged, "batches", Phrase("different shapes on the ranks with a bare mean"), weighted)
        union = lambda kind: tuple(sorted({name for observed in seen for name in getattr(observed, kind)}))  # noqa: E731
        for kind in ("kinks", "custom", "cuts", "padded", "casts"):
            setattr(self.observed, kind, union(kind))
        self.observed.random = any(observed.random for observed in seen)
        self.observed.reentrant = any(observed.reentrant for observed in seen)
        self.precise = self.dtype if any(precise == self.dtype for *_, precise, _ in everyone) else self.precise
        self.rounds_below_float64 = any(rounds for *_, rounds in everyone)

    def _evaluate_batch(self, index: int, chosen: Mapping[str, nn.Parameter]) -> tuple[float, Any, Sequence[Tensor | None]]:
        """Value, count and gradients of one batch's loss; an error that only our conversion causes is explained."""
        try:
            return self._differentiated(index, chosen)
        except ThalwegError:
            raise
        except Exception as problem:
            if isinstance(problem, torch.OutOfMemoryError):
                raise
            if "use_reentrant" in str(problem) and not self.observed.reentrant:
                self.observed.reentrant = True
                return self._differentiated(index, chosen)
            explained = self._explained(problem, index)
            if explained is problem:
                raise
            raise explained from problem

    def _explained(self, problem: Exception, index: int) -> Exception:
        """The loss's own error if it fails on the unchanged model too; else a refusal that says what is done differently here.

        A sharded model is not called again, as its forward pass would wait for the other ranks.
        """
        if self.is_sharded:
            return problem
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            with unchanged_attributes(self.model):
                self.loss_fn(self.model, copied(self.batches[index]))
        except Exception:
            converted = isinstance(problem, RuntimeError) and self.dtype not in {weight.dtype for weight in self.model_parameters}
            if converted:  # the batches are in another dtype than the unchanged model, which therefore cannot take them
                return BadInputError(
                    f"loss of batch {index}: fails with weights and batches in {self.dtype}: {_first_line(problem)}"
                )
            if self.given_as_tuple:
                return BadInputError(
                    f"batches: given a tuple, each part of which is taken as a batch, and the loss fails on part {index + 1} "
                    f"({_first_line(problem)}); for one batch write [batch]"
                )
            return problem
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        limited = [name for name, module in self.model.named_modules() if getattr(module, "max_norm", None) is not None]
        cause = f"max_norm of {limited[0] or 'the embedding'} writes into its weight" if limited else _first_line(problem)
        return BadInputError(
            f"loss of batch {index}: works on the model itself, but not as a function of its weights in {self.dtype}: {cause}"
        )

    def _differentiated(self, index: int, chosen: Mapping[str, nn.Parameter]) -> tuple[float, Any, Sequence[Tensor | None]]:
        """Value, count and gradients of one batch's loss, None for a parameter that does not enter.

        Every batch is evaluated under `OperationLog`, which notes kinks and memory, and `KeepPrecision`, which notes casts.
        """
        leaves = {name: part.clone().requires_grad_() for name, part in self.layout.split(self.point).items()}
        log, given_batch, messages = OperationLog(), copied(self.batches[index]), []
        versions = [tensor._version for tensor in tensors_in(given_batch)]
        kept = KeepPrecision(self.dtype)

        def evaluate(model: nn.Module, batch: Any) -> tuple[float, Any, Sequence[Tensor | None]]:
            before = random_state()
            with log, kept, _recorded_warnings(messages):
                value, count = scalar_and_count(self.loss_fn(model, batch))
            self.observed.random |= before != random_state()
            if index == 0:
                self.saved_bytes = log.alive()
            count = _checked_count(count, index)
            self._check_value(value, index, messages)
            graph = reached(value)
            self._note(log, kept, graph.custom)
            self._refuse_captured(captured(graph.leaves, chosen))
            ours = {id(leaf) for leaf in leaves.values()}
            self.reaches_other_leaves |= self.observed.reentrant or any(id(leaf) not in ours for leaf in graph.leaves)
            kept.noting = False
            with kept:  # checkpointed blocks run again
                parts = self._gradients(value, leaves)
            self._check_gradients(parts, index)
            return value.item(), count, parts

        self.casts_left_out[self.dtype] = False  # `evaluate` enters its own `KeepPrecision`, whose notes are read below
        result = self.call(evaluate, given_batch, leaves)
        self.casts_left_out[self.dtype] = kept.intervened or bool(self.observed.casts)
        self.rounds_below_float64 |= self.dtype == torch.float64 and bool(kept.rounded)
        self.writes_batches |= versions != [tensor._version for tensor in tensors_in(given_batch)]
        self._refuse_written(leaves)
        return result

    def _note(self, log: OperationLog, kept: KeepPrecision, custom: tuple[str, ...]) -> None:
        """Store what the evaluation showed; autocast is refused in float32, as it does not touch float64."""
        if kept.autocast is not None and self.dtype != torch.float64:
            raise BadInputError(
                f"loss_fn: computes under torch.autocast in {kept.autocast}, whose rounding hides its second derivative; leave "
                "autocast off inside of loss_fn, or give dtype=torch.float64, which it does not touch"
            )
        observed = self.observed
        observed.kinks = tuple(sorted({*observed.kinks, *log.kinks}))
        observed.custom = tuple(sorted({*observed.custom, *custom}))
        observed.cuts = tuple(sorted({*observed.cuts, *kept.cuts}))
        observed.padded = tuple(sorted({*observed.padded, *kept.padded}))
        observed.casts = tuple(sorted({*observed.casts, *(str(dtype) for dtype in kept.casts)}))

    def _check_value(self, value: Tensor, index: int, messages: Sequence[str]) -> None:
        """Refuse a loss that is not finite or has no graph."""
        if not torch.isfinite(value.detach()):
            advice = "look for bad samples in that batch, or for bad weights"
            raise NonFiniteError(f"loss of batch {index}: {value.item()}, expected a finite number; {advice}")
        self.observed.reentrant |= any("None of the inputs have requires_grad" in line for line in messages)
        if not value.requires_grad:
            raise NotDifferentiableError(
                f"loss of batch {index}: has no graph, because no chosen parameter enters it or it was detached; choose parameters "
                "that enter it with params=, and return the loss without detach() or item()"
            )

    def _check_gradients(self, parts: Sequence[Tensor | None], index: int) -> None:
        """Refuse a gradient that holds NaN or infinity."""
        bad = [name for name, part in zip(self.layout.names, parts, strict=True) if part is not None and not _all_finite(part)]
        if bad:
            raise NonFiniteError(
                f"gradient of batch {index}: NaN or infinity for {_names(bad)} although the loss is finite (the square root of 0, "
                "0 times infinity); move the loss away from that point, or add a small number inside of the root"
            )

    def _same_draws(self) -> bool:
        """Whether the seed gives the same random numbers in the most precise arithmetic; on a GPU they depend on the dtype."""
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
        """Refuse a loss that reads a chosen weight from outside of its model argument: it would count as a constant."""
        if names:
            raise BadInputError(
                f"loss_fn: takes {_names(names)} from outside of the model that it is given (a list made before, an optimizer, an "
                "attribute that is no parameter), where exchanged weights do not arrive; take weights from the argument: "
                "model.parameters(), and tie them as attributes of modules"
            )

    def _refuse_written(self, leaves: Mapping[str, Tensor]) -> None:
        """Refuse a loss that changes weights while it is evaluated, as it is no function of them."""
        with torch.no_grad():
            written = [name for name, part in self.layout.split(self.point).items() if not torch.equal(leaves[name], part)]
        if written:
            raise BadInputError(
                f"loss_fn: writes into {_names(written)} while it is evaluated (an embedding with max_norm, a clamp in place); "
                "take max_norm off, or normalise out of place"
            )

    def _refuse_unused(self, entered: Tensor) -> None:
        """Refuse chosen parameters that enter the loss of no batch on any rank."""
        unused = [name for name, times in zip(self.layout.names, entered.tolist(), strict=True) if times == 0]
        unused = [name for name in unused if dict(zip(self.layout.names, self.layout.sizes, strict=True))[name]]
        if unused and self.observed.reentrant:
            raise NotDifferentiableError(
                f"params: no gradient reaches {_names(unused)} through torch.utils.checkpoint with use_reentrant=True, whose "
                "inputs do not require one; pass use_reentrant=False"
            )
        if unused and len(unused) == sum(parameter.requires_grad for parameter in self.model.parameters()):
            raise BadInputError("loss: no parameter of the model enters it; let the loss function use the model that it is given")
        if unused:
            raise BadInputError(f"params: {_names(unused)} do not enter the loss; choose the others with params=, or freeze these")

    def _refuse_read_flags(self) -> None:
        """Refuse a loss that depends on which weights require gradients, where ``params`` leaves out some that do.

        What is left out is exchanged for constants, so that a penalty on "all weights that require gradients" would lose them.
        """
        left_out = [name for name, weight in self.model.named_parameters() if weight.requires_grad and name in self.frozen]
        if not left_out or (self.observed.random and self.seed is None):
            return
        here, values = self.layout.split(self.point), []
        for flag in (False, True):
            others = {name: self.frozen[name].detach().requires_grad_(flag) for name in left_out}
            try:
                with torch.no_grad():
                    values.append(float(self.part(self.batches[0], {**here, **others})[0]))
            except Exception:  # a loss that needs gradients itself
                return
        if abs(values[0] - values[1]) > 1e-5 * abs(values[1]):
            raise BadInputError(
                f"loss_fn: {values[1]:.6g} while the weights that params= leaves out require gradients, and {values[0]:.6g} while "
                "they do not; choose weights in loss_fn by name, or call requires_grad_(False) on what is left out"
            )

    def _refuse_moving_count(self, counts: Sequence[float | None]) -> None:
        """Refuse a count that changes with the weights, as an accuracy does: a count is a property of the batch."""
        if counts[0] is None:
            return
        other = {name: part + self._random_shift(part) for name, part in self.layout.split(self.point).items()}
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
    def _random_shift(part: Tensor) -> Tensor:
        """Random signs times the root mean square of a weight tensor (1 for a tensor of zeros), in its shape."""
        generator = torch.Generator().manual_seed(0)
        signs = 2.0 * torch.randint(0, 2, part.shape, generator=generator, device="cpu").to(part) - 1
        size = part.square().mean().sqrt() if part.numel() else part.new_zeros(())
        return signs * (size if float(size) > 0 else 1.0)


def _second_derivatives(value: Tensor, leaves: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
    """``H v`` in the leaves' shapes, by double backward.

    Raises:
        NotDifferentiableError: an operation has no second derivative.
    """
    try:
        # First backward: g = dl/dtheta, with a graph of its own.
        edge, inputs = (get_gradient_edge(value),), _edges(leaves)
        gradients = torch.autograd.grad(edge, inputs, create_graph=True, allow_unused=True)
        dense = [g if g is None or g.layout == torch.strided else g.to_dense() for g in gradients]
        pairs = [(g, direction[name]) for g, name in zip(dense, leaves, strict=True) if g is not None and g.requires_grad]
        # Second backward: sum_i v_i dg_i/dtheta = H v. A gradient without a graph does not depend on the weights and adds nothing.
        # Not autograd.grad with the leaves as inputs: that leaves out the nodes that would report a missing derivative.
        torch.autograd.backward([get_gradient_edge(pair[0]) for pair in pairs], [pair[1] for pair in pairs])
    except (RuntimeError, NotImplementedError) as problem:
        if isinstance(problem, torch.OutOfMemoryError):
            raise
        line = _first_line(problem)
        if "use_reentrant" in line:
            raise NotDifferentiableError(
                "loss: torch.utils.checkpoint with use_reentrant=True has no second derivative; pass use_reentrant=False, or use "
                "method='differences'"
            ) from problem
        raise NotDifferentiableError(f"loss: an operation has no second derivative ({line}); use method='differences'") from problem
    return [leaf.grad for leaf in leaves.values()]


def _edges(leaves: Mapping[str, Tensor]) -> tuple[GradientEdge, ...]:
    """The leaves' edges in the graph. Given edges, autograd stays in the active modes, which checkpointed blocks need when they run
    again; given tensors, it would leave these modes first."""
    return tuple(get_gradient_edge(leaf) for leaf in leaves.values())


class Bound(nn.Module):
    """``loss_fn`` and its model as one module, so that ``functional_call`` can exchange all weights for a call."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> Any:
        return self.loss_fn(self.model, batch)


def joined(layout: Layout, parts: Iterable[Tensor | None], like: Tensor) -> Tensor:
    """Join gradients, in the order of the layout, to one vector ``(P,)`` in the dtype of ``like``.

    A missing gradient (None) becomes zeros, and a sparse one becomes dense.
    """
    filled = [
        like.new_zeros(shape) if part is None else part.to_dense() if part.layout != torch.strided else part
        for part, shape in zip(parts, layout.shapes, strict=True)
    ]
    return layout.join(filled).to(like.dtype)


def slots_of(model: nn.Module) -> dict[str, str]:
    """Every place that holds a parameter or a buffer, each once, with the name under which its tensor is known.

    A tied weight has several places and one name. A module that is registered several times has one place only: PyTorch's own way
    of exchanging tied weights (``tie_weights=True``) takes its name twice, and leaves the exchanged tensor in it for good.

    Example:
        >>> shared = nn.Linear(2, 2, bias=False)
        >>> slots_of(nn.Sequential(shared, nn.Tanh(), shared))
        {'0.weight': '0.weight'}
    """
    names = {id(value): name for name, value in (*model.named_parameters(), *model.named_buffers())}
    slots = {}
    for prefix, module in model.named_modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None:
                slots[f"{prefix}.{name}" if prefix else name] = names[id(value)]
    return slots


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside the wrappers for data parallelism and compilation.

    Raises:
        BadInputError: no module, a ScriptModule, or a module whose parameters are sharded in another way than by ``fully_shard``.
    """
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    require(
        isinstance(model, nn.Module),
        "model",
        type(model).__name__,
        "a torch.nn.Module; weights that a function holds can be wrapped in one",
    )
    if isinstance(model, torch.jit.ScriptModule):
        raise BadInputError("model: given a ScriptModule, whose weights cannot be exchanged; give the module that it was made of")
    refuse_other_shards(model)
    return model


class _FromTuple(list[Any]):
    """Batches that were given as a tuple, which may have been meant as one batch."""


def listed(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list of at least one.

    Each batch is copied when it is drawn, because an iterator may fill one buffer again and again.

    Raises:
        BadInputError: no list or other iterable, or no batch in it.
        MemoryLimitError: more than `MOST_BATCHES` batches, or more bytes than half of the free memory.
    """
    single = isinstance(batches, Tensor | Mapping | str | np.ndarray) or not isinstance(batches, Iterable)
    require(not single, "batches", Phrase(type(batches).__name__), "a list of batches; for one batch write [batch]")
    kept: list[Any] = _FromTuple() if isinstance(batches, tuple | _FromTuple) else []
    held, allowed = 0, memory.budget(None)
    for batch in batches:
        kept.append(copied(batch))
        held += sum(tensor.untyped_storage().nbytes() for tensor in tensors_in(kept[-1]) if tensor.layout == torch.strided)
        if held > allowed or len(kept) > MOST_BATCHES:
            raise MemoryLimitError(
                f"batches: the first {len(kept):,} hold {memory.format_bytes(held)} and there are more, expected at most "
                f"{memory.format_bytes(allowed)} and {MOST_BATCHES:,} batches; take fewer with itertools.islice if the iterator "
                "has no end"
            )
    require(bool(kept), "batches", [], "at least one batch (an iterator that was used up is empty)")
    return kept


def scalar_and_count(given: Any) -> tuple[Tensor, Any]:
    """The loss function's result as ``(total, count)``, with count None for a bare mean; refuses what is no scalar."""
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
    """The count of one batch as a positive number, or None for a bare mean."""
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
    require(plain, f"count of batch {index}", Phrase(type(count).__name__), "a plain number; return the loss alone if it is none")
    number = float(count)  # type: ignore[arg-type]
    require(
        0 < number < float("inf"), f"count of batch {index}", number, "a positive number; leave out batches in which nothing counts"
    )
    return number


def _refuse_ragged(counts: Sequence[float | None], batches: Sequence[Any]) -> None:
    """Refuse a bare mean over batches of different shapes, which would weigh them alike whatever they hold."""
    given = [count is not None for count in counts]
    require(
        all(given) or not any(given),
        "loss_fn",
        Phrase("a count for some batches only"),
        "(total, count) for all, or a bare mean for all",
    )
    ragged = not any(given) and len({shapes_in(batch) for batch in batches}) > 1
    require(
        not ragged,
        "batches",
        Phrase("different shapes with a bare mean"),
        "a loss_fn that returns (total, count), so that the mean is weighted",
    )


def _check_arguments(loss_fn: Any, model: Any) -> None:
    """Refuse exchanged arguments, a criterion such as ``nn.MSELoss`` as loss function, and what cannot be called."""
    exchanged = isinstance(loss_fn, nn.Module) and not isinstance(model, nn.Module)
    require(
        not exchanged,
        "arguments",
        Phrase("a module first"),
        "(loss_fn, model, batches), loss_fn being a function of (model, batch)",
    )
    homes = ("torch.nn.modules.loss", "torch.nn.functional")
    compares = any(getattr(source, "__module__", "") in homes for source in (loss_fn, type(loss_fn)))
    if compares:
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise BadInputError(
            f"loss_fn: given {name}, which compares outputs with targets, expected a function of (model, batch); write "
            f"lambda model, batch: {name}(model(batch[0]), batch[1])"
        )
    require(callable(loss_fn), "loss_fn", Phrase(type(loss_fn).__name__), "a function (model, batch) -> loss")


@contextlib.contextmanager
def _tracked(chosen: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let the model's own chosen weights require gradients inside, so that a graph shows whether the loss reaches them."""
    off = [weight for weight in chosen.values() if not weight.requires_grad and not weight.is_inference()]
    for weight in off:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in off:
            weight.requires_grad_(False)


@contextlib.contextmanager
def _recorded_warnings(messages: list[str]) -> Iterator[None]:
    """Append the texts of all warnings raised inside to ``messages``; raise them again afterwards.

    PyTorch's own remark on a reentrant checkpoint without inputs that require gradients is not raised again.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages += [str(warning.message) for warning in caught]
    for warning in caught:
        if "None of the inputs have requires_grad" not in str(warning.message):
            warn_at(warning.message, warning.category, warning.filename, warning.lineno)


def _all_finite(part: Tensor) -> bool:
    """Whether all entries of a dense or sparse gradient are finite."""
    return bool(torch.isfinite(part.coalesce().values() if part.is_sparse else part).all())


def _names(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _first_line(problem: Exception) -> str:
    """The first line of an error's message, or the name of its class."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
