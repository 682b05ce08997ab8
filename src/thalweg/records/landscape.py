"""What the landscape of a run leaves behind: its plan and its records, to and from disk.

Layout of ``RUN/landscape/``: ``plan.json`` (`LandscapePlan`), ``journal.jsonl`` (one record a line), safetensors in ``spectra/``
and ``slices/``, ``figures/``, ``summary.json`` (`LandscapeSummary`, written last: with it the landscape is complete).

A number that does not exist is None. Steps count updates made.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from thalweg.bounds import Number, Rate, Whole
from thalweg.errors import DamagedFileError, DamagedRecordWarning, require
from thalweg.records.run import Provenance, Score, recorded
from thalweg.serialization import checked
from thalweg.storage import read_journal, read_json, refuse_special, there

_MOST_ARRAYS = 1 << 40
"""Bytes of a file of arrays."""
_CHECKPOINTS = "0 for all, or at least 2"


@dataclass(frozen=True)
class LandscapePlan:
    """What is measured along a run, and how finely."""

    checkpoints: Annotated[int, Whole(0, 10**6, _CHECKPOINTS)] = 0
    """Snapshots looked at, as evenly spread over those there are as can be, first and last always; 0 takes all."""
    sequences: Annotated[int, Whole(2, 10**7)] = 64
    """Training sequences of the fixed batch that every curvature is the curvature on."""
    loops: Annotated[int, Whole(0, 10**5)] = 0
    """T of the Looped side of the alignment; 0 takes the run's last stage, and for a run of one pass leaves the alignment out."""
    dtype: Literal["float32", "float64"] = "float32"
    """Arithmetic of products; eigensolvers always use float64."""
    exact_seconds: Annotated[float, Number(0, 1e9)] = 60.0
    """Longest expected time of one exact spectrum; above it the spectrum is matrix-free."""
    top: Annotated[int, Whole(1, 10**4)] = 10
    """Largest eigenvalues, with their vectors."""
    lanczos: Annotated[int, Whole(2, 10**5)] = 60
    """Lanczos steps of a matrix-free density."""
    probes: Annotated[int, Whole(2, 10**5)] = 4
    """Probes of a matrix-free density, and of the similarity of successive Hessians."""
    alignment: bool = True
    """Gradients of one pass and of all passes at shared weights."""
    replays: Annotated[int, Whole(0, 10**5)] = 3
    """Snapshots from which training is gone over again, in about equal parts of the run as far as there are snapshots."""
    window: Annotated[int, Whole(20, 10**7, "at least 20 updates")] = 100
    """Updates of a replay."""
    force_rate: Rate = 1e-3
    """eta of the gradient descent beside which the theorems are put, the same for every run, so that forces compare."""
    force_steps: Annotated[int, Whole(1, 10**7)] = 20
    """K of it."""
    lengths: tuple[Annotated[int, Whole(1, 10**5, "multiples of at least 1")], ...] = (1, 2, 4, 8)
    """Multiples of the training length that the end of the run is scored on."""
    slices: bool = True
    """Loss in planes at the end of the run."""

    def __post_init__(self) -> None:
        checked(self, "")
        require(self.checkpoints != 1, "checkpoints", self.checkpoints, _CHECKPOINTS)


