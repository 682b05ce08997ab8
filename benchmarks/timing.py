"""Interleaved timing for all benchmarks. Import it before torch, because it sets how idle OpenMP threads wait."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Times = dict[str, list[float]]
"""Seconds of one call: candidate -> one number for each round."""


def arguments(docstring: str | None, rounds: int) -> argparse.ArgumentParser:
    """Build a parser with the option ``--rounds`` that shows the benchmark's docstring as help."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="number of turns of every candidate")
    return parser


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int, calls: int = 10, warmup: int = 5) -> Times:
    """Time the candidates in turn, so that other load on the machine affects all of them alike.

    A turn makes ``calls`` calls and counts their median; every round begins with another candidate.
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
    """Measure the wall time of one call, in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def ratio(times: Times, over: str, under: str) -> float:
    """Return the median over rounds of the quotient of two candidates within the same round."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def fastest(times: Times, names: Sequence[str]) -> str:
    """Return the name of the candidate with the smallest median."""
    return min(names, key=lambda name: statistics.median(times[name]))


def spread(values: Sequence[float], unit: float = 1e3) -> str:
    """Format median, lowest and highest, multiplied by ``unit`` (1e3, the default, gives milliseconds)."""
    return f"{unit * statistics.median(values):.2f} [{unit * min(values):.2f}, {unit * max(values):.2f}]"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
