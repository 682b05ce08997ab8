"""Alignment of the gradients of a looped and a single-pass loss at shared weights, measured for any model.

For each group of parameters: the cosine and the norm ratio of the gradients g_T (T loops) and g_1 (one loop), of the mean loss and
of every sample.

Shape letters: P number of chosen parameters, S samples, c samples in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

from thalweg.curvature import memory as limits
from thalweg.curvature.context import undisturbed
from thalweg.curvature.objective import LossFunction, Objective, listed
from thalweg.errors import NonFiniteError, ShapeMismatchError, require
from thalweg.theory.alignment import Aligned, aligned, transfer_rate
from thalweg.vectors import Choice, Layout

_Groups = Mapping[str, str | Sequence[str]]
"""Name of a group -> names or patterns with ``*`` of its parameters; a parameter may be in several groups."""
_Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

_WHOLE = "all"
"""Name of the group of all chosen parameters, which is always added."""
_ROUNDING = 8
"""In units of machine epsilon times the norm of the whole gradient: below it, a group's gradient is zero up to rounding.

The bias of softmax attention's keys is such a zero: 1e-20 of the whole in float64, and the cosine of two of them is noise.
"""
_AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest relative distance between a sample's gradient from a pass over several and the same gradient computed alone."""
_PASS_BYTES = 64 << 20
"""Largest size of the gradients and activations of one pass on a CPU.

Measured on one core, both gradients of a sample in a loop and in passes: 1,488 parameters 3.8 and 0.69 ms (0.71 in passes of
4 MiB); 110,336 parameters 39 and 30 ms. A pass of one sample took 54 ms there, so that a single one goes through the loop.
"""


@dataclass(frozen=True)
class GroupAlignment:
    """The looped gradient g_T against the single-pass gradient g_1, for one group of parameters.

    The properties leave out samples without a cosine (one gradient is zero up to rounding); they are NaN where none is left.
    """

    aligned: Aligned
    """Cosine, ratio and product for the mean loss over all batches, with the cosines of all samples."""
    single_norm: float
    """``||g_1||`` of the mean loss."""

    @property
    def cosine(self) -> float:
        """Cosine between the gradients g_T and g_1 of the mean loss; NaN where one is zero."""
        return self.aligned.batch

    @property
    def ratio(self) -> float:
        """``||g_T|| / ||g_1||`` of the mean loss."""
        return self.aligned.ratio

    @property
    def cosines(self) -> Tensor:
        """Cosines of the samples that have one, in the order of the samples."""
        per_sample = self.aligned.per_sample
        return per_sample[~per_sample.isnan()]

    @property
    def counted(self) -> int:
        """Number of samples that have a cosine."""
        return len(self.cosines)

    @property
    def minimum(self) -> float:
        """Smallest cosine over the samples."""
        return self.quantile(0.0)

    @property
    def fifth_percentile(self) -> float:
        """Fifth percentile of the samples' cosines."""
        return self.quantile(0.05)

    @property
    def median(self) -> float:
        """Median of the samples' cosines."""
        return self.quantile(0.5)

    @property
    def opposed(self) -> float:
        """Share of samples with a negative cosine."""
        return float((self.cosines < 0).double().mean())

    def quantile(self, share: float) -> float:
        """Quantile of the samples' cosines, interpolated linearly between neighbours; ``share`` is from 0 to 1."""
        require(0 <= share <= 1, "share", share, "a number from 0 to 1")
        ordered = self.cosines.sort().values
        if not len(ordered):
            return math.nan
        # Not torch.quantile, which refuses more than 16 million.
        position = share * (len(ordered) - 1)
        return float(torch.lerp(ordered[math.floor(position)], ordered[math.ceil(position)], position - math.floor(position)))

    def transfer_rate(self, smoothness: float) -> float:
        """Upper bound of the rates at which a single-pass gradient step on this group lowers the looped mean loss.

        ``2 <g_T, g_1> / (beta_T ||g_1||^2)``, from the descent lemma; 0 if no rate does.

        Args:
            smoothness: beta_T, the largest absolute eigenvalue of the looped loss's Hessian in this group's block, along the whole
                step.
        """
        require(0 < smoothness < math.inf, "smoothness", smoothness, "a positive number")
        return transfer_rate(self.aligned.product, self.single_norm, smoothness) if self.single_norm else 0.0


@dataclass(frozen=True)
class GradientAlignment:
    """Alignment of each group; ``alignment["all"]`` is that of all chosen parameters."""

    groups: dict[str, GroupAlignment]
    """Name of a group -> its alignment."""
    samples: int
    """S, the number of samples."""
    losses: tuple[float, float]
    """Mean losses, looped and single-pass."""
    how: str
    """How the samples' gradients were computed and why, as a phrase for a reader."""

    def __getitem__(self, name: str) -> GroupAlignment:
        return self.groups[name]


