"""Rank, world size, and sums over ranks; works without a process group."""

from __future__ import annotations

from torch import Tensor
from torch import distributed as dist


def active() -> bool:
    """Is a process group initialised?"""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 without a group."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """Number of processes, 1 without a group."""
    return dist.get_world_size() if active() else 1


def total(value: Tensor) -> Tensor:
    """Sum over the ranks, the same on every rank; the value itself without a group.

    Args:
        value: any shape, the same on every rank; not changed.
    """
    if world() == 1:
        return value
    summed = value.contiguous().clone()
    dist.all_reduce(summed)
    return summed
