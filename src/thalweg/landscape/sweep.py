"""The split and its condition number as functions of the threshold, from the machine floor to the largest eigenvalue.

Shape letters: n number of eigenvalues, t thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import NoPlateauWarning, require, warn
from thalweg.landscape.threshold import Plateau, machine_floor, plateau, plateaus, sizes
from thalweg.landscape.valley import classify_shape, shape
from thalweg.records.landscape import PLATEAU
from thalweg.reprs import short_repr


@short_repr
@dataclass(frozen=True)
class Sweep:
    """A table with one row for each threshold; all tensors are ``(t,)``."""

    epsilon: Tensor
    """Thresholds in rising order with equal steps of the logarithm, from the machine floor to the largest size; in units of H."""
    valley: Tensor
    """dV, whole numbers."""
    river: Tensor
    """dR, whole numbers."""
    ridge: Tensor
    """Number of eigenvalues below -epsilon."""
    kappa: Tensor
    """Condition number; NaN where the valley is empty."""
    kappa_q: Tensor
    """Condition number by quantiles; NaN where the valley is empty."""
    ridge_mass: Tensor
    """Share of ``sum |lam|`` below -epsilon."""
    classes: tuple[str, ...]
    """U, V, saddle or indeterminate, by the rules of `valley.classify`, which require a plateau too."""
    plateaus: tuple[Plateau, ...]
    """All plateaus, the longest first."""
    chosen: Plateau | None
    """The plateau around the chosen threshold; None without one."""

    @property
    def separated(self) -> bool:
        """Whether the chosen threshold lies on a plateau of at least 0.3 decades; without one, whether any does."""
        return (self.chosen or self.plateaus[0]).decades >= PLATEAU


def sweep(values: Tensor, chosen: float | None = None, precision: torch.dtype | None = None, points: int = 200) -> Sweep:
    """Compute split, condition number and class for thresholds from the machine floor ``n u rho`` to the largest size ``rho``.

    The number of eigenvalues above epsilon is a step function of ``log epsilon``. Its plateaus are the gaps of ``log |lam|``,
    so the log-gap rule takes the longest one in its range.

    Args:
        values: eigenvalues ``(n,)``, not all zero.
        chosen: the threshold that is used elsewhere, in units of H; None for none.
        precision: dtype of the arithmetic that computed H, see `threshold.machine_floor`.
        points: t, number of thresholds, at least 2.
    Warns:
        NoPlateauWarning: the plateau around the chosen threshold is shorter than 0.3 decades.
    Source:
        Ours.
    Example:
        >>> table = sweep(torch.tensor([4.0, 2.0, 1.0, 1e-3]), points=3)
        >>> table.valley.tolist(), round(table.plateaus[0].decades, 3)
        ([4, 3, 0], 3.0)
    """
    require(points >= 2, "points", points, "a whole number of at least 2")
    floor, rho = machine_floor(values, precision), float(sizes(values)[0])
    grid = torch.logspace(math.log10(floor), math.log10(rho), points, dtype=torch.float64)
    grid[0], grid[-1] = floor, rho  # exactly: rounding must not put the largest eigenvalue above
    rows = [shape(values, epsilon, precision) for epsilon in grid.tolist()]
    gap = None if chosen is None else plateau(values, chosen, precision)
    table = Sweep(
        grid,
        torch.tensor([row.valley for row in rows]),
        torch.tensor([row.river for row in rows]),
        torch.tensor([row.ridge for row in rows]),
        torch.tensor([row.kappa for row in rows], dtype=torch.float64),
        torch.tensor([row.kappa_q for row in rows], dtype=torch.float64),
        torch.tensor([row.ridge_mass for row in rows], dtype=torch.float64),
        tuple(classify_shape(row).name for row in rows),
        tuple(sorted(plateaus(values, precision), key=lambda each: -each.decades)),
        gap,
    )
    if gap is not None and not table.separated:
        warn(
            f"threshold {chosen:.3g}: only {gap.decades:.2f} decades around it have no eigenvalue, expected at least {PLATEAU:g}; "
            "river and valley are not separate there, so choose another threshold for a class",
            NoPlateauWarning,
        )
    return table
