"""The page of an experiment of a user's own: answers, table, figures and set-up, from its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.records.experiment import ExperimentSummary
from thalweg.report.figures import Drawn, drawn, save_all, setup
from thalweg.report.page import NUMBERS, PAGES, data_address, number, show
from thalweg.storage import write_text


@dataclass(frozen=True)
class Picture:
    """A matplotlib figure of a user's, and its heading."""

    name: str
    heading: str
    figure: Any


def write_own_report(summary: ExperimentSummary, pictures: Sequence[Picture], folder: Path) -> None:
    """Figures into ``figures/`` (SVG and PNG) and the page to ``report.html``.

    Without pictures, those that lie there from an earlier report are shown.
    """
    made = [drawn(one.figure, one.name, one.heading, f"{one.heading}. {setup(summary)}", one.heading) for one in pictures]
    save_all(made, folder / "figures")
    figures = made or [kept for record in summary.figures if (kept := _read_drawn(record.name, record.heading, summary, folder))]
    page = PAGES.get_template("own.html").render(
        study=summary,
        figures=[(figure, data_address(figure)) for figure in figures],
        show=show,
        first=NUMBERS,
        number=number,
    )
    write_text(folder / "report.html", page)


def _read_drawn(name: str, heading: str, summary: ExperimentSummary, folder: Path) -> Drawn | None:
    """A figure that an earlier report left; None where its files are gone."""
    paths = [folder / "figures" / f"{name}.{kind}" for kind in ("svg", "png")]
    if not all(path.is_file() for path in paths):
        return None
    return Drawn(name, heading, f"{heading}. {setup(summary)}", heading, *(path.read_bytes() for path in paths))
