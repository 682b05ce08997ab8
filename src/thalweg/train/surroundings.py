"""What else the machine does while a run trains: how long the run waits for a core, what the hypervisor takes, the load.

Seconds are only comparable between runs that had the machine to themselves. Linux counts what is needed: the time that a thread was
ready and not running (``/proc/thread-self/schedstat``), and the time of all cores by kind (``/proc/stat``).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from thalweg.records.run import Surroundings

_NANO = 1e-9
_STEAL, _KINDS = 7, 8
"""Place of the stolen time in the first line of ``/proc/stat``, and number of kinds that add up to all time."""


class Watch:
    """Watches the surroundings of the thread that makes it, from then on.

    Args:
        processes: where the system shows its counters; ``/proc`` on Linux.
    """

    def __init__(self, processes: Path = Path("/proc")) -> None:
        self._processes = processes
        self._began = time.monotonic()
        self._counters = self._read()

    def read(self) -> Surroundings | None:
        """The surroundings since the watch was made; None where the system has no such counters."""
        counters, seconds = self._read(), time.monotonic() - self._began
        if self._counters is None or counters is None or seconds <= 0:
            return None
        waited, stolen, spent = (now - before for now, before in zip(counters, self._counters, strict=True))
        return Surroundings(
            waiting=min(1.0, max(0.0, waited * _NANO / seconds)),
            steal=max(0.0, stolen / spent) if spent > 0 else 0.0,
            load=round(os.getloadavg()[0], 2),
            cores=len(os.sched_getaffinity(0)),
        )

    def _read(self) -> tuple[int, int, int] | None:
        """Nanoseconds that this thread waited for a core; ticks stolen from all cores; ticks of all kinds."""
        try:
            waited = int((self._processes / "thread-self" / "schedstat").read_text().split()[1])
            ticks = [int(one) for one in (self._processes / "stat").read_text().splitlines()[0].split()[1 : 1 + _KINDS]]
            return waited, ticks[_STEAL], sum(ticks)
        except (OSError, ValueError, IndexError):
            return None
