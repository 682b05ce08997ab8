"""Every figure of a run's landscape and of a study's landscapes, with caption and alt text, from records alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import matplotlib

from thalweg.records.landscape import RunLandscape, SliceRecord
from thalweg.report.figures import Drawn, drawn, save_all
from thalweg.report.landscape.curves import (
    PANELS,
    Arms,
    Panel,
    alignment_curve,
    figure_alignment,
    figure_landscape,
    groups_of,
    runs_in_words,
    taken,
    with_spectra,
)
from thalweg.report.landscape.slices import figure_planes, figure_spectra, has_plane
from thalweg.report.panels import STYLE
from thalweg.storage import write_json

_LINES = "Lines: means over seeds at the checkpoints that all seeds share; bands: 95 % t-intervals, cut off where they are wide"


def measured(runs: Iterable[RunLandscape]) -> str:
    """How the curvature of some runs was measured, as a sentence: sequences, parameters, and exact or matrix-free."""
    with_points = [run for run in runs if run.points]
    points = [point for run in with_points for point in run.points]
    exact = sum(point.how == "exact" for point in points)
    sequences = ", ".join(str(n) for n in sorted({run.plan.sequences for run in with_points}))
    sizes = ", ".join(f"{n:,}" for n in sorted({point.dim for point in points}))
    method = f"Curvature of the mean loss on {sequences} fixed training sequences, {sizes} parameters; exact at {exact} of "
    method += f"{len(points)} points"
    if exact < len(points):
        settings = sorted({(run.plan.lanczos, run.plan.probes) for run in with_points})
        method += ", else matrix-free with " + ", ".join(f"{steps} Lanczos steps and {probes} probes" for steps, probes in settings)
    return method + "."


def ends(arms: Arms, panel: Panel) -> str:
    """The last mean of every arm in one panel, as text."""
    return ", ".join(f"{arm} {curve.mean[-1]:.3g} at update {curve.x[-1]:g}" for arm, (curve, _) in taken(arms, panel).items())


def _landscape_drawn(arms: Arms, setup: str) -> list[Drawn]:
    """The figures "landscape" and "alignment", as far as they were measured; ``setup`` ends their captions."""
    figures: list[Drawn] = []
    runs = [run for group in arms.values() for run in group]
    if any(run.points for run in runs):
        caption = (
            f"Numbers of the Hessian's spectrum over training. {_LINES}; bars: standard errors over probes, where the spectrum is "
            "matrix-free; dotted vertical lines: the first checkpoint with another number of passes. Eigenvalues are in loss per "
            "squared weight. Information is that of Gaussians and is left out where it is infinite. "
            f"{runs_in_words(arms)} {measured(runs)} {setup}"
        )
        last = "; ".join(f"{' '.join(p.label.replace('$', '').split())}: {ends(arms, p)}" for p in PANELS if taken(arms, p))
        alt = (
            "Panels over updates with a line for each arm and a band around it: how the eigenvalues of the Hessian change. "
            f"Last values: {last}."
        )
        figures.append(drawn(figure_landscape(arms), "landscape", "How does the curvature change?", caption, alt))
    if groups := groups_of(arms):
        caption = (
            "Agreement of the loss gradients of many passes and of one pass, at the same weights and samples, by weight matrix. "
            f"Top: cosine of the batch's two gradients; below: share of samples whose two gradients oppose each other. {_LINES}. "
            f"{runs_in_words(arms)} {setup}"
        )
        cosines = {
            group: {arm: curve for arm, runs in arms.items() if len((curve := alignment_curve(runs, group, "cosine")).x)}
            for group in groups
        }
        last = "; ".join(
            f"{group}: " + ", ".join(f"{arm} {curve.mean[-1]:.2f}" for arm, curve in curves.items())
            for group, curves in cosines.items()
        )
        alt = (
            "A column for each weight matrix: above, the cosine of the two gradients over updates, 1 where they agree; "
            f"below, the share of samples that disagree. Last cosines: {last}."
        )
        figures.append(drawn(figure_alignment(arms), "alignment", "Do one pass and many pull the same way?", caption, alt))
    return figures


def _spectra_drawn(runs: dict[str, RunLandscape], setup: str) -> list[Drawn]:
    """The figure "spectra" of the runs that left spectra, by the title of their panels; empty where none did."""
    kept = {title: run for title, run in runs.items() if any(run.spectrum_path(point.step).exists() for point in run.points)}
    if not kept:
        return []
    caption = (
        "Heat map of the Hessian's eigenvalues over training. Each column is one checkpoint and sums to 1; white: no eigenvalue. "
        "The axis is logarithmic on both sides of zero, with one bin for all that is smaller than the smallest size drawn. "
        f"{_shown(kept)} {measured(kept.values())} {setup}"
    )
    ranges = "; ".join(
        f"{title}: from {run.points[-1].smallest:.3g} to {run.points[-1].largest[0]:.3g} at update {run.points[-1].step}"
        for title, run in kept.items()
    )
    alt = f"A heat map for each arm: updates go to the right, eigenvalues go up, brighter where more of them lie. {ranges}."
    return [drawn(figure_spectra(kept), "spectra", "Where do the eigenvalues lie?", caption, alt)]


def _shown(runs: dict[str, RunLandscape]) -> str:
    """The names of the runs that the panels show, as a sentence."""
    return "Shown: " + ", ".join(run.folder.parent.name for run in runs.values()) + "."


def _planes_drawn(planes: dict[str, tuple[RunLandscape, SliceRecord]], name: str, setup: str) -> Drawn:
    """The figure of loss planes side by side, by the title of their panels."""
    descriptions = "; ".join(
        f"{title}: {record.name}, {record.points} x {record.points} points around update {record.step}"
        + ("" if record.held is None else f", holds {100 * record.held:.2g} % of the path's squared motion")
        for title, (_, record) in planes.items()
    )
    caption = (
        "Loss in a plane through the run's weights. Axes: multiples of the plane's two directions; contours: evenly spaced in the "
        "logarithm of the height above the lowest loss. Circle: begin of the path of training; star: its end. The path is "
        f"projected into the plane and cut off far outside of it. {descriptions}. "
        f"{_shown({title: run for title, (run, _) in planes.items()})} {setup}"
    )
    alt = (
        "Maps of the loss like those of a landscape, darker where it is lower; a line shows how training walked from a "
        f"circle to a star. {descriptions}."
    )
    return drawn(figure_planes(planes), name, "What does the ground look like?", caption, alt)


@matplotlib.rc_context(STYLE)
def run_figures(landscape: RunLandscape, caption: str) -> list[Path]:
    """Draw everything that one run's landscape allows, and write it to its ``figures/`` with ``captions.json``.

    What was not measured is skipped.

    Args:
        landscape: of one run.
        caption: the set-up, which ends every caption.
    Returns:
        The files that were written, captions last; empty where nothing was measured.
    """
    name, folder = landscape.folder.parent.name, landscape.folder / "figures"
    figures = _landscape_drawn({name: [landscape]}, caption) + _spectra_drawn({name: landscape}, caption)
    for record in landscape.slices:
        if has_plane(landscape, record):
            figures.append(_planes_drawn({name: (landscape, record)}, f"plane-{quote(record.name, safe='')}", caption))
    if not figures:
        return []
    save_all(figures, folder)
    write_json(folder / "captions.json", {figure.name: {"caption": figure.caption, "alt": figure.alt} for figure in figures})
    return [folder / f"{f.name}.{kind}" for f in figures for kind in ("svg", "png")] + [folder / "captions.json"]


def planes_of(arms: Arms) -> dict[str, tuple[RunLandscape, SliceRecord]]:
    """One plane of each arm that has a plane: the first that holds a path, else the first of all."""
    planes = {}
    for arm, runs in arms.items():
        able = [(run, record) for run in runs for record in run.slices if has_plane(run, record)]
        if able:
            planes[arm] = next(((run, record) for run, record in able if record.held is not None), able[0])
    return planes


@matplotlib.rc_context(STYLE)
def study_figures(arms: Arms, caption: str = "") -> list[Drawn]:
    """Draw curvature, alignment, spectra and planes of a study, the arms together, in the order of the page.

    Spectra and planes show the first run of each arm that has them. The list is empty where nothing was measured.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up, which ends every caption.
    """
    figures = _landscape_drawn(arms, caption) + _spectra_drawn(with_spectra(arms), caption)
    if planes := planes_of(arms):
        figures.append(_planes_drawn(planes, "planes", caption))
    return figures
