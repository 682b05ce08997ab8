"""One self-contained page of a study: no script, no network, figures inside."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from thalweg.landscapes import RunLandscape
from thalweg.records import Cell, RunRecord, StudySummary
from thalweg.report.figures import Drawn, draw_all, save_all, setup
from thalweg.report.landscape_figures import study_figures
from thalweg.report.longer import figure_lengths
from thalweg.storage import write_text

PAGES = Environment(
    loader=PackageLoader("thalweg.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


HEAVY = 300_000
"""Bytes of an SVG above which the page holds the PNG instead; both lie in ``figures/``."""
NUMBERS = 3
"""Numbers of a verdict that are shown at once."""


def write_report(
    summary: StudySummary,
    runs: dict[str, RunRecord],
    folder: Path,
    landscapes: Mapping[str, Mapping[int, RunLandscape]] | None = None,
) -> Path:
    """Figures into ``figures/`` and the page to ``report.html``; returns the page.

    Args:
        summary: of the study.
        runs: by name.
        folder: of the study.
        landscapes: arm -> seed -> landscape, of the runs that have one.
    """
    figures = draw_all(summary, runs)
    save_all(figures, folder / "figures")
    arms = {arm: [seeds[seed] for seed in sorted(seeds)] for arm, seeds in (landscapes or {}).items() if seeds}
    lengths = {arm: [run.lengths for run in group] for arm, group in arms.items()}
    extra = [figure_lengths(lengths, setup(summary))] if any(records for group in lengths.values() for records in group) else []
    landscape = list(study_figures(arms, folder, setup(summary), extra).values())
    page = folder / "report.html"
    write_text(page, render(summary, figures, folder, landscape))
    return page


def render(summary: StudySummary, figures: list[Drawn], folder: Path, landscape: Sequence[Drawn] = ()) -> str:
    """The page as HTML; everything that a user named is escaped."""
    return PAGES.get_template("report.html").render(
        study=summary,
        figures=[(figure, data_address(figure)) for figure in figures],
        landscape=[(figure, data_address(figure)) for figure in landscape],
        repeat=command(summary),
        again=shlex.join(["thalweg", "report", str(folder)]),
        answer=answer(summary),
        show=show,
        first=NUMBERS,
        number=number,
    )


def data_address(figure: Drawn) -> str:
    """A figure as an address that needs no file."""
    kind, data = ("svg+xml", figure.svg) if len(figure.svg) <= HEAVY else ("png", figure.png)
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def command(summary: StudySummary) -> str:
    """The command that repeats the study."""
    parts = ["thalweg", "study", summary.task, "--preset", summary.preset, "--arms", ",".join(summary.arms)]
    return shlex.join([*parts, "--seeds", str(len(summary.seeds))])


def answer(summary: StudySummary) -> str:
    """The first claims in one sentence."""
    words = ("supported", "contradicted", "undecided", "not measured")
    counts = [sum(v.verdict == word for v in summary.verdicts) for word in words]
    last = f", {counts[3]} not measured" if counts[3] else ""
    return f"{counts[0]} claims supported, {counts[1]} contradicted, {counts[2]} undecided{last}"


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def show(cell: Cell) -> str:
    """Mean and interval in words."""
    if cell.low is None or cell.high is None:
        return number(cell.mean)
    return f"{number(cell.mean)} [{number(cell.low)}, {number(cell.high)}]"