@undisturbed
def gradient_alignment(
    looped_loss: LossFunction,
    single_loss: LossFunction,
    model: nn.Module,
    batches: Iterable[Any],
    groups: _Groups | None = None,
    params: Choice = None,
    dtype: torch.dtype = torch.float64,
    *,
    memory: int | None = None,
    progress: _Progress | None = None,
) -> GradientAlignment:
    """Cosines and norm ratios of the gradients of two losses of the same weights, for the mean loss and for each sample.

    ``cos = <g_T, g_1> / (||g_T|| ||g_1||)``. Both matter: looping changes the weight of samples, so all samples may agree while
    the mean gradients oppose each other, or the reverse. The mean gradient is that of the mean loss over all batches; a sample's is
    that of ``loss_fn(model, batch[i:i+1])``. Gradients of samples are computed several at once by ``vmap(grad)``, if the loss
    allows it and the first sample's gradient agrees with the one computed alone; else one by one. Under a process group, mean
    gradients are those of all ranks and samples those of this rank. Costs two gradients for each sample and for each batch.

    Args:
        looped_loss: ``(model, batch) -> mean loss``, or ``(total, count)``, with T loops.
        single_loss: the same with one loop.
        model: the model whose weights both losses use; it is in evaluation mode inside.
        batches: a list of batches; all tensors of a batch have the samples as first dimension.
        groups: see `_Groups`; None makes each parameter a group.
        params: which parameters, see `thalweg.vectors.select`; each has to enter both losses.
        dtype: arithmetic; float32 makes cosines of small gradients noisy.
        memory: bytes that one pass may take; None takes half of what is free.
        progress: called with (samples done, samples in all).
    Returns:
        The alignment of each group, and of all chosen parameters.
    Raises:
        ShapeMismatchError: tensors of a batch that differ in their first dimension.
        NonFiniteError: a sample's gradient is NaN or infinite.
        BadInputError: an unknown parameter in a group; and what `thalweg.curvature.objective.Objective` refuses.
    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> twice, once = (lambda m, x, t=t: t * m(x).sum(1).mean() for t in (2, 1))
        >>> alignment = gradient_alignment(twice, once, model, [torch.tensor([[1.0, 0.0], [0.0, 2.0]])])
        >>> round(alignment["weight"].cosine, 12), round(alignment["weight"].ratio, 12), alignment.samples
        (1.0, 2.0, 2)

    Source:
        Measures theorem 3 of arXiv 2510.10089, which states that the cosines are positive without condition.
    """
    batch_list = listed(batches)  # an iterator would be used up by the first of the two
    objectives = [Objective(loss, model, batch_list, params, dtype) for loss in (looped_loss, single_loss)]
    looped, single = objectives
    positions = _group_positions(looped.layout, groups, looped.device)
    sizes = [_sample_count(batch, index) for index, batch in enumerate(looped.batches)]
    step = min(_samples_in_one_pass(objective, sizes[0], memory) for objective in objectives)
    per_sample = [PerSample(objective, step) for objective in objectives]
    cosines: dict[str, list[Tensor]] = {name: [] for name in positions}
    done, samples = 0, sum(sizes)
    with looped.quiet():
        for index, size in enumerate(sizes):
            for first in range(0, size, step):
                last = min(size, first + step)
                rows = [checked(gradients_of(index, first, last), index, first) for gradients_of in per_sample]
                for name, indices in positions.items():
                    pair = aligned(_cleaned(rows[0], indices), _cleaned(rows[1], indices))
                    cosines[name].append(pair.per_sample.cpu())
                done += last - first
                if progress is not None:
                    progress(done, samples)
    gradients = [objective.gradient.unsqueeze(0) for objective in objectives]
    alignments = {
        name: _group_alignment(gradients[0], gradients[1], indices, torch.cat(cosines[name])) for name, indices in positions.items()
    }
    return GradientAlignment(alignments, samples, (looped.value, single.value), _describe_methods(per_sample))


def _describe_methods(per_sample: Sequence[PerSample]) -> str:
    """A phrase that says how both kinds of gradients were computed; said once if alike."""
    methods = [maker.how for maker in per_sample]
    return methods[0] if methods[0] == methods[1] else f"looped {methods[0]}; single {methods[1]}"


def _group_positions(layout: Layout, groups: _Groups | None, device: torch.device) -> dict[str, Tensor]:
    """Positions of each group's entries in the flat vector; the group of all parameters comes last."""
    chosen = {name: name for name in layout.names} if groups is None else dict(groups)
    require(_WHOLE not in chosen, "groups", _WHOLE, "another name; the group of all chosen parameters is added")
    positions = {name: layout.places(choice).to(device) for name, choice in chosen.items()}
    return {**positions, _WHOLE: torch.arange(layout.dim, device=device)}


def _group_alignment(looped: Tensor, single: Tensor, indices: Tensor, per_sample: Tensor) -> GroupAlignment:
    """The alignment of one group from the mean gradients ``(1, P)`` and the samples' cosines ``(S,)``."""
    parts = [_cleaned(rows, indices) for rows in (looped, single)]
    batch = aligned(parts[0], parts[1])
    return GroupAlignment(Aligned(per_sample, batch.batch, batch.ratio, batch.product), float(parts[1].norm()))


