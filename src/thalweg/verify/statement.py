"""What `thalweg verify` is made of: a statement of the theory, its numerical check, and the outcome of that check."""

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
    """The outcome of checking one statement on all its cases."""

    tried: int
    """Number of cases that were checked."""
    worst: float
    """Largest error, or largest violation of an inequality, over the cases."""
    allowed: float
    """Largest value of `worst` with which the statement still holds."""
    words: str = ""
    """Further figures for the reader; for a counterexample, its numbers."""

    @property
    def holds(self) -> bool:
        """Whether the worst error is within the tolerance; False if that error is NaN or if there was no case."""
        return self.tried > 0 and self.worst <= self.allowed


@dataclass(frozen=True)
class Statement:
    """One line of `thalweg verify`: a statement of docs/theory.md and the function that checks it."""

    key: str
    """Number of the statement in docs/theory.md."""
    words: str
    """The statement in one line of at most 100 characters."""
    paper: str
    """Status of the paper's version: "as stated", "repaired", "false", "vacuous"; "ours" if the paper has no such statement."""
    check: Callable[[], Finding]
    """Checks the statement on the same cases in every call."""


def cases(number: int) -> np.random.Generator:
    """Return the random generator of one check.

    Every check has its own number, so that adding a check does not change the cases of another one.
    """
    return stream(0, "cases", number)


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Draw a float64 tensor of standard normal entries."""
    return torch.from_numpy(rng.standard_normal(shape))


def rotation(rng: np.random.Generator, dim: int) -> Tensor:
    """Draw a random orthogonal matrix ``(dim, dim)``, float64."""
    return torch.linalg.qr(normal(rng, dim, dim))[0]


def errors_within(errors: list[float], allowed: float, words: str = "") -> Finding:
    """Compare the largest of a list of errors, one or more for each case, with the tolerance."""
    return Finding(len(errors), float(np.max(errors)) if errors else math.nan, allowed, words)


def relative_error(computed: Tensor, expected: Tensor) -> float:
    """Compute ``||computed - expected|| / ||expected||``."""
    return float((computed - expected).norm() / expected.norm().clamp_min(1e-300))
