"""What a probe measures: a loss, batches, and a model whose query and key weights are balanced."""

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
from thalweg.curvature.sharded import is_sharded
from thalweg.errors import BadInputError, Phrase, require
from thalweg.landscape.gauge import Pair, balance, balance_weights, named
from thalweg.vectors import Choice, Layout, layout, select


@dataclass(frozen=True)
class Gauge:
    """Which query and key weights are balanced, and how, see `thalweg.landscape.gauge.balance`."""

    pairs: Sequence[Pair] = ()
    """Names of the weights; none balances nothing."""
    heads: int = 1
    """Number of heads of every pair."""
    rotary: bool = False
    """Whether rotary positions follow."""


@dataclass(frozen=True)
class MeasurementContext:
    """A loss, its batches and its model at one point, with the settings of the evaluation."""

    loss_fn: LossFunction
    model: nn.Module
    """The model with balanced weights; the caller's own where there is nothing to balance."""
    batches: list[Any]
    params: Choice
    layout: Layout
    imbalance: float | None
    """Imbalance of the worst pair before balancing, a factor of at least 1; None without pairs."""
    mode: Mode = "eval"
    seed: int | None = None
    """Seed of random parts of the loss; None leaves the generators alone."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Layout of the parameters and shapes of the batches, which determine the time of a dense Hessian."""
        return self.layout, tuple(shapes_in(batch) for batch in self.batches)

    @property
    def device(self) -> torch.device:
        """Device of the chosen parameters."""
        return next(iter(select(self.model, self.params).values())).device


def measurement_context(
    loss_fn: LossFunction,
    model: nn.Module,
    batches: Iterable[Any],
    params: Choice,
    dtype: torch.dtype,
    gauge: Gauge,
    mode: Mode = "eval",
    seed: int | None = None,
) -> MeasurementContext:
    """Prepare a measurement: list the batches, unwrap the model, and balance its weights in ``dtype``.

    Raises:
        BadInputError: what `listed`, `unwrapped`, `select` or `balance` refuse.
    """
    model, batch_list = unwrapped(model), listed(batches)
    chosen_layout = layout(select(model, params))
    balanced_model, imbalance = balanced(model, gauge, dtype)
    return MeasurementContext(loss_fn, balanced_model, batch_list, params, chosen_layout, imbalance, mode, seed)


def balanced(model: nn.Module, gauge: Gauge, dtype: torch.dtype) -> tuple[nn.Module, float | None]:
    """A copy of the model with balanced pairs, and the imbalance of the worst pair before; without pairs the model itself, None.

    Raises:
        BadInputError: a name that the model does not have.
    """
    if not gauge.pairs:
        return model, None
    require(not is_sharded(model), "pairs", Phrase("weights of a sharded model"), "none, as they are balanced in a whole copy")
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = {name: named(parameters, name).detach().to(dtype) for pair in gauge.pairs for name in Pair(*pair) if name is not None}
    for name, value in balance_weights(weights, gauge.pairs, gauge.heads, gauge.rotary).items():
        parameters[name].data = value
    matrices = [(weights[pair[0]], weights[pair[1]]) for pair in gauge.pairs]
    return model, max(balance(*pair, heads=gauge.heads, rotary=gauge.rotary).before.worst for pair in matrices)


def refuse_other(given: Layout, before: Layout, step: int) -> None:
    """Refuse a point whose parameters have other names or shapes than those of the point before."""
    if given != before:
        counts = [f"{shapes.dim:,} parameters in {len(shapes.names)} tensors" for shapes in (given, before)]
        raise BadInputError(
            f"model: given {counts[0]}, expected the names and shapes of step {step}, {counts[1]}: spectra of different models; "
            "reset() begins a new series"
        )


def refuse_unequal(context: MeasurementContext, dtype: torch.dtype) -> None:
    """Refuse batches for which the Hessian is not the plain mean over at least two batches, as the noise needs it."""
    require(len(context.batches) >= 2, "batches", len(context.batches), "at least 2 to see noise")
    weights = [
        Objective(context.loss_fn, context.model, [batch], context.params, dtype, context.mode, context.seed).weight
        for batch in context.batches
    ]
    even = max(weights) <= min(weights) * (1 + 1e-9)
    require(even, "batches", Phrase("different counts"), "equal counts where noise=True, as the mean over batches is a plain one")
