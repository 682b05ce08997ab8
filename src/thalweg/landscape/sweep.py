"""What every threshold would have said: the split and its condition number from the machine floor to the largest eigenvalue.

Shape letters: n number of eigenvalues, t thresholds.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import NoPlateauWarning, require
from thalweg.landscape.threshold import PLATEAU, Plateau, machine_floor, plateau, plateaus, sizes
from thalweg.landscape.valley import classify_shape, shape


@dataclass(frozen=True)
class Sweep:
    """A table with one row for each threshold, ``(t,)`` each."""

    epsilon: Tensor
    """Rising, equal steps of the logarithm, from the machine floor to the largest size. As H."""
    valley: Tensor
    """dV, whole numbers."""
    river: Tensor
    """dR."""
    ridge: Tensor
    """Number of eigenvalues below -epsilon."""
    kappa: Tensor
    """NaN where the valley is empty."""
    kappa_q: Tensor
    negative_mass: Tensor
    classes: tuple[str, ...]
    """U, V, saddle or indeterminate, by the rules of `valley.classify`, which look at the plateau too."""
    plateaus: tuple[Plateau, ...]
    """The longest first."""
    chosen: Plateau | None
    """Around the threshold that was asked for."""

    @property
    def separated(self) -> bool:
        """Whether the chosen threshold lies on a plateau of at least 0.3 decades; without one, whether any does."""
        return (self.chosen or self.plateaus[0]).decades >= PLATEAU


def sweep(values: Tensor, chosen: float | None = None, precision: torch.dtype | None = None, points: int = 200) -> Sweep:
    """How split, condition number and class depend on the threshold, from ``n u rho`` to ``rho``.

    The number of eigenvalues above epsilon is a step function of ``log epsilon``. Its plateaus are the gaps of ``log |lam|``,
    so the log-gap rule takes the longest one in its range.

    Args:
        values: ``(n,)``.
        chosen: the threshold used elsewhere; with `NoPlateauWarning` where its plateau is shorter than 0.3 decades.
        precision: of the arithmetic that made H, see `threshold.machine_floor`.
        points: number of thresholds t, at least 2.
    Source:
        Ours.
    Example:
        >>> found = sweep(torch.tensor([4.0, 2.0, 1.0, 1e-3]), points=3)
        >>> found.valley.tolist(), round(found.plateaus[0].decades, 3)
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
        torch.tensor([row.negative_mass for row in rows], dtype=torch.float64),
        tuple(classify_shape(row).name for row in rows),
        tuple(sorted(plateaus(values, precision), key=lambda each: -each.decades)),
        gap,
    )
    if gap is not None and not table.separated:
        warnings.warn(
            f"threshold {chosen:.3g}: no eigenvalue within {gap.decades:.2f} decades only, expected {PLATEAU:g}; "
            "river and valley are not separate there, and no class follows",
            NoPlateauWarning,
            stacklevel=2,
        )
    return table
