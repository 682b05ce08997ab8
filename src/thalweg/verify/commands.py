"""`thalweg verify`: every statement tried on this machine, line by line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from thalweg.errors import VerificationError, unknown
from thalweg.screen import Screen, Words, say, say_json
from thalweg.verify import attention, force, hopping, metrics, second_order, split, taylor
from thalweg.verify.statement import Finding, Statement

_ROOMS = (force, split, second_order, taylor, attention, metrics, hopping)
STATEMENTS: tuple[Statement, ...] = tuple(statement for room in _ROOMS for statement in room.STATEMENTS)
"""Every statement that has a line."""


@dataclass(frozen=True)
class Line:
    """A statement tried."""

    key: str
    words: str
    paper: str
    holds: bool
    finding: Finding
    seconds: float


def tried(statement: Statement) -> Line:
    """Run one check; one that stops with an error does not hold, and the error is its words."""
    begun = time.perf_counter()
    try:
        finding = statement.check()
    except Exception as problem:
        finding = Finding(0, float("nan"), 0.0, f"stopped: {type(problem).__name__}: {problem}")
    return Line(statement.key, statement.words, statement.paper, finding.holds, finding, time.perf_counter() - begun)


def _in_words(line: Line) -> str:
    """For the terminal."""
    found = line.finding
    figures = f"{found.tried} tried, worst {found.worst:.1e} (allowed {found.allowed:.0e})"
    head = f"{'holds' if line.holds else 'FAILS':5}  {line.key:5} {line.words} [paper's version: {line.paper}]"
    return f"{head}\n             {figures}, {line.seconds:.1f} s" + (f"; {found.words}" if found.words else "")


def chosen(keys: Sequence[str]) -> tuple[Statement, ...]:
    """The statements with these numbers, all where none is given.

    Raises:
        BadInputError: a number that is not in the list.
    """
    known = {statement.key: statement for statement in STATEMENTS}
    for key in keys:
        if key not in known:
            raise unknown("statement", key, known)
    return tuple(known[key] for key in keys) or STATEMENTS


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices are small: two threads wait for each other, on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def verify(keys: Sequence[str], as_json: bool) -> None:
    """Try the statements and print a line for each.

    Raises:
        VerificationError: some do not hold.
    """
    statements, begun, lines = chosen(keys), time.perf_counter(), []
    columns = (Words(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _one_thread(), Progress(*columns, console=Screen(stderr=True), transient=True) as progress:
        task = progress.add_task("verify", total=len(statements))
        for statement in statements:
            progress.update(task, description=f"{statement.key:5}")
            lines.append(tried(statement))
            progress.advance(task)
            if not as_json:
                say(_in_words(lines[-1]))
    failed = [line.key for line in lines if not line.holds]
    seconds = time.perf_counter() - begun
    if as_json:
        say_json({"statements": [asdict(line) for line in lines], "failed": failed, "seconds": seconds}, default=str)
    else:
        say(f"{len(lines) - len(failed)} of {len(lines)} statements hold; {seconds:.0f} s")
    if failed:
        raise VerificationError(f"verify: {', '.join(failed)} did not hold; see the lines above")
