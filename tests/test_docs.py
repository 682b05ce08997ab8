"""The documentation: every link and anchor leads somewhere, every public name is documented, every snippet and notebook runs."""

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import thalweg

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
KEPT = 150_000
"""Largest size of a notebook in bytes, its outputs included."""


def build_module():
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = build_module()


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all pages, as the site is built from them."""
    folder = tmp_path_factory.mktemp("docs")
    build.stage(folder)
    return folder


def prose(text: str) -> str:
    """A page without its code."""
    parts: list[str] = []
    build.outside_code(text, lambda part: parts.append(re.sub(r"`[^`]*`", "`x`", part)) or "")
    return "".join(parts)


def anchors(text: str) -> set[str]:
    """The ids of a page's headings, as Python-Markdown makes them, and of the objects that it documents."""
    found = set(re.findall(r"^::: (\S+)", text, flags=re.M))
    for heading in re.findall(r"^#+ (.+)$", build.outside_code(text, str), flags=re.M):
        if given := re.search(r"\{#(\S+)\}", heading):
            found.add(given[1])
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


def broken(folder: Path) -> list[str]:
    """Every link of a folder's pages that leads to no page or no heading."""
    lost = []
    for page in sorted(folder.rglob("*.md")):
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", prose(page.read_text())):
            other = (page.parent / target).resolve() if target else page
            if not other.is_file() or (anchor and other.suffix == ".md" and anchor not in anchors(other.read_text())):
                lost.append(f"{page.relative_to(folder)}: {target}#{anchor}")
    return lost


def nav_pages(entries: list) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from nav_pages(value) if isinstance(value, list) else [value]


def test_every_link_and_anchor_leads_somewhere(staged: Path) -> None:
    assert broken(staged) == []


def test_a_dead_link_and_a_dead_anchor_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n[here](b.md#two-words) [gone](c.md) [lost](b.md#three)\n\n```\n[code](d.md)\n```\n")
    (tmp_path / "b.md").write_text("# Two words\n")
    assert broken(tmp_path) == ["a.md: c.md#", "a.md: b.md#three"]


def test_links_between_sources_become_links_between_pages() -> None:
    assert (
        build.as_page("[a](docs/log/x.md#y) [b](CHANGELOG.md) [c](LICENSE)", "README.md")
        == "[a](log/x.md#y) [b](changelog.md) [c](LICENSE)"
    )
    assert build.as_page("[a](../shift.md) `examples/shift_in_your_own_loop.py`", "docs/log/x.md") == (
        "[a](../shift.md) [`examples/shift_in_your_own_loop.py`](../gallery.md#shift_in_your_own_loop)"
    )


def test_the_navigation_names_pages_that_exist_and_leaves_none_out(staged: Path) -> None:
    pages = set(nav_pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    there = {page.relative_to(staged).as_posix() for page in staged.rglob("*.md")}
    assert pages == {page for page in there if not page.startswith("log/2")}


def reference() -> set[str]:
    text = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    return set(re.findall(r"^::: (\S+)$", text, flags=re.M))


def test_every_public_name_is_in_the_reference() -> None:
    assert {f"thalweg.{name}" for name in thalweg.__all__} <= reference()


def sources(module: str) -> ast.Module | None:
    """The source of a module of thalweg, which need not be importable here; None where there is no such module."""
    path = ROOT / "src" / Path(*module.split("."))
    found = [one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()]
    return ast.parse(found[0].read_text()) if found else None


def definition(name: str) -> ast.AST | None:
    """The definition of a function, class or module by its full name; of a public name, that in the module that it comes from."""
    module, _, member = name.rpartition(".")
    if module == "thalweg" and member in thalweg.__all__:
        module, member = thalweg._LAZY_IMPORTS[member], thalweg.RENAMED.get(member, member)
    elif (whole := sources(name)) is not None:
        return whole
    body = getattr(sources(module), "body", [])
    return next((node for node in body if member in (getattr(node, "name", None), *targets(node))), None)


def targets(node: ast.AST) -> list[str]:
    """The names that a statement assigns or imports."""
    if isinstance(node, ast.ImportFrom | ast.Import):
        return [alias.asname or alias.name for alias in node.names]
    assigned = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in assigned if isinstance(target, ast.Name)]


@pytest.mark.parametrize("name", sorted(reference()))
def test_what_the_reference_names_exists_and_has_a_docstring(name: str) -> None:
    found = definition(name)
    assert isinstance(found, ast.Module | ast.ClassDef | ast.FunctionDef)
    assert ast.get_docstring(found)


def test_a_name_that_does_not_exist_is_seen() -> None:
    assert definition("thalweg.shift.schedule.Shfit") is None
    assert definition("thalweg.shfit.schedule.Shift") is None


def test_every_module_of_the_theory_is_in_the_reference() -> None:
    named = set(re.findall(r"`(\w+)\.\w+", (ROOT / "docs" / "theory.md").read_text()))
    modules = {f"thalweg.{part}.{name}" for part in ("theory", "landscape") for name in named}
    assert {name for name in modules if sources(name) is not None} <= reference()


def test_every_example_has_a_picture_and_a_caption_that_names_its_command() -> None:
    captions = tomllib.loads((ROOT / "docs" / "gallery" / "captions.toml").read_text())
    names = {path.stem for path in build.EXAMPLES}
    assert names == set(captions) == {path.stem for path in (ROOT / "docs" / "gallery").glob("*.png")}
    for name, caption in captions.items():
        assert caption["command"].startswith(f"python examples/{name}.py")
        assert f'"{name}.png"' in (ROOT / "examples" / f"{name}.py").read_text()


def test_python_blocks_are_sessions_which_the_doctests_run() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [code for page in pages for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)]
    idle = [code for code in blocks if ">>>" not in code]
    assert idle == []


def test_imports_in_other_blocks_exist() -> None:
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    lines = set(re.findall(r"^from (thalweg\S*) import ([\w, ]+)", text, flags=re.M))
    assert lines
    lost = [
        f"{module}.{name}" for module, names in lines for name in names.split(",") if definition(f"{module}.{name.strip()}") is None
    ]
    assert lost == []


def test_there_are_three_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_small_outputs_of_one_run(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert path.stat().st_size < KEPT
    for cell in cells:
        pictures = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert not pictures or cell["metadata"].get("alt"), "a figure without alt text"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_keeps(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "hugging_face" in path.stem:
        pytest.importorskip("transformers")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            kept = "".join("".join(o.get("text", o.get("data", {}).get("text/plain", []))) for o in cell["outputs"])
            assert words(run_cell("".join(cell["source"]), names)) == words(kept)
    importlib.import_module("matplotlib.pyplot").close("all")


def run_cell(source: str, names: dict) -> str:
    """Run a cell as a notebook does; what it prints, and the value of its last line."""
    tree, printed = ast.parse(source), io.StringIO()
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    return printed.getvalue() + ("" if value is None or "TrainOutput" in repr(value) else repr(value))


def words(text: str) -> str:
    """A text without its numbers' last digits, which differ between machines."""
    return re.sub(r"(\d+\.\d)\d*", r"\1", text).strip()
