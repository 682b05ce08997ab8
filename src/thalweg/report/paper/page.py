"""The page of the paper's study: one file with answers, numbers, figures and interactive charts, without network.

Without scripts a browser shows everything but the charts.
"""

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

from thalweg.errors import plural
from thalweg.records.experiment import FirstScreen
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
from thalweg.report.page import PAGES, data_address, first_number
from thalweg.report.paper.charts import curves_chart, planes_chart, spectra_chart, styles
from thalweg.report.paper.data_source import source_drawn
from thalweg.report.paper.figures import accuracy_against_cost, step_time, verdicts_drawn
from thalweg.report.paper.lead import LEAD, lead_drawn
from thalweg.report.paper.sections import counted, sections
from thalweg.storage import write_text

_QUESTION = (
    ("looped rises above single on high-information sequences (held-out)", "looped ends with a lower held-out loss than single"),
    ("shift reaches looped's final held-out loss with fewer operations than looped spends",),
)
"""Claims that answer the two parts of the page's question."""
_CHART_HEADINGS = {
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
    """Write the figures to ``figures/`` and the page to ``report.html``; returns the path of the page.

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
    """Draw every figure that the records allow."""
    setup_text, grouped = setup(summary), by_arm(runs, summary.arms)
    first_run = next(iter(grouped.values()))[0].summary
    optional = [
        lead_drawn(summary, grouped, setup_text),
        verdicts_drawn(summary, setup_text),
        source_drawn(first_run.data, setup_text) if first_run is not None else None,
        accuracy_against_cost(summary, grouped, setup_text),
        step_time(runs, setup_text),
        phases_drawn(summary.phases, arms, setup_text),
        valleys_drawn(planes_of(arms), setup_text),
    ]
    figures = draw_all(summary, runs) + [figure for figure in optional if figure is not None]
    lengths = {arm: [run.lengths for run in group] for arm, group in arms.items()}
    if any(records for group in lengths.values() for records in group):
        figures.append(figure_lengths(lengths, setup_text))
    return figures + study_figures(arms, setup_text) + valley_figures(arms, setup_text)


def _charts_of(summary: StudySummary, runs: dict[str, RunRecord], arms: Arms) -> dict[str, Any]:
    """Name of each interactive chart -> its data; charts without data are left out."""
    charts = {
        "curves": curves_chart(summary, by_arm(runs, summary.arms), arms),
        "spectra": spectra_chart(with_spectra(arms)),
        "planes": planes_chart(arms),
    }
    return {name: chart for name, chart in charts.items() if chart}


def render(summary: StudySummary, figures: Sequence[Drawn], folder: Path, charts: Mapping[str, Any]) -> str:
    """The page as HTML; every name that a user chose is escaped.

    Args:
        summary: of the study.
        figures: of the page.
        folder: of the study.
        charts: data of the interactive charts.
    """
    by_name = {figure.name: figure for figure in figures}
    return PAGES.get_template("report.html").render(
        study=summary,
        setup_text=setup(summary),
        lead=by_name.get(LEAD) or (figures[0] if figures else None),
        figures=by_name,
        sections=sections(summary.verdicts, [name for name in by_name if name != LEAD], list(charts)),
        colours={arm: style["colour"] for arm, style in styles(summary.arms).items()},
        charts=_in_script(charts),
        chart_headings=_CHART_HEADINGS,
        plotly=Markup(packed_plotly()),
        script=Markup(PAGES.get_template("page.js").render()),
        addresses={name: data_address(figure) for name, figure in by_name.items()},
        again=shlex.join(["thalweg", "report", str(folder)]),
        screen=first_screen(summary),
    )


def _in_script(charts: Mapping[str, Any]) -> Markup:
    """JSON for a script element; angle brackets and ampersands are escaped, so that no text in it can end the element."""
    text = json.dumps(charts, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@functools.cache
def packed_plotly() -> str:
    """Plotly's script, compressed with gzip, in base64; the page unpacks it when the first chart is scrolled to."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def first_screen(summary: StudySummary) -> FirstScreen:
    """What the page says before anything else, from the verdicts.

    It gives the claims on both parts of the page's question, and how many claims have which verdict.
    """
    by_claim = {verdict.claim: verdict for verdict in summary.verdicts}
    main = [by_claim[claim] for part in _QUESTION for claim in part if claim in by_claim]
    counts = counted(summary.verdicts)
    text = summary.task == "text"
    return FirstScreen(
        asked=(
            "The paper arXiv 2510.10089 (https://arxiv.org/abs/2510.10089) says that a looped transformer, which applies the same "
            "blocks several times, keeps learning hard sequences where one pass stalls, and explains it by the shape of the "
            "loss. It "
            "proposes SHIFT: train with one pass first and loop later. This study repeats it over seeds, with controls, and judges "
            "each claim."
        ),
        found=(*(_in_a_sentence(verdict) for verdict in main), _totals(counts)),
        sure=(
            f"Every number is a mean over {plural(len(summary.seeds), 'seed')} with its 95 % interval in brackets; all arms "
            "share the "
            f"seeds. A claim is decided where its interval excludes the bar of its test, else it is undecided. The study covers "
            f"{'one text' if text else 'one synthetic language'} and one size of model. Costs are counted operations unless "
            "seconds are named."
        ),
        advice=(
            "Read a verdict with its test, which is given below each claim. To see which number of passes ends lowest for the "
            f"operations that you can pay, run thalweg frontier {summary.task}."
        ),
    )


def _in_a_sentence(verdict: Verdict) -> str:
    """A claim with who makes it, its verdict and its first number, and how many seeds would decide it."""
    details = first_number(verdict)
    owner = {"paper": "The paper's claim that", "ours": "Our claim that", "control": "The control that"}.get(verdict.source, "That")
    return f"{owner} {verdict.claim} is {verdict.verdict}{f' ({details})' if details else ''}."


def _totals(counts: Mapping[str, int]) -> str:
    """How many claims have which verdict, as a sentence."""
    last = f", {counts['not measured']} not measured" if counts["not measured"] else ""
    decided = f"{counts['supported']} supported, {counts['contradicted']} contradicted"
    return f"Of {plural(sum(counts.values()), 'claim')}, {decided}, {counts['undecided']} undecided{last}."
