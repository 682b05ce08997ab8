"""How much memory is available, and the error that refuses to use more."""

from __future__ import annotations

import os
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # not on every platform
    resource = None

from thalweg.errors import MemoryLimitError, require

_SHARE = 0.5
"""Share of the free memory that a computation may take when the caller sets no limit."""


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Files of a control group of the first version, and the entry of its ``memory.stat``."""
_NO_LIMIT = 1 << 60
"""Bytes above which a limit is none."""


def free(device: torch.device | None = None) -> int:
    """Bytes that are free now on the device, or in the machine's memory where no device is given."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = [max(0, most - used) for most, used in _groups()]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        if "MemAvailable" in lines:
            return min(1024 * int(lines["MemAvailable"].split()[0]), *left, 1 << 62)
    if left:
        return min(left)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30


def total(device: torch.device | None = None) -> int:
    """Largest number of bytes that this process could hold.

    That is the device's memory, or the machine's memory with swap, and less where a limit is set on the process or its container.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    meminfo, sizes = Path("/proc/meminfo"), [most for most, _ in _groups()]
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        sizes.append(sum(1024 * int(lines[name].split()[0]) for name in ("MemTotal", "SwapTotal") if name in lines))
    elif hasattr(os, "sysconf"):
        sizes.append(2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if resource is not None:
        sizes += [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min((size for size in sizes if size > 0), default=1 << 62)


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[tuple[int, int]]:
    """Memory limit and use, in bytes, of the control groups that hold this process, as containers and batch systems set them.

    Files that the system can drop from memory do not count as used.

    Args:
        root: where the groups are mounted.
        own: the file that names those of this process.
    """
    found = []
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    for _, kinds, path in (line for line in lines if len(line) == 3):
        if kinds and "memory" not in kinds.split(","):
            continue
        names = ("memory.max", "memory.current", "inactive_file") if not kinds else _VERSION_1
        top = root / "memory" if kinds else root
        group = top / path.strip("/")
        for folder in dict.fromkeys((*(one for one in (group, *group.parents) if one.is_relative_to(top)), top)):
            try:
                most, used = (int((folder / name).read_text()) for name in names[:2])
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no limit is "max"
                continue
            if most < _NO_LIMIT:
                found.append((most, used - int(stat.get(names[2], 0))))
    return found


def in_use(device: torch.device) -> int | None:
    """Bytes that tensors hold on a GPU now; None on any other device."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def most_used(device: torch.device) -> int:
    """Most bytes that tensors held on a GPU at once since the process began, or since the count was last reset."""
    return torch.cuda.max_memory_allocated(device)


def budget(limit: int | None, device: torch.device | None = None) -> int:
    """Bytes that a computation may use: the caller's limit, or half of what is free now.

    Raises:
        BadInputError: a limit that is not positive.
    """
    require(limit is None or limit > 0, "memory", limit, "a positive number of bytes, or None for half of what is free")
    return int(_SHARE * free(device)) if limit is None else limit


def ensure(needed: int, allowed: int, what: str, instead: str) -> None:
    """Refuse, before anything is allocated, what needs more memory than allowed.

    Args:
        needed, allowed: bytes.
        what: what needs the memory, the beginning of the message.
        instead: what to do, the end of the message.
    Raises:
        MemoryLimitError: more is needed than allowed.
    """
    if needed > allowed:
        raise MemoryLimitError(f"{what}: needs {format_bytes(needed)}, the limit is {format_bytes(allowed)}; {instead}")


def format_bytes(size: int) -> str:
    """A number of bytes as text: bytes below 1 MiB, then MiB, then GiB.

    Example:
        >>> format_bytes(3 << 29), format_bytes(51_200)
        ('1.5 GiB', '51,200 bytes')
    """
    if size < 1 << 20:
        return f"{size:,} bytes"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
