"""Rank, world size, and sums, means and objects shared between ranks; all of it also works in a single process without a group.

Every function that waits for other ranks turns the failure to reach them into one line (`LostRankError`): a rank that has ended is
noticed at once, one that hangs after the time limit of the process group.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from thalweg.errors import ElsewhereError, LostRankError

_Value = TypeVar("_Value")

JOIN_SECONDS = 60.0
"""Longest time that `meet` waits for the other ranks."""
_SETTLE_SECONDS = 2.0
"""Time in which the ranks that noticed a hang report that they themselves are alive."""

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
_meetings = 0


def active() -> bool:
    """Whether a process group is initialised, and this code is not told to ignore it (`alone`)."""
    return dist.is_available() and dist.is_initialized() and not _ALONE.get()


def rank() -> int:
    """Number of this process in the process group; 0 without a group."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """Number of processes in the process group; 1 without a group."""
    return dist.get_world_size() if active() else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In the ``with`` block this process ignores its process group: nothing waits for another rank.

    An operator that is built and used in the block is that of this rank's batches.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Turn the failure of a collective call in the ``with`` block into `LostRankError`.

    Raises:
        LostRankError: another rank has ended, or did not answer within the time limit of the group.
    """
    try:
        yield
    except RuntimeError as error:
        reason, here = str(error).lower(), f"rank {dist.get_rank()} of {dist.get_world_size()}"
        if "timed out" in reason or "timeout" in reason:
            missing = _missing_ranks()
            who = f"rank {', '.join(map(str, missing))}" if missing else "another rank"
            raise LostRankError(f"{here}: {who} did not answer within the time limit; it hangs, or is too slow") from None
        gone = ("connection", "peer", "socket", "gloo", "nccl", "broken pipe", "store")
        if any(word in reason for word in gone):
            raise LostRankError(f"{here}: the connection to another rank was lost; its message, if it left one, says why") from None
        raise


def _missing_ranks() -> list[int]:
    """The ranks that have not reported within some seconds that they noticed a hang; they are the ones that hang."""
    everyone = range(dist.get_world_size())
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"thalweg/noticed/{dist.get_rank()}", "")
        time.sleep(_SETTLE_SECONDS)
        return [other for other in everyone if not store.check([f"thalweg/noticed/{other}"])]
    except RuntimeError:
        return []


def total(value: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, equal on every rank; the tensor itself without a process group.

    Args:
        value: any shape, which must be the same on every rank; not changed.
    Raises:
        LostRankError: another rank cannot be reached.
    """
    if world() == 1:
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else value.device
    summed = value.detach().to(device, copy=True).contiguous()
    with reaching():
        dist.all_reduce(summed)
    return summed.to(value.device)


def total_of(compute: Callable[[], Tensor], like: Tensor) -> Tensor:
    """Sum over all ranks of the tensor that each computes; where the computation fails on one rank, it fails on all.

    One all-reduce of the tensor and a flag for each rank, so that no rank waits for one that has failed.

    Args:
        compute: returns a tensor with the shape, dtype and device of ``like``.
        like: any tensor of that kind; its values do not matter.
    Raises:
        Exception: the error of this rank.
        ElsewhereError: another rank failed.
        LostRankError: another rank cannot be reached.
    """
    if world() == 1:
        return compute()
    flat, failure = like.new_zeros(like.numel() + world()), None
    try:
        flat[: like.numel()] = compute().reshape(-1)
    except Exception as error:
        failure = error
        flat[like.numel() + rank()] = 1.0
    summed = total(flat)
    _fail_alike(failure, summed[like.numel() :])
    return summed[: like.numel()].view_as(like)


def least(value: int) -> int:
    """The smallest of the ranks' numbers, on every rank.

    Raises:
        LostRankError: another rank cannot be reached.
    """
    return min(gathered(value))


def mean(value: Tensor) -> Tensor:
    """Mean of a tensor over all ranks, equal on every rank; the tensor itself without a process group.

    Args:
        value: any shape, which must be the same on every rank; not changed.
    """
    return value if world() == 1 else total(value) / world()


def same(value: _Value) -> _Value:
    """The value that rank 0 has, on every rank; any object that can be pickled.

    Raises:
        LostRankError: another rank cannot be reached.
    """
    if world() == 1:
        return value
    box = [value]
    with reaching():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: _Value) -> list[_Value]:
    """The values of all ranks, in the order of the ranks; any object that can be pickled.

    Raises:
        LostRankError: another rank cannot be reached.
    """
    if world() == 1:
        return [value]
    values: list[_Value] = [value] * world()
    with reaching():
        dist.all_gather_object(values, value)
    return values


def meet(what: str) -> None:
    """Wait until every rank has come to its n-th call of this function, where this rank makes its n-th; no effect in one process.

    In place of a collective call, which would wait for as long as the group allows, or be matched with another call of a rank that
    never comes here.

    Args:
        what: what the ranks do together, for the message.
    Raises:
        LostRankError: not all ranks came within `JOIN_SECONDS`.
    """
    global _meetings
    if world() == 1:
        return
    _meetings += 1
    keys = [f"thalweg/meeting/{_meetings}/{other}" for other in range(world())]
    store = dist.distributed_c10d._get_default_store()
    try:
        store.set(keys[rank()], "")
        store.wait(keys, timedelta(seconds=JOIN_SECONDS))
    except RuntimeError:
        raise LostRankError(
            f"{what}: rank {rank()} of {world()} waited {JOIN_SECONDS:.0f} s for the others; all ranks must do this together, or "
            "this one alone in a block `with thalweg.alone():`"
        ) from None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If the ``with`` block fails on one rank, fail on all ranks, so that no rank waits for another that has ended.

    Of several ranks that fail, the lowest tells the user (``told_elsewhere`` of the errors of the others is true).

    Raises:
        Exception: the error of this rank.
        ElsewhereError: another rank failed.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if isinstance(failure, LostRankError):
        raise failure
    failed = torch.zeros(world())
    failed[rank()] = float(failure is not None)
    _fail_alike(failure, total(failed))


def _fail_alike(failure: Exception | None, failed: Tensor) -> None:
    """Raise this rank's error, or tell that another rank failed, given the flags of all ranks; the lowest tells the user."""
    first = next((number for number, fails in enumerate(failed.tolist()) if fails), None)
    if isinstance(failure, LostRankError):
        raise failure
    if failure is not None:
        failure.told_elsewhere = first != rank()  # type: ignore[attr-defined]
        raise failure
    if first is not None:
        raise ElsewhereError(f"rank {rank()}: another rank refused its input; see its message")
