"""What a probe looks at: a loss, batches, and a model in one gauge."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thalweg.curvature.containers import shapes_in
from thalweg.curvature.context import Mode
from thalweg.curvature.objective import LossFunction, Objective, listed, unwrapped
from thalweg.errors import BadInputError, require
from thalweg.landscape.gauge import Pair, balance, balance_weights, named
from thalweg.vectors import Choice, Layout, layout, select


@dataclass(frozen=True)
class Gauge:
    """Query and key weights that are balanced, see `thalweg.landscape.gauge.balance`."""

    pairs: Sequence[Pair] = ()
    heads: int = 1
    rotary: bool = False


@dataclass(frozen=True)
class MeasurementContext:
    """A loss at one point."""

    loss_fn: LossFunction
    model: nn.Module
    """Balanced; the caller's own only where there is nothing to balance."""
    batches: list[Any]
    params: Choice
    layout: Layout
    imbalance: float | None
    """Worst of all pairs before, at least 1; None without pairs."""
    mode: Mode = "eval"
    seed: int | None = None
    """Of random parts of the loss."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Layout and shapes of the batches: what the time of a dense Hessian depends on."""
        return self.layout, tuple(shapes_in(batch) for batch in self.batches)

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next(iter(select(self.model, self.params).values())).device


def scene(
    loss_fn: LossFunction,
    model: nn.Module,
    batches: Iterable[Any],
    params: Choice,
    dtype: torch.dtype,
    gauge: Gauge,
    mode: Mode = "eval",
    seed: int | None = None,
) -> MeasurementContext:
    """Batches listed, wrappers taken off the model, weights balanced in ``dtype``."""
    model, kept = unwrapped(model), listed(batches)
    found = layout(select(model, params))
    balanced_model, imbalance = balanced(model, gauge, dtype)
    return MeasurementContext(loss_fn, balanced_model, kept, params, found, imbalance, mode, seed)


def balanced(model: nn.Module, gauge: Gauge, dtype: torch.dtype) -> tuple[nn.Module, float | None]:
    """A copy with its pairs balanced, and how far the worst was from it; without pairs the model itself.

    Raises:
        BadInputError: a name that the model does not have.
    """
    if not gauge.pairs:
        return model, None
    model = copy.deepcopy(model)
    known = dict(model.named_parameters(remove_duplicate=False))
    weights = {name: named(known, name).detach().to(dtype) for pair in gauge.pairs for name in Pair(*pair) if name is not None}
    for name, value in balance_weights(weights, gauge.pairs, gauge.heads, gauge.rotary).items():
        known[name].data = value
    both = [(weights[pair[0]], weights[pair[1]]) for pair in gauge.pairs]
    return model, max(balance(*pair, heads=gauge.heads, rotary=gauge.rotary).before.worst for pair in both)


def refuse_other(given: Layout, before: Layout, step: int) -> None:
    """A point is compared with another of the same names and shapes only."""
    if given != before:
        counts = [f"{one.dim:,} parameters in {len(one.names)} tensors" for one in (given, before)]
        raise BadInputError(
            f"model: given {counts[0]}, expected the names and shapes of step {step}, {counts[1]}: spectra of different models; "
            "reset() begins a new series"
        )


def refuse_unequal(given: MeasurementContext, dtype: torch.dtype) -> None:
    """For the noise, the Hessian has to be the plain mean of at least two batches'."""
    require(len(given.batches) >= 2, "batches", len(given.batches), "at least 2 to see noise")
    weights = [
        Objective(given.loss_fn, given.model, [one], given.params, dtype, given.mode, given.seed).weight for one in given.batches
    ]
    even = max(weights) <= min(weights) * (1 + 1e-9)
    require(even, "batches", "different counts", "equal counts where noise=True, as the mean over batches is a plain one")