@dataclass(frozen=True)
class Measure:
    """A number with its standard error over probes; 0 where it is exact."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class ConditionRecord:
    """One condition of a decision, and what was measured."""

    words: str
    held: bool
    measured: float | None


@dataclass(frozen=True)
class SplitRecord:
    """River and valley of one spectrum; exact spectra only."""

    epsilon: float
    rule: str
    """The rule that gave epsilon."""
    rules: dict[str, float]
    """Epsilon by every rule: machine_floor, relative, log_gap, and noise_floor where there were batches."""
    plateau: float
    """Decades without an eigenvalue around epsilon."""
    valley: int
    river: int
    ridge: int
    kappa: float | None
    """None where the valley is empty; so are the next two."""
    kappa_q: float | None
    spread: float | None
    negative_mass: float
    name: str
    """Class of this one spectrum: U, V, saddle or indeterminate."""
    conditions: tuple[ConditionRecord, ...]


@dataclass(frozen=True)
class ChangeRecord:
    """How much one Hessian tells of the one before."""

    since: int
    """Step of the one before."""
    cosine: Measure
    """tr(A B) / (||A|| ||B||)."""
    deviatoric: Measure
    """The same without the trace."""
    information: Measure | None
    """Gaussian, nats; None where infinite (nothing changed)."""
    forms: float | None
    """Mutual information of quadratic forms of common probes, nats; None where it would cost more products than the rest."""
    forms_baseline: float | None
    """The same over random pairings."""
    overlap: float
    """Of the top eigenspaces, 0 to 1."""
    distance: float
    """1-Wasserstein of log |lam|, nats; sizes below the coarser floor or resolution of the two count as that."""


@dataclass(frozen=True)
class LandscapeRecord:
    """The curvature of the loss at one point."""

    step: int
    how: Literal["exact", "matrix-free"]
    reason: str
    """Why exact or matrix-free, in words with numbers."""
    dim: int
    """P."""
    products: int
    """Hessian-vector products; columns of an exact Hessian count one each."""
    seconds: float
    loss: float
    gradient_norm: float
    largest: tuple[float, ...]
    """The algebraically largest eigenvalues, falling."""
    smallest: float
    """The most negative (or smallest) eigenvalue."""
    trace: Measure
    frobenius: Measure
    entropy: Measure
    """Shannon entropy of |lam| / sum |lam|, nats."""
    entropies: dict[str, Measure]
    """Sign option and order, such as "abs 2", "positive 1", "square 1", "abs inf"."""
    negative_mass: Measure
    """Sum of |lam| over negative eigenvalues as a share of all."""
    above_one: Measure
    """Number of eigenvalues above 1."""
    resolution: float | None
    """Of a matrix-free density: what lies closer together it does not tell apart."""
    imbalance: float | None
    """Worst gauge imbalance of query and key before they were balanced (1 is balanced); None where nothing was balanced."""
    split: SplitRecord | None
    change: ChangeRecord | None
    """None for the first point."""
    loops: int = 1
    """Passes of the model there."""
    mode: str = "eval"
    """Mode that the model was evaluated in: "eval", "train" or "as-is"."""


@dataclass(frozen=True)
class GroupRecord:
    """Gradients of Looped and of Single in one group of parameters, at the same weights."""

    cosine: float | None
    """Of the batch's two gradients."""
    ratio: float | None
    """||g_Looped|| / ||g_Single||."""
    minimum: float | None
    """Of the cosines sample by sample."""
    fifth: float | None
    median: float | None
    opposed: float
    """Share of samples with a cosine below 0."""


@dataclass(frozen=True)
class AlignmentRecord:
    """Theorem 3 at one checkpoint."""

    step: int
    loops: int
    """T of the Looped side; the other takes one pass."""
    samples: int
    loss_looped: float
    loss_single: float
    groups: dict[str, GroupRecord]
    """By matrix, such as "query", "key", "value", "embedding", "head", and "all"."""


@dataclass(frozen=True)
class ReplayRecord:
    """One window of real training, gone over again with its optimizer: trapped, or hopping, and does the river move?"""

    step: int
    """Updates made where the window begins."""
    window: int
    loops: int
    directions: int
    """Valley directions followed, k: those of the window's begin that turn by less than 30 degrees until its end."""
    degrees: float
    """Their largest angle to the valley at the end; 30 or more where none is left."""
    loss_first: float
    loss_last: float
    """On the fixed batch."""
    flips: tuple[float, ...]
    """Share of sign flips of v_i . g, by direction."""
    flips_low: tuple[float, ...]
    flips_threshold: float
    tortuosity_valley: float
    tortuosity_river: float
    hop_ratio: float
    edge: float
    """Median of eta lam_max over its stable limit, with preconditioner and momentum: 1 at the edge."""
    edge_inside: float
    """Share of the window in [0.9, 1.1]."""
    batch_sharpness: float | None
    """Edge ratio by mini-batches (plain SGD only)."""
    cubic_drift: float
    """grad_R lam_1 . h_R: above 0 the river sharpens and hopping brakes it."""
    valley_class: str
    hops: bool
    flows: bool
    trapped: bool
    conditions: dict[str, tuple[ConditionRecord, ...]]
    """Of "hopping", "river" and "trapped"."""
    ablation: str
    """supported, not supported, opposed, no progress, or why it was not made."""
    progress: dict[str, float]
    """Along the river's slope: plain, bulk_only, bulk_on_floor, valley_only, half_rate."""


