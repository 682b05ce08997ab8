"""Output to the terminal, with every text escaped so that it cannot control the terminal.

Names of arms, tasks, folders and files, and keys and values of a config may contain escape sequences, control characters, marks
that change the reading direction, or the markup of rich. They are printed as Python escapes such as ``\\x1b``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from thalweg.errors import escape_hidden


class Screen(Console):
    """A rich console without markup, emoji codes and highlighting, which escapes every text, also in the cells of tables.

    Args:
        stderr: whether to print on standard error instead of standard output.
        wide: width in characters if the output is no terminal; 0 for rich's default.
    """

    def __init__(self, stderr: bool = False, wide: int = 0) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)
        if wide and not self.is_terminal:
            self.width = wide

    def render_str(self, text: str, **settings: Any) -> Text:  # type: ignore[override]
        """Escape a text; rich calls this for every text and every cell of a table."""
        return super().render_str(escape_hidden(text), **settings)

    def say(self, text: object) -> None:
        """Print a text without breaking it into lines."""
        self.print(str(text), soft_wrap=True)


class Words(ProgressColumn):
    """A column of a progress bar that shows a field of the task as text, or its description if no field is named."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        super().__init__()

    def render(self, task: Task) -> Text:
        """The escaped text."""
        return Text(escape_hidden(task.fields[self.name] if self.name else task.description))


def progress_bar(screen: Screen) -> Progress:
    """A progress bar with description, count, elapsed and remaining time, and a note; hidden if the output is no terminal."""
    return Progress(
        Words(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        Words("note"),
        console=screen,
        disable=not screen.is_terminal,
    )


def duration(seconds: float) -> str:
    """A time as text: one digit below a second, to the second below an hour, to the minute above.

    Example:
        >>> duration(4e-5), duration(0.52), duration(4.6), duration(60), duration(131), duration(7_860)
        ('0 s', '0.5 s', '5 s', '1 min', '2 min 11 s', '2 h 11 min')
        >>> duration(math.inf)
        'inf s'
    """
    if 0.05 <= seconds < 0.95 or not math.isfinite(seconds):
        return f"{seconds:.1g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    large, small = (
        (f"{whole // 60} min", f"{whole % 60} s") if whole < 3600 else (f"{whole // 3600:,} h", f"{whole % 3600 // 60} min")
    )
    return large if small[:2] == "0 " else f"{large} {small}"


def say(text: object) -> None:
    """Print a text as one line on standard output."""
    print(escape_hidden(text), flush=True)


def say_json(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """Print a value as one line of ASCII JSON on standard output; ``default`` converts other types, see `json.dumps`."""
    print(json.dumps(value, default=default), flush=True)


def complain(message: object) -> None:
    """Print a message on standard error, after the name of the command; it may have several lines."""
    print("\n".join(escape_hidden(line) for line in f"thalweg: {message}".split("\n")), file=sys.stderr, flush=True)
