"""Everything that is shown in a terminal goes through here, so that no text of a user's can steer it.

Names of arms, tasks, folders and files, keys and values of a config may hold what a terminal obeys: escape sequences, control
characters, marks that turn the reading direction, and the markup of rich. All of it is shown as it is written in Python: ``\\x1b``.
"""

from __future__ import annotations

import json
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
    """rich's console without markup, emoji codes and highlighting; every text, also of a table's cell, has them escaped."""

    def __init__(self, stderr: bool = False, wide: int = 0) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)
        if wide and not self.is_terminal:
            self.width = wide

    def render_str(self, text: str, **settings: Any) -> Text:  # type: ignore[override]
        """What every text that is printed, and every cell of a table, is made by."""
        return super().render_str(escape_hidden(text), **settings)

    def say(self, words: object) -> None:
        """One line, however long."""
        self.print(str(words), soft_wrap=True)


class Words(ProgressColumn):
    """A field of a task in progress, or its description, as text."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        super().__init__()

    def render(self, task: Task) -> Text:
        """The text as it stands in the bar."""
        return Text(escape_hidden(task.fields[self.name] if self.name else task.description))


def progress_bar(screen: Screen) -> Progress:
    """The one look of progress: what, bar, count, time spent, time left; nothing where there is no terminal."""
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


def say(words: object) -> None:
    """One line on standard output."""
    print(escape_hidden(words), flush=True)


def say_json(value: Any, default: Callable[[Any], Any] | None = None) -> None:
    """A value as one line of JSON on standard output, which holds plain letters only; see `json.dumps`."""
    print(json.dumps(value, default=default), flush=True)


def complain(words: object) -> None:
    """Lines on standard error that begin with the name of the command; a further line is one of a list."""
    print("\n".join(escape_hidden(line) for line in f"thalweg: {words}".split("\n")), file=sys.stderr, flush=True)
