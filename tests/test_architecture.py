"""The structure of the package: its folders as levels, and no circle of imports between files."""

import ast
import functools
from pathlib import Path

import pytest

import thalweg

ROOT = Path(thalweg.__file__).parent
LEVELS = (
    ("errors",),
    ("bounds",),
    (
        "serialization",
        "storage",
        "streams",
        "intervals",
        "threads",
        "vectors",
        "ranks",
        "screen",
        "processes",
        "interruption",
        "doctor",
        "reprs",
    ),
    ("records",),
    ("data", "models", "curvature", "report"),
    ("shift", "theory"),
    ("landscape",),
    ("train", "verify"),
    ("survey", "integrations"),
    ("experiments",),
    ("cli",),
)
EXEMPT = {"__init__", "__main__"}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def level_of(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


def imported_parts(source: str) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        parts |= {name.split(".")[1] for name in names if name.startswith("thalweg.")}
    return parts


def breaches(part: str, source: str) -> list[str]:
    return [other for other in imported_parts(source) if other != part and level_of(other) >= level_of(part)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_strictly_downwards(path: Path) -> None:
    if part_of(path) not in EXEMPT:
        assert breaches(part_of(path), path.read_text()) == []


def test_the_rule_sees_upward_and_sideways_imports() -> None:
    assert breaches("models", "from thalweg.train.step import train_step") == ["train"]
    assert breaches("models", "import thalweg.data.markov") == ["data"]
    assert breaches("models", "def f():\n    from thalweg.report import page") == ["report"]


def test_every_part_is_on_a_level() -> None:
    assert {part_of(path) for path in FILES} - EXEMPT == {part for parts in LEVELS for part in parts}


def test_documented_levels_are_the_tested_ones() -> None:
    text = (ROOT.parents[1] / "docs" / "architecture.md").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("level ")]
    assert {int(words[1]): tuple(words[2:]) for words in lines} == dict(enumerate(LEVELS))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def in_type_checking(tree: ast.Module) -> set[int]:
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    return {id(inner) for node in guarded for inner in ast.walk(node)}


def imported_modules(source: str, known: set[str]) -> set[str]:
    """Modules of the package that a source imports when it runs."""
    tree, found = ast.parse(source), set()
    guarded = in_type_checking(tree)
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found & known


@functools.cache
def graph() -> dict[str, frozenset[str]]:
    modules = {module_of(path): path for path in FILES}
    return {name: frozenset(imported_modules(path.read_text(), set(modules) - {name})) for name, path in modules.items()}


def circle(imports: dict[str, frozenset[str]]) -> list[str]:
    """Modules that import each other, in order; empty where there are none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        found = next((one for other in sorted(imports[name]) if (one := visit(other, [*way, name]))), [])
        done.add(name)
        return found

    return next((one for name in sorted(imports) if (one := visit(name, []))), [])


def longest_chain(imports: dict[str, frozenset[str]]) -> list[str]:
    @functools.cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *max((chain(other) for other in imports[name]), key=len, default=()))

    return list(max((chain(name) for name in imports), key=len))


def test_no_circle_of_imports_between_files(record_property) -> None:
    assert circle(graph()) == []
    chain = longest_chain(graph())
    record_property("files", len(graph()))
    record_property("longest chain", len(chain))
    print(f"{len(graph())} files, longest chain of imports {len(chain)}: {' > '.join(chain)}")


def test_a_circle_is_seen() -> None:
    assert circle({"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b"})}) == ["b", "c", "b"]
    assert circle({"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset()}) == []
    assert longest_chain({"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset()}) == ["a", "b", "c"]


def test_imports_within_functions_count_and_those_for_types_do_not() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\ndef f():\n    from b import c\n"
    assert imported_modules(source, {"a", "b", "b.c"}) == {"b", "b.c"}


def test_no_module_is_called_utils() -> None:
    assert [path for path in FILES if "util" in path.stem] == []


def test_public_names_all_exist() -> None:
    assert sorted(thalweg._LAZY_IMPORTS) == sorted(thalweg.__all__) == [n for n in dir(thalweg) if getattr(thalweg, n) is not None]


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Shfit'"):
        _ = thalweg.Shfit
