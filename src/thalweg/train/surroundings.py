"""What else the machine does while a run trains: how long the run waits for a core, what the hypervisor takes, the load.

Seconds are only comparable between runs that had the machine to themselves. Linux counts what is needed: the time that a thread was
ready and not running (``/proc/thread-self/schedstat``), and the time of all cores by kind (``/proc/stat``).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_NANO = 1e-9
_STEAL, _KINDS = 7, 8
"""Place of the stolen time in the first line of ``/proc/stat``, and number of kinds that add up to all time."""


@dataclass(frozen=True)
class Seen:
    """What a watch saw between two readings."""

    seconds: float
    """Time between the readings."""
    waited: float
    """Seconds in which the thread was ready to go on and no core was free."""
    stolen: float
    """Seconds that the hypervisor took from an average core."""
    load: float
    """Processes that ran or waited for a core, mean over the last minute."""
    cores: int
    """Cores that the process may use."""


class Watch:
    """Watches the surroundings of the thread that reads it.

    Args:
        processes: where the system shows its counters; ``/proc`` on Linux.
    """

    def __init__(self, processes: Path = Path("/proc")) -> None:
        self._processes = processes
        self._began, self._counters = time.monotonic(), self._count()

    def read(self) -> Seen | None:
        """What happened since the watch was made or last read; None where the system has no such counters."""
        before, began = self._counters, self._began
        self._began, self._counters = time.monotonic(), self._count()
        seconds = self._began - began
        if before is None or self._counters is None or seconds <= 0:
            return None
        waited, stolen, spent = (now - then for now, then in zip(self._counters, before, strict=True))
        return Seen(
            seconds=seconds,
            waited=min(seconds, max(0.0, waited * _NANO)),
            stolen=seconds * max(0.0, stolen / spent) if spent > 0 else 0.0,
            load=round(os.getloadavg()[0], 2),
            cores=len(os.sched_getaffinity(0)),
        )

    def _count(self) -> tuple[int, int, int] | None:
        """Nanoseconds that this thread waited for a core; ticks stolen from all cores; ticks of all kinds."""
        try:
            waited = int((self._processes / "thread-self" / "schedstat").read_text().split()[1])
            ticks = [int(one) for one in (self._processes / "stat").read_text().splitlines()[0].split()[1 : 1 + _KINDS]]
            return waited, ticks[_STEAL], sum(ticks)
        except (OSError, ValueError, IndexError):
            return None
