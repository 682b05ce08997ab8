"""The curvature of every layer, module or matrix of a model at one point of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from thalweg.records.landscape import LandscapeRecord

By = Literal["layer", "module", "matrix"]
"""How parameters are grouped: by block of the model, by module that owns them, or each on its own."""


@dataclass(frozen=True)
class LayerRecord:
    """The diagonal blocks of the Hessian at one point, one for each group of parameters."""

    step: int
    """Number of updates made."""
    by: By
    """How the parameters were grouped."""
    layers: dict[str, LandscapeRecord]
    """Name of a group, in the model's order -> the curvature of its diagonal block: all numbers are those of the block alone."""
    flat: tuple[str, ...] = ()
    """Groups whose block is zero, and therefore has no spectrum."""

    def __str__(self) -> str:
        width = max(12, *(len(name) for name in self.layers)) + 2
        lines = [f"{'group':<{width}}{'parameters':>12}{'largest':>12}{'trace':>12}{'entropy':>10}{'class':>15}"]
        for name, block in self.layers.items():
            kind = block.split.name if block.split else "-"
            numbers = f"{block.dim:>12,}{block.largest[0]:>12.4g}{block.trace.value:>12.4g}{block.entropy.value:>10.3f}"
            lines.append(f"{name:<{width}}{numbers}{kind:>15}")
        return "\n".join([*lines, *(f"{name:<{width}}{'(zero block)':>12}" for name in self.flat)])