@dataclass(frozen=True)
class TheoremsRecord:
    """Theorems 1 and 2 beside K steps of gradient descent; the split comes from the snapshot before."""

    step: int
    split_step: int
    """Where the split was made."""
    rate: float
    steps: int
    sharpness: float
    """eta lam_max."""
    valley: int
    river: int
    coupling: float
    force_predicted: float
    force_measured: float
    force_cosine: float | None
    relative_predicted: float
    relative_measured: float
    upper_paper: float
    upper_best: float
    lower_best: float
    decrease_predicted: float
    decrease: float
    error: float
    error_bound: float
    loss_error: float
    loss_error_bound: float


@dataclass(frozen=True)
class LengthRecord:
    """The end of a run on sequences of another length."""

    step: int
    loops: int
    multiple: int
    length: int
    """Tokens of a sequence."""
    sequences: int
    scores: dict[str, Score]
    """By stratum, cut by quarters of the information content at this length."""
    ceilings: dict[str, Score]
    """Best possible, where the source is known."""
    bits_mean: float | None
    """Information content for each scored token, mean over sequences; None where the source is not known."""
    bits_deviation: float | None
    """Its standard deviation over sequences."""
    shares: dict[str, float]
    """Share of the sequences that lie below the training set's low cut and above its high cut, both as bits for each token."""
    error: str = ""
    """Why this length could not be scored."""


@dataclass(frozen=True)
class SliceRecord:
    """One plane of the loss; its arrays lie in ``slices/<name>.safetensors``: first, second, losses, path (if any)."""

    name: str
    step: int
    """Of the middle."""
    names: tuple[str, str]
    """Of the two directions."""
    held: float | None
    """Share of the trajectory's squared motion that lies in the plane."""
    points: int
    """Of a side."""


@dataclass(frozen=True)
class NoteRecord:
    """Something that could not be measured, and why."""

    step: int
    part: str
    words: str


@dataclass(frozen=True)
class LandscapeSummary:
    """A complete landscape."""

    points: int
    exact: int
    """Points with an exact spectrum."""
    products: int
    seconds: float
    """Measuring, all parts together, in all processes that took part."""
    training_seconds: float | None
    """Of the run itself, None while it goes on."""
    provenance: Provenance
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds by part: spectra, alignment, replays, theorems, lengths, slices."""


@dataclass(frozen=True)
class RunLandscape:
    """Everything that ``RUN/landscape`` tells, complete or not; each in the order of the steps."""

    folder: Path
    plan: LandscapePlan
    points: tuple[LandscapeRecord, ...] = ()
    alignments: tuple[AlignmentRecord, ...] = ()
    replays: tuple[ReplayRecord, ...] = ()
    theorems: tuple[TheoremsRecord, ...] = ()
    lengths: tuple[LengthRecord, ...] = ()
    slices: tuple[SliceRecord, ...] = ()
    notes: tuple[NoteRecord, ...] = ()
    summary: LandscapeSummary | None = None

    def spectrum_path(self, step: int) -> Path:
        """Tensors of one point: "values" ``(P,)`` of an exact spectrum, or "nodes", "weights" of a density; "top" ``(P, k)``."""
        return spectrum_path(self.folder, step)

    def slice_path(self, name: str) -> Path:
        """Arrays of one plane, see `SliceRecord`."""
        return slice_path(self.folder, name)


KINDS: dict[str, tuple[str, type]] = {
    "point": ("points", LandscapeRecord),
    "alignment": ("alignments", AlignmentRecord),
    "replay": ("replays", ReplayRecord),
    "theorems": ("theorems", TheoremsRecord),
    "length": ("lengths", LengthRecord),
    "slice": ("slices", SliceRecord),
    "note": ("notes", NoteRecord),
}
"""Type of a journal's line -> field of `RunLandscape`, class."""


