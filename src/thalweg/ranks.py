"""Rank, world size, and sums and means over ranks; all of it also works in a single process without a process group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch import distributed as dist

from thalweg.errors import BadInputError


def active() -> bool:
    """Whether a process group is initialised."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process in the process group; 0 without a group."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """Number of processes in the process group; 1 without a group."""
    return dist.get_world_size() if active() else 1


def total(value: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, equal on every rank; the tensor itself without a process group.

    Args:
        value: any shape, which must be the same on every rank; not changed.
    """
    if world() == 1:
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else value.device
    summed = value.detach().to(device, copy=True).contiguous()
    dist.all_reduce(summed)
    return summed.to(value.device)


def mean(value: Tensor) -> Tensor:
    """Mean of a tensor over all ranks, equal on every rank; the tensor itself without a process group.

    Args:
        value: any shape, which must be the same on every rank; not changed.
    """
    return value if world() == 1 else total(value) / world()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If the ``with`` block fails on one rank, fail on all ranks, so that no rank waits for another that has ended.

    Raises:
        Exception: the error of this rank.
        BadInputError: another rank failed.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    failures = total(torch.tensor(float(failure is not None)))
    if failure is not None:
        raise failure
    if failures > 0:
        raise BadInputError(f"rank {rank()}: another rank refused its input; see its message")
