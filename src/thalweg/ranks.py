"""Rank, world size, and sums over ranks; works without a process group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch import distributed as dist

from thalweg.errors import BadInputError


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
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else value.device
    summed = value.detach().to(device, copy=True).contiguous()
    dist.all_reduce(summed)
    return summed.to(value.device)


def mean(value: Tensor) -> Tensor:
    """Mean over the ranks, the same on every rank; the value itself without a group.

    Args:
        value: any shape, the same on every rank; not changed.
    """
    return value if world() == 1 else total(value) / world()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """When one rank fails inside, all fail, instead of waiting for it: it with its own error, the others with a pointer to it."""
    problem: Exception | None = None
    try:
        yield
    except Exception as error:
        problem = error
    failed = total(torch.tensor(float(problem is not None)))
    if problem is not None:
        raise problem
    if failed > 0:
        raise BadInputError(f"rank {rank()}: another rank refused its input; see its message")
