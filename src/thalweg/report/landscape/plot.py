"""`thalweg.plot`: a figure of the landscape of one run or of several, or of a convergence report, from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

from thalweg.bounds import named_arguments
from thalweg.errors import BadInputError, require, unknown
from thalweg.records.convergence import Convergence
from thalweg.records.landscape import LandscapePlan, LandscapeRecord, Measure, RunLandscape, read_landscape
from thalweg.records.layers import LayerRecord
from thalweg.report.landscape.convergence import figure_convergence
from thalweg.report.landscape.curves import PANELS, Arms, Panel, draw_over_training, figure_landscape, taken
from thalweg.report.landscape.layers import figure_layers
from thalweg.report.landscape.slices import figure_planes, figure_spectra, has_plane
from thalweg.report.panels import STYLE, labelled, legend_below

_EXPECTED = "a run's folder, its landscape, a list of LandscapeRecord, or a dict of names to these"
_KINDS = ("numbers", "split", "spectra", "slices")
_SPLIT = (
    Panel("loss", lambda p: Measure(p.loss)),
    Panel("eigenvalues in the valley (count)", lambda p: Measure(p.split.valley) if p.split else None, least=0),
    Panel("eigenvalues in the river (count)", lambda p: Measure(p.split.river) if p.split else None, least=0),
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
        kind: "numbers" (entropy, extreme eigenvalues, change), "split" (loss, valley and river), "spectra" (heat maps of the
            eigenvalues) or "slices" (planes of the loss). Spectra and slices need a run's folder.
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
    named = records if isinstance(records, Mapping) else {"run": records}
    arms: Arms = {str(name): _runs(value) for name, value in named.items()}
    require(bool(arms) and all(arms.values()), "records", records, _EXPECTED)
    if kind in ("numbers", "split"):
        _refuse_empty(kind == "split" or any(taken(arms, panel) for panel in PANELS), kind)
        figure = figure_landscape(arms) if kind == "numbers" else _split_figure(arms)
        for legend in figure.legends if named is not records else ():
            legend.remove()  # a single run without a name
        return figure
    first = {name: runs[0] for name, runs in arms.items()}
    if kind == "spectra":
        kept = {name: run for name, run in first.items() if any(run.spectrum_path(point.step).exists() for point in run.points)}
        _refuse_empty(bool(kept), kind)
        return figure_spectra(kept)
    planes = {name: (run, record) for name, run in first.items() for record in run.slices[:1] if has_plane(run, record)}
    _refuse_empty(bool(planes), kind)
    return figure_planes(planes)


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
    if all(isinstance(item, LandscapeRecord) for item in given):
        points = tuple(sorted(given, key=lambda record: record.step))
        return [RunLandscape(Path("records", "landscape"), LandscapePlan(), points)]
    return [run for item in given for run in _runs(item)]


def _split_figure(arms: Arms) -> Figure:
    """Loss, valley and river over training."""
    curves = {panel: taken(arms, panel) for panel in _SPLIT}
    shown = [panel for panel, found in curves.items() if found]
    _refuse_empty(len(shown) > 1, "split")
    steps = sorted({point.step for runs in arms.values() for run in runs for point in run.points})
    figure = Figure(figsize=(2.8 * len(shown), 2.8), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        draw_over_training(axes, arms, panel, curves[panel], steps)
    if len(arms) > 1:
        legend_below(figure, labelled(figure.axes), len(arms))
    return figure


def _refuse_empty(ok: bool, kind: str) -> None:
    """Refuse to draw what was not measured, or is not in the records."""
    if not ok:
        in_files = kind in ("spectra", "slices")
        where = "they are files in the folder of a run that measured them: give that" if in_files else "they were not measured"
        others = ", ".join(one for one in _KINDS if one != kind)
        raise BadInputError(f"records: no {kind} in them; {where}, or choose another kind: {others}")
