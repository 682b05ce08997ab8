"""The command `thalweg verify`: checks every statement on this machine and prints one line for each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from thalweg.errors import VerificationError, unknown
from thalweg.screen import Screen, Words, say, say_json
from thalweg.threads import threads
from thalweg.verify import attention, force, hopping, metrics, second_order, split, taylor
from thalweg.verify.statement import Finding, Statement

_SECTIONS = (force, split, second_order, taylor, attention, metrics, hopping)
STATEMENTS: tuple[Statement, ...] = tuple(statement for section in _SECTIONS for statement in section.STATEMENTS)
"""All statements, in the order in which they are checked."""


@dataclass(frozen=True)
class Line:
    """A statement with the outcome of its check; one entry of ``thalweg verify --json``."""

    key: str
    """Number of the statement in docs/theory.md."""
    words: str
    """The statement."""
    paper: str
    """Status of the paper's version, see `Statement`."""
    holds: bool
    """Whether the check passed."""
    finding: Finding
    """Outcome of the check."""
    seconds: float
    """Time that the check took."""


def run_check(statement: Statement) -> Line:
    """Run the check of one statement; a check that raises an error counts as failed, and the error is its text."""
    begun = time.perf_counter()
    try:
        finding = statement.check()
    except Exception as problem:
        finding = Finding(0, float("nan"), 0.0, f"stopped: {type(problem).__name__}: {problem}")
    return Line(statement.key, statement.words, statement.paper, finding.holds, finding, time.perf_counter() - begun)


def _terminal_text(line: Line) -> tuple[str, str]:
    """The two lines that the terminal shows for one statement."""
    finding = line.finding
    figures = f"{finding.tried} cases, largest error or violation {finding.worst:.1e} (tolerance {finding.allowed:.0e})"
    head = f"{'holds' if line.holds else 'FAILS':5}  {line.key:5} {line.words} [paper's version: {line.paper}]"
    return head, f"{'':13}{figures}, {line.seconds:.1f} s" + (f"; {finding.words}" if finding.words else "")


def select(keys: Sequence[str]) -> tuple[Statement, ...]:
    """Return the statements with the given numbers, or all statements if no number is given.

    Raises:
        BadInputError: there is no statement with one of the numbers.
    """
    known = {statement.key: statement for statement in STATEMENTS}
    for key in keys:
        if key not in known:
            raise unknown("statement", key, known)
    return tuple(known[key] for key in keys) or STATEMENTS


def verify(keys: Sequence[str], as_json: bool) -> None:
    """Check statements and print two lines for each, or one JSON object for all.

    Args:
        keys: numbers of docs/theory.md; empty for all statements.
        as_json: whether to print JSON in place of text.

    Raises:
        BadInputError: there is no statement with one of the numbers.
        VerificationError: at least one statement does not hold.
    """
    statements, begun, lines = select(keys), time.perf_counter(), []
    columns = (Words(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # The matrices are small: threads that wait for each other cost more than they save.
    with threads(1), Progress(*columns, console=Screen(stderr=True), transient=True) as progress:
        task = progress.add_task("verify", total=len(statements))
        for statement in statements:
            progress.update(task, description=f"{statement.key:5}")
            lines.append(run_check(statement))
            progress.advance(task)
            if not as_json:
                for text in _terminal_text(lines[-1]):
                    say(text)
    failed = [line.key for line in lines if not line.holds]
    seconds = time.perf_counter() - begun
    if as_json:
        say_json({"statements": [asdict(line) for line in lines], "failed": failed, "seconds": seconds}, default=str)
    else:
        say(f"{len(lines) - len(failed)} of {len(lines)} statements hold; {seconds:.0f} s")
    if failed:
        raise VerificationError(f"verify: {', '.join(failed)} did not hold; see the lines above")
