"""`thalweg.plot`: a figure of the landscape of one run or of several, or of a convergence report, from their records."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.bounds import named_arguments
from thalweg.errors import BadInputError, Phrase, require, unknown
from thalweg.records.convergence import Convergence
from thalweg.records.landscape import (
    CLASSES,
    PLATEAU,
    LandscapePlan,
    LandscapeRecord,
    Measure,
    RunLandscape,
    SliceRecord,
    read_landscape,
)
from thalweg.records.layers import LayerRecord
from thalweg.report.landscape.convergence import figure_convergence
from thalweg.report.landscape.curves import (
    PANELS,
    Arms,
    Panel,
    colour_of,
    draw_over_training,
    figure_landscape,
    taken,
    training_axis,
)
from thalweg.report.landscape.layers import figure_layers
from thalweg.report.landscape.slices import figure_planes, figure_spectra, has_plane
from thalweg.report.panels import STYLE, labelled, legend_below

_EXPECTED = "a run's folder, its landscape, a list of LandscapeRecord, or a dict of names to these"
_KINDS = ("numbers", "split", "spectra", "slices")
_SPLIT = (
    Panel("loss", lambda p: Measure(p.loss)),
    Panel("eigenvalues in the valley (count)", lambda p: Measure(p.split.valley) if p.split else None, least=0),
    Panel("eigenvalues in the river (count)", lambda p: Measure(p.split.river) if p.split else None, least=0),
    Panel("eigenvalues in the ridge (count)", lambda p: Measure(p.split.ridge) if p.split else None, least=0),
)


@named_arguments
@matplotlib.rc_context(STYLE)
def plot(records: Any, kind: Literal["numbers", "split", "spectra", "slices"] = "numbers") -> Figure:
    """Draw the landscape of one run or of several over training.

    Args:
        records: the folder of a run, what `thalweg.records.landscape.read_landscape` read from it, or the records that
            `thalweg.LandscapeProbe` returned; for several runs a dict of names to these. A list as a value holds the seeds of
            one name, which are drawn as mean and 95 % interval. Or what `LandscapeProbe.converge`
            returned, or one or several records of a `LayerProbe`; these have one figure each.
        kind: "numbers" (entropy, extreme eigenvalues, change), "split" (loss, class, and the sizes of valley, river and ridge),
            "spectra" (heat maps of the eigenvalues) or "slices" (planes of the loss). Spectra and slices need a run's folder.
    Returns:
        A figure of matplotlib; save it with ``figure.savefig``.
    Raises:
        BadInputError: something else was given, or nothing of this kind was measured.
    Example:
        >>> import torch
        >>> from thalweg.landscape.probe import LandscapeProbe
        >>> probe, model = LandscapeProbe(top=1, forms=0), torch.nn.Linear(2, 1)
        >>> loss = lambda model, x: model(x).square().mean() + model.weight.pow(4).sum()
        >>> figure = plot([probe.measure(loss, model, [torch.eye(2)], step=step) for step in (0, 1)])
        >>> [axes.get_ylabel() for axes in figure.axes][1]
        'largest eigenvalue'
    """
    if kind not in _KINDS:
        raise unknown("kind", str(kind), _KINDS)
    if isinstance(records, Convergence):
        return figure_convergence(records)
    layered = [records] if isinstance(records, LayerRecord) else records
    if isinstance(layered, Sequence) and layered and all(isinstance(record, LayerRecord) for record in layered):
        return figure_layers(layered)
    named = records if isinstance(records, Mapping) else {_name_of(records): records}
    empty = [str(name) for name, value in named.items() if isinstance(value, Sequence | Mapping) and not value]
    place = f"records of {', '.join(empty)}" if empty and named is records else "records"
    require(bool(named) and not empty, place, Phrase("nothing"), _EXPECTED)
    arms: Arms = {str(name): _runs(value) for name, value in named.items()}
    allowed = _kinds_of(arms)
    if kind not in allowed:
        where = "; those are files, which a run or a LandscapeSeries keeps" if kind in ("spectra", "slices") else ""
        others = f"what these records allow: {', '.join(allowed)}" if allowed else "records that hold what is drawn"
        raise BadInputError(f"records: no {kind} in them{where}; expected {others}")
    first = {name: runs[0] for name, runs in arms.items()}
    if kind == "spectra":
        return figure_spectra({name: run for name, run in first.items() if _has_spectra(run)})
    if kind == "slices":
        return figure_planes({name: planes[0] for name, run in first.items() if (planes := _planes_of(run))})
    figure = figure_landscape(arms) if kind == "numbers" else _split_figure(arms)
    for legend in figure.legends if named is not records else ():
        legend.remove()  # a single run without a name
    return figure


def _name_of(records: Any) -> str:
    """The name of a folder, or "run" for records without one."""
    return Path(records).resolve().name if isinstance(records, str | Path) else "run"


def _kinds_of(arms: Arms) -> list[str]:
    """The kinds of figures that can be drawn."""
    every = [run for runs in arms.values() for run in runs]
    found = {
        "numbers": any(taken(arms, panel) for panel in PANELS),
        "split": any(point.split for run in every for point in run.points),
        "spectra": any(_has_spectra(runs[0]) for runs in arms.values()),
        "slices": any(_planes_of(runs[0]) for runs in arms.values()),
    }
    return [kind for kind in _KINDS if found[kind]]


def _has_spectra(run: RunLandscape) -> bool:
    """Whether the spectrum of some point lies beside the records."""
    return any(run.spectrum_path(point.step).exists() for point in run.points)


def _planes_of(run: RunLandscape) -> list[tuple[RunLandscape, SliceRecord]]:
    """The first plane of a run, if its file is there."""
    return [(run, record) for record in run.slices[:1] if has_plane(run, record)]


def _runs(given: Any) -> list[RunLandscape]:
    """The landscapes of one name: one, or one for each seed."""
    if isinstance(given, RunLandscape):
        return [given]
    if isinstance(given, str | Path):
        landscape = read_landscape(Path(given))
        require(landscape is not None, "records", str(given), "a folder with a landscape in it")
        return [] if landscape is None else [landscape]
    if not isinstance(given, Sequence) or not given:
        raise BadInputError(f"records: given {type(given).__name__}, expected {_EXPECTED}")
    others = [item for item in given if not isinstance(item, LandscapeRecord)]
    if 0 < len(others) < len(given):
        raise BadInputError(f"records: given {type(others[0]).__name__} in a list of LandscapeRecord, expected {_EXPECTED}")
    if not others:
        points = tuple(sorted(given, key=lambda record: record.step))
        again = [one.step for one, other in itertools.pairwise(points) if one.step == other.step]
        require(
            not again,
            "records",
            Phrase(f"several at step {again[0] if again else 0}"),
            "one at each step; give measure() its step=",
        )
        return [RunLandscape(Path("records", "landscape"), LandscapePlan(), points)]
    return [run for item in given for run in _runs(item)]


def _split_figure(arms: Arms) -> Figure:
    """Loss, valley, river, ridge and class over training; counts are hollow where no threshold is clear."""
    curves = {panel: taken(arms, panel) for panel in _SPLIT}
    shown = [panel for panel, found in curves.items() if found]
    steps = sorted({point.step for runs in arms.values() for run in runs for point in run.points})
    figure = Figure(figsize=(2.8 * (len(shown) + 1), 2.8), layout="constrained")
    *places, last = figure.subplots(1, len(shown) + 1)
    unclear = {arm: {p.step for run in runs for p in run.points if p.split and not p.split.clear} for arm, runs in arms.items()}
    for axes, panel in zip(places, shown, strict=True):
        draw_over_training(axes, arms, panel, curves[panel], steps)
        for arm, (curve, _) in curves[panel].items() if panel is not _SPLIT[0] else ():
            at, colour = np.isin(curve.x, list(unclear[arm])), colour_of(arm, list(arms).index(arm))
            axes.plot(curve.x[at], curve.mean[at], "o", color=colour, markerfacecolor=axes.get_facecolor(), markersize=4)
    _draw_classes(last, arms, steps)
    artists = labelled(figure.axes) if len(arms) > 1 else []
    if any(unclear.values()):
        told = f"hollow: the threshold lies in no gap of {PLATEAU:g} decades, so another one could give another count"
        if artists:
            hollow = {"color": "#777777", "markerfacecolor": figure.get_facecolor(), "markersize": 4}
            artists.append(Line2D([], [], marker="o", linestyle="", label=told, **hollow))
        else:
            figure.supxlabel(told, fontsize=8)
    legend_below(figure, artists)
    return figure


def _draw_classes(axes: Axes, arms: Arms, steps: Sequence[int]) -> None:
    """The class of every single spectrum over training, a row for each class; seeds and arms lie beside each other in it."""
    runs = [(colour_of(arm, number), run) for number, (arm, seeds) in enumerate(arms.items()) for run in seeds]
    for place, (colour, run) in enumerate(runs):
        points = [point for point in run.points if point.split]
        rows = [CLASSES.index(point.split.name) + 0.5 * (place + 0.5) / len(runs) - 0.25 for point in points if point.split]
        axes.plot([point.step for point in points], rows, "o", color=colour, markersize=4)
    training_axis(axes, steps)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set_ylim(len(CLASSES) - 0.5, -0.5)
    axes.set_title("class of the valley", fontsize=9)
