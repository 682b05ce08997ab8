"""A statement of the theory and what was found when it was tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.streams import stream


@dataclass(frozen=True)
class Finding:
    """What trying a statement gave."""

    tried: int
    """Cases."""
    worst: float
    """Largest error or violation over the cases."""
    allowed: float
    """What it may be."""
    words: str = ""
    """Further figures, for a reader; of a counterexample its numbers."""

    @property
    def holds(self) -> bool:
        """Whether the worst is allowed; never for NaN, never without a case."""
        return self.tried > 0 and self.worst <= self.allowed


@dataclass(frozen=True)
class Statement:
    """One line of the list."""

    key: str
    """Number in docs/theory.md."""
    words: str
    """The statement, in one line of at most 100 characters."""
    paper: str
    """What became of the paper's version: "as stated", "repaired", "false", "vacuous" or, where it has none, "ours"."""
    check: Callable[[], Finding]
    """Tries it; the same cases every time."""


def cases(number: int) -> np.random.Generator:
    """The random numbers of one check; each check has a number of its own, so that none shifts another's cases."""
    return stream(0, "cases", number)


def normal(draw: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.from_numpy(draw.standard_normal(shape))


def rotation(draw: np.random.Generator, dim: int) -> Tensor:
    """Orthonormal columns ``(dim, dim)``."""
    return torch.linalg.qr(normal(draw, dim, dim))[0]


def worst(errors: list[float], allowed: float, words: str = "") -> Finding:
    """The largest of a list of errors."""
    return Finding(len(errors), float(np.max(errors)) if errors else math.nan, allowed, words)


def relative(found: Tensor, expected: Tensor) -> float:
    """``||found - expected|| / ||expected||``."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))