def _cleaned(rows: Tensor, indices: Tensor) -> Tensor:
    """A group's part of gradients ``(c, P)``, set to zero where it is zero up to rounding."""
    part = rows[:, indices]
    least = _ROUNDING * torch.finfo(rows.dtype).eps * rows.norm(dim=1, keepdim=True)
    return torch.where(part.norm(dim=1, keepdim=True) > least, part, 0.0)


def checked(rows: Tensor, index: int, first: int) -> Tensor:
    """The gradients ``(c, P)`` of samples, after a check that they are finite.

    Raises:
        NonFiniteError: a gradient is not finite; the message names the sample.
    """
    wrong = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
    if wrong:
        sample = f"sample {first + wrong[0]} of batch {index}"
        raise NonFiniteError(f"{sample}: its gradient holds NaN or infinity; leave out samples in which nothing counts")
    return rows


def _sample_count(batch: Any, index: int) -> int:
    """Length of the first dimension that all tensors of the batch share.

    Raises:
        ShapeMismatchError: they do not.
    """
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ShapeMismatchError(
            f"batch {index}: given tensors of shapes {shapes}, expected all with one first dimension, the samples; "
            "move what is no sample into the loss function"
        )
    return shapes[0][0]


def _samples_in_one_pass(objective: Objective, samples: int, memory: int | None) -> int:
    """c, as many as memory allows, estimated from what autograd kept for the first batch, which has ``samples`` samples."""
    allowed = limits.budget(memory, objective.device)
    allowed = min(allowed, _PASS_BYTES) if objective.device.type == "cpu" else allowed
    # Of each sample: a gradient, its copy when it is joined, and its share of the activations.
    each = 2 * objective.point.element_size() * objective.dim + objective.saved_bytes // max(1, samples)
    return max(1, allowed // each)


class PerSample:
    """Gradients of samples, several at once by ``vmap`` if that works, else one by one; ``how`` says which and why."""

    def __init__(self, objective: Objective, together: int) -> None:
        self.objective = objective
        self.uses_vmap, self.tried = together > 1, together == 1
        self.how = f"vmap over up to {together:,} samples" if self.uses_vmap else "one by one: memory allows no two in a pass"

    def __call__(self, index: int, first: int, last: int) -> Tensor:
        """Gradients ``(c, P)`` of samples ``first`` to ``last - 1`` of batch number ``index``."""
        leaves, form = pytree.tree_flatten(self.objective.batches[index])
        if not self.tried:
            self.try_out(leaves, form, first, last)
        return self.in_one_pass(leaves, form, first, last) if self.uses_vmap else self.by_loop(leaves, form, first, last)

    def try_out(self, leaves: list[Any], form: Any, first: int, last: int) -> None:
        """Compare the first sample's gradient from a pass with the same gradient computed alone, and choose the method."""
        self.tried = True
        try:
            several, alone = (
                self.in_one_pass(leaves, form, first, last)[0],
                self.by_loop(leaves, form, first, first + 1)[0],
            )
        except Exception as problem:  # whatever vmap cannot do; an error of the loss itself is raised again in the loop
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            self.uses_vmap, self.how = False, f"one by one: vmap failed ({reason})"
            return
        distance = float((several - alone).norm() / alone.norm().clamp_min(1e-30))
        if distance > _AGREEMENT[self.objective.dtype]:
            self.uses_vmap, self.how = False, f"one by one: under vmap the first sample's gradient differs by {distance:.1e}"

    def in_one_pass(self, leaves: list[Any], form: Any, first: int, last: int) -> Tensor:
        """Gradients ``(c, P)`` by ``vmap`` of the gradient over the samples."""
        tensors = [leaf[first:last] for leaf in leaves if isinstance(leaf, Tensor)]

        def value(flat: Tensor, *sample: Tensor) -> Tensor:
            remaining: Iterator[Tensor] = iter(sample)
            batch = [next(remaining).unsqueeze(0) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self.value(flat, pytree.tree_unflatten(batch, form))

        return vmap(grad(value), in_dims=(None, *(0 for _ in tensors)))(self.objective.point, *tensors)

    def by_loop(self, leaves: list[Any], form: Any, first: int, last: int) -> Tensor:
        """Gradients ``(c, P)`` by a backward pass for each sample."""
        rows = []
        for i in range(first, last):
            batch = [leaf[i : i + 1] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            flat = self.objective.point.clone().requires_grad_()
            rows.append(torch.autograd.grad(self.value(flat, pytree.tree_unflatten(batch, form)), flat)[0])
        return torch.stack(rows)

    def value(self, flat: Tensor, batch: Any) -> Tensor:
        """Loss of a batch at weights ``(P,)``, as the loss function returns it."""
        return self.objective.part(batch, self.objective.layout.split(flat))[0]
