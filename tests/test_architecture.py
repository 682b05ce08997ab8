"""The house: floors as one tuple; imports point strictly downwards, and rooms on one floor are strangers."""

import ast
from pathlib import Path

import pytest

import thalweg

ROOT = Path(thalweg.__file__).parent
FLOORS = (
    ("errors",),
    ("bounds",),
    ("plain", "storage", "streams", "intervals", "vectors", "ranks", "screen"),
    ("records",),
    ("landscapes", "sweeps"),
    ("task_studies",),
    ("data", "models", "curvature", "report"),
    ("shift", "theory"),
    ("landscape",),
    ("train", "verify"),
    ("study",),
    ("cli",),
)
EXEMPT = {"__init__", "__main__"}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imported_rooms(source: str) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("thalweg.")}
    return rooms


def breaches(room: str, source: str) -> list[str]:
    return [other for other in imported_rooms(source) if other != room and floor_of(other) >= floor_of(room)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_strictly_downwards(path: Path) -> None:
    if room_of(path) not in EXEMPT:
        assert breaches(room_of(path), path.read_text()) == []


def test_the_rule_sees_upward_and_sideways_imports() -> None:
    assert breaches("models", "from thalweg.train.step import train_step") == ["train"]
    assert breaches("models", "import thalweg.data.markov") == ["data"]
    assert breaches("models", "def f():\n    from thalweg.report import page") == ["report"]


def test_every_room_stands_on_a_floor() -> None:
    assert {room_of(path) for path in FILES} - EXEMPT == {room for rooms in FLOORS for room in rooms}


def test_documented_floors_are_the_tested_ones() -> None:
    text = (ROOT.parents[1] / "docs" / "architecture.md").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("floor ")]
    assert {int(words[1]): tuple(words[2:]) for words in lines} == dict(enumerate(FLOORS))


def test_no_module_is_called_utils() -> None:
    assert [path for path in FILES if "util" in path.stem] == []


def test_public_names_all_exist() -> None:
    assert sorted(thalweg.PLACES) == sorted(thalweg.__all__) == [n for n in dir(thalweg) if getattr(thalweg, n) is not None]


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Shfit'"):
        _ = thalweg.Shfit
