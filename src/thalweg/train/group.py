"""The process group of a command that was started several times: by torchrun, by srun, or by hand with the same variables."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from thalweg import ranks
from thalweg.errors import BadInputError, require

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets besides WORLD_SIZE."""
_SIGNAL_AT_PARENTS_END = 1
"""The option PR_SET_PDEATHSIG of Linux's ``prctl``."""

_LOOKS_EVERY = 0.01
"""Seconds between two looks of rank 0 at who has come."""


def started_ranks() -> int:
    """Number of processes that were started together, from the variable WORLD_SIZE; 1 without it.

    Raises:
        BadInputError: it is not a whole number.
    """
    text = os.environ.get("WORLD_SIZE", "") or "1"
    require(text.isdigit(), "WORLD_SIZE", text, "a whole number; start the command with torchrun, or unset the variable")
    return max(1, int(text))


def refuse_several(command: str) -> None:
    """Refuse a command that was started as several processes but is not made for it; rank 0 tells.

    Raises:
        BadInputError: several processes were started.
    """
    if started_ranks() > 1:
        error = BadInputError(f"{command}: given {started_ranks()} ranks, expected one process; start it without torchrun")
        error.told_elsewhere = os.environ.get("RANK", "0") != "0"
        raise error


@contextlib.contextmanager
def joined(seconds: float) -> Iterator[None]:
    """Join the process group in the ``with`` block; no effect if a single process was started.

    CPU tensors go through gloo. GPU tensors go through NCCL if every rank has a GPU of its own, else through gloo as well.

    Args:
        seconds: longest time that a rank waits for another one.
    Raises:
        BadInputError: a variable is missing, the port is taken, or not all ranks came.
    """
    if started_ranks() == 1 or dist.is_initialized():
        yield
        return
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        raise BadInputError(
            f"WORLD_SIZE is {started_ranks()}, expected {', '.join(missing)} to be set too; start the command with torchrun, which "
            "sets them, or unset WORLD_SIZE for a single process"
        )
    end_with_launcher()
    try:
        _join(seconds)
    except (RuntimeError, ValueError) as error:
        raise _unjoined(error, seconds) from None
    yield
    with ranks.reaching():
        dist.barrier()  # no rank leaves while another one still talks to it
    dist.destroy_process_group()


def _join(seconds: float) -> None:
    """Initialise the process group.

    torchrun keeps one store for all its restarts, with the addresses of the ranks that it killed; a rank that read one of them
    would wait for a process that is gone. So each group has keys of its own there.
    """
    limit = timedelta(seconds=seconds)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend(), timeout=limit)
        return
    store, rank, world = next(iter(dist.rendezvous("env://", timeout=limit)))
    store = unused_keys(store, rank, world, seconds)
    dist.init_process_group(backend(), store=store, rank=rank, world_size=world, timeout=limit)


def unused_keys(store: dist.Store, rank: int, world: int, seconds: float) -> dist.Store:
    """The store with a prefix that the ranks agree on and that no earlier ranks used, whatever those left in the store.

    Each rank asks under a name that it draws. Rank 0 answers each name with the prefix, until every rank has confirmed.

    Args:
        seconds: longest time that a rank waits.
    Raises:
        RuntimeError: timed out.
    """
    mine, others = uuid.uuid4().hex, set(range(1, world))
    if rank:
        store.set(f"thalweg/asks/{rank}", mine)
        store.wait([f"thalweg/answer/{mine}"], timedelta(seconds=seconds))
        prefix = store.get(f"thalweg/answer/{mine}").decode()
        store.set(f"{prefix}/has/{rank}", "")
        return dist.PrefixStore(prefix, store)
    end = time.monotonic() + seconds
    while others:
        if time.monotonic() > end:
            raise RuntimeError(f"timed out: no sign of rank {', '.join(map(str, sorted(others)))}")
        for other in sorted(others):
            if store.check([f"{mine}/has/{other}"]):
                others.remove(other)
            elif store.check([f"thalweg/asks/{other}"]):
                store.set(f"thalweg/answer/{store.get(f'thalweg/asks/{other}').decode()}", mine)
        time.sleep(_LOOKS_EVERY)
    return dist.PrefixStore(mine, store)


def backend() -> str:
    """The backend for this machine; also selects the GPU of this rank, in turn if there are fewer GPUs than ranks."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local, local_world = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if count:
        torch.cuda.set_device(local % count)
    return "cpu:gloo,cuda:nccl" if 0 < local_world <= count else "gloo"


def _unjoined(error: Exception, seconds: float) -> BadInputError:
    """The error for a group that could not be joined."""
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0]
    if "address already in use" in str(error).lower() or "EADDRINUSE" in str(error):
        return BadInputError(f"ranks: the port of {place} is in use; give torchrun another --master-port")
    if "timed out" in str(error).lower() or "timeout" in str(error).lower():
        return BadInputError(
            f"ranks: rank {os.environ['RANK']} waited {seconds:g} s at {place}, and not all {started_ranks()} ranks came; "
            "start all of them with the same address"
        )
    return BadInputError(f"ranks: rank {os.environ['RANK']} cannot join the others at {place} ({reason})")


def refuse_differences(given: dict[str, Any]) -> None:
    """Refuse ranks that were started with other values than rank 0.

    Args:
        given: name -> value, comparable and the same on every rank.
    Raises:
        BadInputError: the message names the first value that differs, and the ranks.
    """
    everyone = ranks.gathered(given)
    for name, value in everyone[0].items():
        others = [number for number, own in enumerate(everyone) if own.get(name) != value]
        if others:
            number = others[0]
            error = BadInputError(
                f"ranks: {name} is {everyone[number].get(name)!r} on rank {number} and {value!r} on rank 0; "
                "start all ranks with the same command"
            )
            error.told_elsewhere = ranks.rank() > 0
            raise error


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted names.

    Example:
        >>> flat({"training": {"steps": 3}, "seed": 0})
        {'training.steps': 3, 'seed': 0}
    """
    items: dict[str, Any] = {}
    for name, value in values.items():
        items |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return items


def end_with_launcher() -> None:
    """Have Linux end this process when the launcher that started it ends, so that no rank of a killed launcher keeps its locks.

    By the kernel, as a thread that polls would be torn down in mid-flight when the interpreter exits. No effect on other systems.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_END, signal.SIGTERM)
