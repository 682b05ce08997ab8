"""Build the documentation site into .site/html; `make docs` runs this.

The pages are the files of docs/ as they are, README.md as the first page, and four kinds of pages made from what they describe: the
gallery from examples/, the command line from its help, and the notebooks. Links between sources become links between pages.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
STAGED = ROOT / ".site" / "docs"
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Sources outside docs/, and the pages that they become."""
SHIM = "https://unpkg.com/iframe-worker/shim"
"""What zensical loads so that search works without a server; the site has it beside its pages."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
_LINK = re.compile(r"(\]\()([^)#:\s]*)(#[^)\s]*)?\)")
_EXAMPLE = re.compile(r"(?<![\[\w])`(?:examples/)?(\w+)\.py`")


def main() -> int:
    """Stage all pages and build them; the exit code is that of zensical, which fails on a broken link."""
    shutil.rmtree(STAGED.parent, ignore_errors=True)
    stage(STAGED)
    code = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False).returncode
    for page in (STAGED.parent / "html").rglob("*.html"):
        here = os.path.relpath(STAGED.parent / "html" / "iframe-worker.js", page.parent)
        page.write_text(page.read_text().replace(SHIM, here))
    return code


def stage(folder: Path) -> None:
    """Write every page and picture of the site into a folder."""
    for source in sorted((ROOT / "docs").rglob("*")):
        page = folder / source.relative_to(ROOT / "docs")
        page.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            page.write_text(as_page(source.read_text(), source.relative_to(ROOT).as_posix()))
        elif source.suffix in (".png", ".css", ".js"):
            shutil.copy(source, page)
        elif source.suffix == ".ipynb":
            stage_notebook(json.loads(source.read_text()), page.with_suffix(".md"))
    for source, page in OUTSIDE.items():
        (folder / page).write_text(as_page((ROOT / source).read_text(), source))
    (folder / "gallery.md").write_text(gallery())
    (folder / "reference" / "command-line.md").write_text(command_line())


def page_of(source: str) -> str | None:
    """The page that a source becomes, both as paths with slashes; None where it becomes none."""
    if source in OUTSIDE:
        return OUTSIDE[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/").replace(".ipynb", ".md")
    return None


def as_page(text: str, source: str) -> str:
    """The text of a source with its links rewritten for the site, and its interactive sessions marked as such."""
    here = PurePosixPath(source).parent
    top = PurePosixPath(page_of(source) or source).parent

    def relinked(match: re.Match[str]) -> str:
        opening, target, anchor = match[1], match[2], match[3] or ""
        page = page_of(os.path.normpath(here / target)) if target else None
        return match[0] if page is None else f"{opening}{os.path.relpath(page, top)}{anchor})"

    def shown(match: re.Match[str]) -> str:
        known = any(match[1] == path.stem for path in EXAMPLES)
        return f"[{match[0]}]({os.path.relpath('gallery.md', top)}#{match[1]})" if known else match[0]

    def both(prose: str) -> str:
        return _EXAMPLE.sub(shown, _LINK.sub(relinked, prose))

    return outside_code(text, both).replace("```python\n>>>", "```pycon\n>>>")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to everything but the fenced blocks of a text."""
    return "".join(
        part if part.lstrip().startswith("```") else change(part)
        for part in re.split(r"(^ *```.*?^ *```)", text, flags=re.M | re.S)
    )


def gallery() -> str:
    """One section for each example, in the order of the README: what it shows, its picture, its source."""
    readme = (ROOT / "README.md").read_text()
    captions = tomllib.loads((ROOT / "docs" / "gallery" / "captions.toml").read_text())
    pages = [
        "# Gallery\n\nEach example is one file that runs on a CPU and writes its picture. The command under a picture made it.\n"
    ]
    for path in sorted(EXAMPLES, key=lambda path: readme.index(f"`{path.name}`")):
        text, caption = path.read_text(), captions[path.stem]
        title, _, rest = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
        image = f"![{caption['shows']}](gallery/{path.stem}.png)\n\n*{caption['shows']}* `{caption['command']}`"
        code = "\n".join(f"    {line}".rstrip() for line in f"```python\n{text}```".splitlines())
        parts = (f"## {title.rstrip('.:')} {{#{path.stem}}}", image, rest.strip(), f'??? note "examples/{path.name}"', code)
        pages.append("\n\n".join(part for part in parts if part) + "\n")
    return "\n".join(pages)


def command_line() -> str:
    """The reference of the command line, from the docstrings that are its help."""
    from thalweg.cli import app

    text = app.generate_docs(output_format="markdown", heading_level=1)
    return re.sub(r"^## Table of Contents\n.*?(?=^\*\*Commands)", "", text, flags=re.M | re.S).replace(
        "# thalweg\n", "# Command line\n", 1
    )


def stage_notebook(notebook: dict, page: Path) -> None:
    """Write a notebook as a page, with its outputs as they are stored, and its pictures beside it."""
    page.write_text("\n\n".join(part for cell in notebook["cells"] for part in _cell(cell, page)) + "\n")


def _cell(cell: dict, page: Path) -> Iterator[str]:
    """The parts of a page that one cell becomes."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for number, output in enumerate(cell["outputs"]):
        data = output.get("data", {})
        if "image/png" in data:
            picture = page.with_name(f"{page.stem}-{cell['execution_count']}-{number}.png")
            picture.write_bytes(base64.b64decode("".join(data["image/png"])))
            yield f"![{cell['metadata'].get('alt', 'figure of the cell above')}]({picture.name})"
        elif text := "".join(output.get("text", data.get("text/plain", []))).rstrip():
            yield f"```text\n{text}\n```"


if __name__ == "__main__":
    sys.exit(main())
