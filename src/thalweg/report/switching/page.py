"""The page of a sweep over switches: one file with answers, tables and figures, without script or network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thalweg.errors import plural
from thalweg.records.experiment import Outcome, Share, SweepSummary
from thalweg.records.run import RunRecord
from thalweg.report.figures import Drawn, save_all, setup
from thalweg.report.page import PAGES, data_address
from thalweg.report.switching.dot_plots import GROUPS, TITLES
from thalweg.report.switching.figures import draw_sweep
from thalweg.storage import write_text

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
    addresses = {figure.name: data_address(figure) for figure in figures}
    return PAGES.get_template("sweep.html").render(
        sweep=summary,
        setup_text=setup(summary),
        figures=[(figure, addresses[figure.name]) for figure in figures],
        addresses=addresses,
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
        One to three lines; the number comes first, where the median run reached the goal.

    Example:
        >>> share_in_words(Share(None, None, None, 3, 3)), share_in_words(Share(None, 0.8, None, 3, 2))
        (['not reached', 'in any of 3 runs'], ['not reached', 'in 2 of 3 runs', 'smallest 0.8'])
        >>> share_in_words(Share(0.9, 0.8, None, 3, 1))
        ['median 0.9', 'smallest 0.8', 'not reached in 1 of 3 runs']
    """
    if share is None:
        return ["-"]
    if not share.censored:
        return [short(share.value)] + ([] if share.low is None else [f"[{short(share.low)}, {short(share.high)}]"])
    if share.low is None:
        return ["not reached", f"in any of {plural(share.n, 'run')}"]
    missed, smallest = f"in {share.censored} of {plural(share.n, 'run')}", f"smallest {short(share.low)}"
    if share.value is None:
        return ["not reached", missed, smallest]
    return [f"median {short(share.value)}", smallest, f"not reached {missed}"]


def share_in_a_line(share: Share | None) -> str:
    """The lines of `share_in_words` as one.

    Example:
        >>> share_in_a_line(Share(0.9, 0.8, None, 3, 1)), share_in_a_line(Share(0.9, 0.8, 1.01, 3, 0))
        ('median 0.9 (smallest 0.8; not reached in 1 of 3 runs)', '0.9 [0.8, 1.01]')
    """
    first, *rest = share_in_words(share)
    if share is None or not share.censored:
        return " ".join([first, *rest])
    return f"{first} ({'; '.join(rest)})"
