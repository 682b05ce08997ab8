"""The page of a sweep over switches: one file with answers, tables and figures, without script or network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thalweg.records.experiment import Outcome, Share, SweepSummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import Drawn, save_all, setup
from thalweg.report.page import PAGES, data_address
from thalweg.report.switching.dot_plots import GROUPS, TITLES
from thalweg.report.switching.figures import draw_sweep
from thalweg.storage import write_text

_ASKED = (
    "The paper arXiv 2510.10089 (https://arxiv.org/abs/2510.10089) trains a transformer with one pass first and with several later "
    "(SHIFT), and switches when a criterion on loss and gradient fires (SCP). thalweg asks when to switch, how to bring in the new "
    "passes, and what to do with the optimizer; every variant differs from a baseline in one setting."
)
_ORDER = ("reference", *GROUPS, "scp")
"""Groups in the order of the page; all others come after them."""
_MANY = 16
"""Most rows of a group whose table is open when the page is."""


def write_sweep_report(summary: SweepSummary, runs: dict[str, RunRecord], folder: Path) -> None:
    """Write the figures to ``figures/`` (SVG and PNG) and the page to ``report.html``.

    Args:
        summary: of the sweep, complete or not.
        runs: by name, "<arm>-seed<n>"; those of `SweepSummary.curves` are drawn as curves.
        folder: of the sweep.
    """
    figures = draw_sweep(summary, runs)
    save_all(figures, folder / "figures")
    write_text(folder / "report.html", _render_sweep(summary, figures))


def _render_sweep(summary: SweepSummary, figures: Sequence[Drawn]) -> str:
    """The page as HTML; everything that a user named is escaped."""
    return PAGES.get_template("sweep.html").render(
        sweep=summary,
        setup_text=setup(summary),
        asked=_ASKED,
        figures=[(figure, data_address(figure)) for figure in figures],
        groups=by_group(summary),
        titles=TITLES,
        many=_MANY,
        share=share_in_words,
        short=short,
        signed=signed,
    )


def by_group(summary: SweepSummary) -> dict[str, list[Outcome]]:
    """Group -> its outcomes, in the order of the page; empty groups are left out."""
    present = dict.fromkeys(outcome.group for outcome in summary.outcomes)
    order = [group for group in _ORDER if group in present] + [group for group in present if group not in _ORDER]
    return {group: [outcome for outcome in summary.outcomes if outcome.group == group] for group in order}


def short(value: float | None) -> str:
    """A number with three significant digits, without powers of ten for large numbers; a dash where there is none."""
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(value: float | None) -> str:
    """A difference of losses with four decimals and its sign, or a dash where there is none."""
    return "-" if value is None else f"{value:+.4f}"


def share_in_words(share: Share | None) -> list[str]:
    """A share as lines of a table cell: the number, then its interval or how many runs did not reach the goal.

    Args:
        share: cost of reaching Looped's goal over Looped's own cost; None gives a dash.
    Returns:
        One to three lines; the number comes first, and is "never" where the median run did not reach the goal.
    """
    if share is None:
        return ["-"]
    if not share.censored:
        return [short(share.value)] + ([] if share.low is None else [f"[{short(share.low)}, {short(share.high)}]"])
    lines = ["never" if share.value is None else f"median {short(share.value)}"]
    lines += [] if share.low is None else [f"smallest {short(share.low)}"]
    return [*lines, f"{share.censored} of {share.n} never"]
