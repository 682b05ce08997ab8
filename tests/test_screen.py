import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

import thalweg
from thalweg.screen import Screen, Words, escape_hidden, progress_bar, say, say_json

ROOT = Path(thalweg.__file__).parent
LIVE = "\x1b]0;x\x07[bold red]a[/bold red] :smile: \u202eb\u2066\n\r\x9b\ud800c\u200b"
SHOWN = r"\x1b]0;x\x07[bold red]a[/bold red] :smile: \u202eb\u2066\n\r\x9b\ud800c\u200b"


def screen_of(terminal: bool) -> Screen:
    screen = Screen(wide=300)
    screen.file, screen._force_terminal, screen._width = io.StringIO(), terminal, 300
    return screen


def test_what_a_terminal_obeys_is_shown_as_its_escape() -> None:
    assert escape_hidden(LIVE) == SHOWN


@pytest.mark.parametrize("words", ["plain", "\u65e5\u672c \xe9 \N{MINUS SIGN}", "a\xa0b", ""])
def test_letters_stay_as_they_are(words: str) -> None:
    assert escape_hidden(words) == words


def test_a_line_is_inert_on_every_way_to_the_terminal(capsys: pytest.CaptureFixture) -> None:
    table, screen = Table(title=LIVE), screen_of(terminal=False)
    table.add_column(LIVE)
    table.add_row(LIVE)
    screen.print(table)
    screen.say(LIVE)
    say(LIVE)
    assert screen.file.getvalue().count(SHOWN) == 4
    assert "\x1b" not in screen.file.getvalue()
    assert capsys.readouterr().out == SHOWN + "\n"


def test_a_progress_bar_shows_names_as_they_are_written() -> None:
    screen = screen_of(terminal=True)
    with progress_bar(screen) as bar:
        task = bar.add_task(LIVE, total=1, note=LIVE)
        shown = [Words(name).render(bar.tasks[task]).plain for name in ("", "note")]
    assert shown == [SHOWN, SHOWN]
    assert "\u202e" not in screen.file.getvalue()


def test_json_is_plain_letters(capsys: pytest.CaptureFixture) -> None:
    say_json({"a": LIVE})
    assert capsys.readouterr().out.strip().isprintable()


def test_nothing_else_writes_to_the_terminal() -> None:
    found = []
    for path in ROOT.rglob("*.py"):
        if path.name == "screen.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in ("print", "Console", "TextColumn"):
                found.append((str(path.relative_to(ROOT)), name))
    assert found == []