def spectrum_path(folder: Path, step: int) -> Path:
    """The file of one point's spectrum in a landscape's folder."""
    return folder / "spectra" / f"step-{step:09d}.safetensors"


def slice_path(folder: Path, name: str) -> Path:
    """The file of one plane in a landscape's folder."""
    return folder / "slices" / f"{name}.safetensors"


def arrays_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """A safetensors file of these arrays, with a hash of them in its header."""
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    return save(arrays, metadata={"sha256": digest(arrays)})


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def read_arrays(path: Path, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a file that thalweg wrote; nothing where there is no file.

    Raises:
        DamagedFileError: it cannot be read, or lacks one of ``names``.
    """
    if not there(path):
        return {}
    advice = f"run `thalweg landscape {path.parents[2]}` again"
    try:
        refuse_special(path, _MOST_ARRAYS)
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored = (file.metadata() or {}).get("sha256")  # files of earlier versions have none
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedFileError(f"damaged arrays {path}: {error}; {advice}") from None
    if stored not in (None, digest(found)):
        raise DamagedFileError(f"damaged arrays {path}: the bytes do not match the hash that was stored with them; {advice}")
    if lacking := [name for name in names if name not in found]:
        raise DamagedFileError(f"damaged arrays {path}: expected {', '.join(lacking)}; {advice}")
    return found


def number(value: float) -> float | None:
    """None in place of NaN and infinity, which no record holds."""
    return value if math.isfinite(value) else None


def read_landscape(run: Path) -> RunLandscape | None:
    """The landscape of a run, also of one that is still measured; None where none was begun.

    Raises:
        DamagedFileError: a record cannot be read; names the file.
    """
    folder = run / "landscape"
    plan, journal, summary = folder / "plan.json", folder / "journal.jsonl", folder / "summary.json"
    if not there(plan) and not there(journal):
        return None
    found: dict[str, list[Any]] = {name: [] for name, _ in KINDS.values()}
    lines = read_journal(journal) if there(journal) else []
    for line in lines:
        kind = line.get("type")
        if kind in KINDS:
            name, cls = KINDS[kind]
            found[name].append(recorded(cls, {key: value for key, value in line.items() if key != "type"}, journal))
    ordered = {name: tuple(sorted(records, key=lambda r: r.step)) for name, records in found.items()}
    done = recorded(LandscapeSummary, read_json(summary), summary) if there(summary) else None
    return RunLandscape(folder, plan_in(folder, lines), **ordered, summary=done)


def plan_in(folder: Path, lines: Sequence[dict[str, Any]]) -> LandscapePlan:
    """The plan of a landscape that was begun, from plan.json; from its journal where that is damaged or missing.

    Raises:
        DamagedFileError: neither tells it, or they tell two.
    """
    path, told = folder / "plan.json", next((line.get("plan") for line in lines if line.get("type") == "plan"), None)
    begun = None if told is None else recorded(LandscapePlan, told, folder / "journal.jsonl")
    try:
        found = recorded(LandscapePlan, read_json(path), path)
    except DamagedFileError as error:
        if begun is None:
            words = str(error).partition("; ")[0]
            raise DamagedFileError(f"{words}; nothing tells what was measured: move {folder} away and measure again") from None
        warnings.warn(f"{str(error).partition('; ')[0]}; the plan is taken from the journal", DamagedRecordWarning, stacklevel=2)
        return begun
    if begun not in (None, found):
        raise DamagedFileError(f"damaged record {path}: not the plan that the journal was begun with; remove it and run again")
    return found


def broken_arrays(found: RunLandscape) -> dict[Path, tuple[str, int]]:
    """File of a spectrum or a plane that is damaged or missing -> part and step that it belongs to."""
    wanted = {found.spectrum_path(point.step): ("spectra", point.step) for point in found.points}
    wanted |= {found.slice_path(plane.name): ("slices", plane.step) for plane in found.slices}
    broken = {}
    for path, part in wanted.items():
        try:
            if not read_arrays(path):
                broken[path] = part
        except DamagedFileError:
            broken[path] = part
    return broken
