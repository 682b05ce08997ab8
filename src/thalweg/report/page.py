"""One self-contained page of a study: no script, no network, figures inside."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from thalweg.records import Cell, RunRecord, StudySummary
from thalweg.report.figures import Drawn, draw_all, save_all
from thalweg.storage import write_text

PAGES = Environment(
    loader=PackageLoader("thalweg.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(summary: StudySummary, runs: dict[str, RunRecord], folder: Path) -> Path:
    """Figures into ``figures/`` and the page to ``report.html``; returns the page."""
    figures = draw_all(summary, runs)
    save_all(figures, folder / "figures")
    page = folder / "report.html"
    write_text(page, render(summary, figures, folder))
    return page


def render(summary: StudySummary, figures: list[Drawn], folder: Path) -> str:
    """The page as HTML; everything that a user named is escaped."""
    return PAGES.get_template("report.html").render(
        study=summary,
        figures=[(figure, data_address(figure.svg)) for figure in figures],
        repeat=command(summary),
        again=shlex.join(["thalweg", "report", str(folder)]),
        answer=answer(summary),
        show=show,
        number=number,
    )


def data_address(svg: bytes) -> str:
    """An SVG as an address that needs no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def command(summary: StudySummary) -> str:
    """The command that repeats the study."""
    parts = ["thalweg", "study", summary.task, "--preset", summary.preset, "--arms", ",".join(summary.arms)]
    return shlex.join([*parts, "--seeds", str(len(summary.seeds))])


def answer(summary: StudySummary) -> str:
    """The first claims in one sentence."""
    counts = [sum(v.verdict == word for v in summary.verdicts) for word in ("supported", "contradicted", "undecided")]
    return f"{counts[0]} claims supported, {counts[1]} contradicted, {counts[2]} undecided"


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def show(cell: Cell) -> str:
    """Mean and interval in words."""
    if cell.low is None or cell.high is None:
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"
