"""Every figure of a run's landscape and of a study's, with its caption and its words for the blind, from records alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import matplotlib

from thalweg.records.landscape import RunLandscape, SliceRecord
from thalweg.report.figures import STYLE, Drawn, drawn, save_all
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
from thalweg.storage import write_json

_BANDS = "Lines: means over seeds at the checkpoints that all seeds share; bands: 95 % t-intervals, cut off where they are wide"


def measured(runs: Iterable[RunLandscape]) -> str:
    """How the curvature was measured, in words."""
    found = [run for run in runs if run.points]
    points = [point for run in found for point in run.points]
    exact = sum(point.how == "exact" for point in points)
    sequences = ", ".join(str(n) for n in sorted({run.plan.sequences for run in found}))
    sizes = ", ".join(f"{n:,}" for n in sorted({point.dim for point in points}))
    rough = sorted({(run.plan.lanczos, run.plan.probes) for run in found})
    words = f"Curvature of the mean loss on {sequences} fixed training sequences, {sizes} parameters; exact at {exact} of "
    words += f"{len(points)} points"
    if exact < len(points):
        words += ", else matrix-free with " + ", ".join(f"{steps} Lanczos steps and {probes} probes" for steps, probes in rough)
    return words + "."


def ends(arms: Arms, panel: Panel) -> str:
    """The last mean of every arm."""
    return ", ".join(f"{arm} {curve.mean[-1]:.3g} at update {curve.x[-1]:g}" for arm, (curve, _) in taken(arms, panel).items())


def _landscape_drawn(arms: Arms, caption: str) -> list[Drawn]:
    """The panels over training, and the alignment, as far as they were measured."""
    found: list[Drawn] = []
    runs = [run for group in arms.values() for run in group]
    if any(run.points for run in runs):
        words = (
            f"The Hessian's spectrum over training. {_BANDS}; bars: standard errors over probes, where matrix-free; dotted "
            "verticals: the first checkpoint with another number of passes. Eigenvalues in loss per squared weight. Information "
            f"(Gaussian) is left out where it is infinite. {runs_in_words(arms)} {measured(runs)} {caption}"
        )
        last = "; ".join(f"{' '.join(p.label.replace('$', '').split())}: {ends(arms, p)}" for p in PANELS if taken(arms, p))
        alt = f"Panels over updates, one line an arm. Last values: {last}."
        found.append(drawn(figure_landscape(arms), "landscape", "How does the curvature change?", words, alt))
    if groups := groups_of(arms):
        words = (
            "The loss gradient of many passes against that of one pass, at the same weights and samples. Top: cosine of the "
            f"batch's two gradients; below: share of samples whose two gradients oppose each other. {_BANDS}. "
            f"{runs_in_words(arms)} {caption}"
        )
        last = "; ".join(
            f"{group}: "
            + ", ".join(f"{arm} {c.mean[-1]:.2f}" for arm, r in arms.items() if len((c := alignment_curve(r, group, "cosine")).x))
            for group in groups
        )
        alt = f"Cosine and share of opposed samples over updates, by matrix. Last cosines: {last}."
        found.append(drawn(figure_alignment(arms), "alignment", "Do one pass and many pull the same way?", words, alt))
    return found


def _spectra_drawn(named: dict[str, RunLandscape], caption: str) -> list[Drawn]:
    """Heat maps of the runs that left spectra."""
    kept = {name: run for name, run in named.items() if any(run.spectrum_path(point.step).exists() for point in run.points)}
    if not kept:
        return []
    words = (
        "Where the eigenvalues lie: each column is one checkpoint and sums to 1; white: none; logarithmic on both sides of zero, "
        f"with one bin for all that is smaller than the smallest size drawn. {whose(kept)} {measured(kept.values())} {caption}"
    )
    alt = "Heat maps of the eigenvalue distribution over checkpoints. " + "; ".join(
        f"{name}: from {run.points[-1].smallest:.3g} to {run.points[-1].largest[0]:.3g} at update {run.points[-1].step}"
        for name, run in kept.items()
    )
    return [drawn(figure_spectra(kept), "spectra", "Where do the eigenvalues lie?", words, alt + ".")]


def whose(runs: dict[str, RunLandscape]) -> str:
    """The runs that single panels show."""
    return "Shown: " + ", ".join(run.folder.parent.name for run in runs.values()) + "."


def _planes_drawn(planes: dict[str, tuple[RunLandscape, SliceRecord]], name: str, caption: str) -> Drawn:
    """Loss planes side by side."""
    told = "; ".join(
        f"{of}: {record.name}, {record.points} x {record.points} points around update {record.step}"
        + ("" if record.held is None else f", holds {100 * record.held:.2g} % of the path's squared motion")
        for of, (_, record) in planes.items()
    )
    words = (
        "Loss in a plane through the run's weights, axes in multiples of their directions; contours lie logarithmically above the "
        "lowest loss of the plane. Circle: where the path begins; star: where it ends; the path is projected into the plane, and "
        f"cut off far outside of it. {told}. "
        f"{whose({of: run for of, (run, _) in planes.items()})} {caption}"
    )
    figure = figure_planes(planes)
    return drawn(
        figure, name, "What does the ground look like?", words, f"Contour maps of the loss with the path of training. {told}."
    )


@matplotlib.rc_context(STYLE)
def run_figures(landscape: RunLandscape, caption: str) -> list[Path]:
    """Everything that one run's landscape allows into its ``figures/``, with ``captions.json``; what was not measured is skipped.

    Args:
        landscape: of one run.
        caption: the set-up in words, the end of every caption.
    Returns:
        The files, captions last; empty where nothing was measured.
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
    """One plane of each arm that has some: the first that holds a path."""
    planes = {}
    for arm, runs in arms.items():
        able = [(run, record) for run in runs for record in run.slices if has_plane(run, record)]
        if able:
            planes[arm] = next(((run, record) for run, record in able if record.held is not None), able[0])
    return planes


@matplotlib.rc_context(STYLE)
def study_figures(arms: Arms, caption: str = "") -> list[Drawn]:
    """The landscapes of a study, arm beside arm, in the order of the page; empty where nothing was measured.

    Spectra and planes show the first run of each arm that has them.

    Args:
        arms: the runs of each arm, one a seed.
        caption: the set-up in words, the end of every caption.
    """
    figures = _landscape_drawn(arms, caption) + _spectra_drawn(with_spectra(arms), caption)
    if planes := planes_of(arms):
        figures.append(_planes_drawn(planes, "planes", caption))
    return figures
