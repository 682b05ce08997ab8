"""Interleaved timing that the benchmarks share. Import it before torch: it sets how idle OpenMP threads wait."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Times = dict[str, list[float]]
"""Seconds of one call, by candidate and round."""


def arguments(docstring: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser that has ``--rounds`` and shows the benchmark's own docstring."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="times that every candidate has its turn")
    return parser


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int, calls: int = 10, warmup: int = 5) -> Times:
    """Let the candidates take turns, so that what else the machine does meets all of them alike.

    A turn is ``calls`` calls and counts as their median; every round begins with another candidate.
    """
    for call in candidates.values():
        for _ in range(warmup):
            call()
    times: Times = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(statistics.median(seconds(candidates[name]) for _ in range(calls)))
    return times


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def ratio(times: Times, over: str, under: str) -> float:
    """Median over the rounds of the quotient within a round."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def fastest(times: Times, names: Sequence[str]) -> str:
    """The name with the smallest median."""
    return min(names, key=lambda name: statistics.median(times[name]))


def spread(values: Sequence[float], unit: float = 1e3) -> str:
    """Median, lowest and highest, times ``unit`` (milliseconds when not given)."""
    return f"{unit * statistics.median(values):.2f} [{unit * min(values):.2f}, {unit * max(values):.2f}]"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what is in them; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
