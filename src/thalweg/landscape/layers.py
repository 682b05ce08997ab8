"""The curvature of every layer, module or matrix of a model, at a point or along a training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from torch import nn

from thalweg.bounds import of_their_kind
from thalweg.curvature.context import Mode, undisturbed
from thalweg.curvature.objective import LossFunction, listed, unwrapped
from thalweg.errors import BadInputError, EmptySubspaceError, unknown
from thalweg.landscape.probe import LandscapeProbe
from thalweg.records.layers import By, LayerRecord
from thalweg.reprs import describe
from thalweg.vectors import Choice, select


class LayerProbe:
    """Measures the diagonal blocks of the Hessian that belong to the layers, modules or matrices of any model.

    Each group of parameters is a series of its own (`LandscapeProbe`): trace, extreme eigenvalues, entropy, the class of the
    valley (U, V, saddle or indeterminate; of exact blocks only), and the change since the point before. A block is exact where its
    matrix is small, and matrix-free otherwise. Products of a block run only through the part of the model that it needs. Names are
    those of ``model.named_parameters()``, of Hugging Face's models too:

    * "layer": up to the first number in the name, ``model.layers.3``; parameters without a number by their module.
    * "module": the module that owns the parameter, ``model.layers.3.self_attn.q_proj``.
    * "matrix": each parameter, ``model.layers.3.self_attn.q_proj.weight``.

    Args:
        by: one of these.
        probe: how a block is measured, a `LandscapeProbe`, which is copied; None takes its defaults without quadratic forms.
    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> record = LayerProbe("module").measure(lambda m, x: m(x).square().mean(), model, [torch.eye(2)])
        >>> [(name, block.dim) for name, block in record.layers.items()]
        [('0', 4), ('1', 2)]
    """

    @of_their_kind
    def __init__(self, by: By = "layer", probe: LandscapeProbe | None = None) -> None:
        if by not in get_args(By):
            raise unknown("by", str(by), get_args(By))
        if not isinstance(probe, LandscapeProbe | None):
            raise BadInputError(f"probe: given {type(probe).__name__}, expected a LandscapeProbe")
        if probe is not None and probe.pairs:
            raise BadInputError("probe: given one with pairs to balance, expected none: a block alone has no gauge")
        self.by: By = by
        self.template = probe or LandscapeProbe(forms=0)
        self.probes: dict[str, LandscapeProbe] = {}

    def __repr__(self) -> str:
        return describe(self, f"by={self.by!r}", f"probe={self.template!r}", f"{len(self.probes):,} groups" if self.probes else "")

    def reset(self) -> None:
        """Begin a new series: the next point is compared with none."""
        self.probes = {}

    @undisturbed
    @of_their_kind
    def measure(
        self,
        loss_fn: LossFunction,
        model: nn.Module,
        batches: Iterable[Any],
        step: int = 0,
        params: Choice = None,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> LayerRecord:
        """Measure every group at the model's present weights, which are not changed.

        Args:
            loss_fn, model, batches, params, mode, seed: as for `LandscapeProbe.measure`; ``params`` limits what is grouped.
            step: number of updates made so far, for the record.
        Returns:
            The record of all groups; groups whose block is zero are named in it.
        Raises:
            BadInputError: other groups than at the point before; or what `LandscapeProbe.measure` refuses.
        """
        model, batch_list = unwrapped(model), listed(batches)
        groups = grouped(list(select(model, params)), self.by)
        if self.probes and list(self.probes) != list(groups):
            raise BadInputError(
                f"model: given {len(groups)} groups of parameters, expected the {len(self.probes)} of the point before; "
                "reset() begins a new series"
            )
        blocks, flat = {}, []
        # Copies, so that a failure in one group leaves all groups at the point before.
        probes = {name: copy.copy(probe) for name, probe in self.probes.items()} or {name: self._fresh() for name in groups}
        for name, members in groups.items():
            try:
                blocks[name] = probes[name].measure(loss_fn, model, batch_list, step, members, mode=mode, seed=seed)
            except EmptySubspaceError:
                flat.append(name)
        self.probes = probes
        return LayerRecord(step, self.by, blocks, tuple(flat))

    def along(
        self,
        loss_fn: LossFunction,
        checkpoints: Iterable[tuple[int, nn.Module]],
        batches: Iterable[Any],
        params: Choice = None,
        mode: Mode = "eval",
        seed: int | None = None,
    ) -> Iterator[LayerRecord]:
        """Measure checkpoints one after the other, each compared with the one before.

        Args:
            checkpoints: pairs of a step and a model, for example a generator that loads them:
                ``((step, AutoModelForCausalLM.from_pretrained(f"run/checkpoint-{step}")) for step in (100, 200, 400))``.
            loss_fn, batches, params, mode, seed: as for `measure`.
        Yields:
            The record of each checkpoint, as soon as it is measured.
        """
        batch_list = listed(batches)
        for step, model in checkpoints:
            yield self.measure(loss_fn, model, batch_list, step, params, mode, seed)

    def _fresh(self) -> LandscapeProbe:
        """A copy of the template at the beginning of a series."""
        probe = copy.copy(self.template)
        probe.seconds_of = {}
        probe.reset()
        return probe


def grouped(names: Sequence[str], by: By) -> dict[str, list[str]]:
    """Name of a group -> names of its parameters, in their order.

    Example:
        >>> grouped(["wte.weight", "h.0.ln.weight", "h.0.ln.bias", "h.1.ln.weight"], "layer")
        {'wte': ['wte.weight'], 'h.0': ['h.0.ln.weight', 'h.0.ln.bias'], 'h.1': ['h.1.ln.weight']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name, by), []).append(name)
    return groups


def _group(name: str, by: By) -> str:
    """The group of one parameter."""
    parts = name.split(".")
    if by == "matrix" or len(parts) == 1:
        return name
    numbers = [place for place, part in enumerate(parts[:-1]) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1] if by == "layer" and numbers else parts[:-1])
