"""The page of the paper's study: figures, numbers and charts inside, no network; without a script the charts are missing."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thalweg.records.landscape import RunLandscape
from thalweg.records.run import RunRecord, StudySummary, Verdict
from thalweg.report.curves import by_arm
from thalweg.report.figures import Drawn, draw_all, save_all, setup
from thalweg.report.landscape.curves import Arms, with_spectra
from thalweg.report.landscape.figures import planes_of, study_figures
from thalweg.report.landscape.length_generalisation import figure_lengths
from thalweg.report.landscape.motion import valley_figures
from thalweg.report.landscape.phases import phases_drawn
from thalweg.report.landscape.valley_surfaces import valleys_drawn
from thalweg.report.page import NUMBERS, PAGES, data_address, number, show
from thalweg.report.paper.charts import curves_chart, planes_chart, spectra_chart, styles
from thalweg.report.paper.data_source import source_drawn
from thalweg.report.paper.figures import accuracy_against_cost, step_time, verdicts_drawn
from thalweg.report.paper.sections import counted, sections
from thalweg.storage import write_text

_QUESTION = (
    ("looped rises above single on high-information sequences (held-out)", "looped ends with a lower held-out loss than single"),
    ("shift reaches looped's final held-out loss in less time than looped takes",),
)
"""Claims that answer the page's question, part by part."""
_CHARTS = {
    "curves": "Exact values: point at a curve",
    "spectra": "The spectrum at any checkpoint: move the slider",
    "planes": "The loss in three dimensions: turn it with the mouse",
}
"""Chart -> its heading."""


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
    arms = {arm: [seeds[seed] for seed in sorted(seeds)] for arm, seeds in (landscapes or {}).items() if seeds}
    figures = _draw_study(summary, runs, arms)
    save_all(figures, folder / "figures")
    page = folder / "report.html"
    write_text(page, render(summary, figures, folder, _charts_of(summary, runs, arms)))
    return page


def _draw_study(summary: StudySummary, runs: dict[str, RunRecord], arms: Arms) -> list[Drawn]:
    """Every figure that the records allow."""
    told, grouped = setup(summary), by_arm(runs, summary.arms)
    some = next(iter(grouped.values()))[0].summary
    made = [
        verdicts_drawn(summary, told),
        source_drawn(some.data, told) if some is not None else None,
        accuracy_against_cost(summary, grouped, told),
        step_time(runs, told),
        phases_drawn(summary.phases, arms, told),
        valleys_drawn(planes_of(arms), told),
    ]
    figures = draw_all(summary, runs) + [figure for figure in made if figure is not None]
    lengths = {arm: [run.lengths for run in group] for arm, group in arms.items()}
    if any(records for group in lengths.values() for records in group):
        figures.append(figure_lengths(lengths, told))
    return figures + study_figures(arms, told) + valley_figures(arms, told)


def _charts_of(summary: StudySummary, runs: dict[str, RunRecord], arms: Arms) -> dict[str, Any]:
    """What can be handled on the page, by the name of its chart; what has no records is left out."""
    found = {"curves": curves_chart(summary, by_arm(runs, summary.arms), arms)}
    found |= {"spectra": spectra_chart(with_spectra(arms)), "planes": planes_chart(arms)}
    return {name: chart for name, chart in found.items() if chart}


def render(summary: StudySummary, figures: Sequence[Drawn], folder: Path, charts: Mapping[str, Any]) -> str:
    """The page as HTML; everything that a user named is escaped."""
    named = {figure.name: figure for figure in figures}
    return PAGES.get_template("report.html").render(
        study=summary,
        lead=figures[0] if figures else None,
        figures=named,
        sections=sections(summary.verdicts, list(named), list(charts)),
        colours={arm: style["colour"] for arm, style in styles(summary.arms).items()},
        charts=_in_script(charts),
        chart_words=_CHARTS,
        plotly=Markup(packed_plotly()),
        script=Markup(PAGES.get_template("page.js").render()),
        addresses={name: data_address(figure) for name, figure in named.items()},
        again=shlex.join(["thalweg", "report", str(folder)]),
        answer=answer(summary),
        show=show,
        first=NUMBERS,
        number=number,
    )


def _in_script(charts: Mapping[str, Any]) -> Markup:
    """JSON that no text in it can end or leave."""
    text = json.dumps(charts, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@functools.cache
def packed_plotly() -> str:
    """Plotly's script, compressed; the page unpacks it when the first chart is scrolled to."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def answer(summary: StudySummary) -> str:
    """What the study says of the two parts of its question, and what all claims came to."""
    named = {one.claim: one for one in summary.verdicts}
    first = [named[claim] for part in _QUESTION for claim in part if claim in named]
    return ". ".join([*(_in_a_sentence(one) for one in first), _totals(summary)])


def _in_a_sentence(one: Verdict) -> str:
    """A claim with its verdict and its first number."""
    name, cell = next(iter(one.numbers.items()), ("", None))
    return f"{one.claim[:1].upper()}{one.claim[1:]}: {one.verdict}" + (f" ({name} {show(cell)})" if cell is not None else "")


def _totals(summary: StudySummary) -> str:
    """All claims in one sentence."""
    counts = counted(summary.verdicts)
    last = f", {counts['not measured']} not measured" if counts["not measured"] else ""
    told = f"{counts['supported']} claims supported, {counts['contradicted']} contradicted, {counts['undecided']} undecided"
    return f"In all {told}{last}"
