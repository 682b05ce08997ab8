"""The page of a user's own experiment: answers, table, figures and set-up, from its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.records.experiment import ExperimentSummary, FigureRecord
from thalweg.report.figures import Drawn, drawn, save_all, setup
from thalweg.report.page import PAGES, data_address
from thalweg.storage import write_text


@dataclass(frozen=True)
class Picture:
    """A matplotlib figure that a user has drawn, with the name of its files and its heading."""

    name: str
    heading: str
    figure: Any
    caption: str = ""
    """What is plotted and how to read it; the heading where none is given."""
    alt: str = ""
    """What it shows, for readers who do not see it; the heading where none is given."""


def in_words(heading: str, figure: Any) -> str:
    """What a user's figure plots, from the words that are in it: for readers who do not see it.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = (figure := Figure()).subplots()
        >>> _ = axes.plot([1, 2], [3, 1], label="mine"), axes.set_xlabel("updates"), axes.set_ylabel("loss")
        >>> in_words("Who learns faster?", figure)
        'Who learns faster? A figure of loss over updates, showing mine (from 3 to 1).'
    """
    panels = []
    for axes in getattr(figure, "axes", []):
        over = f" over {axes.get_xlabel()}" if axes.get_xlabel() else ""
        lines = [line for line in axes.get_lines() if not line.get_label().startswith("_") and len(line.get_ydata())]
        shown = ", ".join(f"{line.get_label()} (from {line.get_ydata()[0]:.3g} to {line.get_ydata()[-1]:.3g})" for line in lines)
        what = axes.get_ylabel() or axes.get_title() or "numbers"
        panels.append(f"{what}{over}{f', showing {shown}' if shown else ''}")
    mark = "" if heading[-1:] in ".?!" else "."
    return f"{heading}{mark} A figure of {'; and of '.join(panels)}." if panels else heading


def write_own_report(summary: ExperimentSummary, pictures: Sequence[Picture], folder: Path) -> None:
    """Write the figures to ``figures/`` (SVG and PNG) and the page to ``report.html``.

    Args:
        summary: of the experiment, complete or not.
        pictures: drawn for this report; without any, the figures of an earlier report are shown.
        folder: of the experiment.
    """
    setup_text = setup(summary)
    figures = [
        drawn(p.figure, p.name, p.heading, f"{(p.caption or p.heading).removesuffix('.')}. {setup_text}", p.alt or p.heading)
        for p in pictures
    ]
    save_all(figures, folder / "figures")
    if not figures:
        earlier = [_read_drawn(picture, setup_text, folder) for picture in summary.figures]
        figures = [figure for figure in earlier if figure is not None]
    page = PAGES.get_template("own.html").render(
        study=summary,
        setup_text=setup_text,
        figures=[(figure, data_address(figure)) for figure in figures],
        addresses={figure.name: data_address(figure) for figure in figures},
    )
    write_text(folder / "report.html", page)


def _read_drawn(figure: FigureRecord, setup_text: str, folder: Path) -> Drawn | None:
    """Read a figure of an earlier report; None where its files are not there."""
    paths = [folder / "figures" / f"{figure.name}.{kind}" for kind in ("svg", "png")]
    if not all(path.is_file() for path in paths):
        return None
    caption = f"{(figure.caption or figure.heading).removesuffix('.')}. {setup_text}"
    return Drawn(figure.name, figure.heading, caption, figure.alt or figure.heading, *(path.read_bytes() for path in paths))
