"""Records of the landscape of a run: its plan, its measurements, and the functions that read them.

Layout of ``RUN/landscape/``: ``plan.json`` (`LandscapePlan`), ``journal.jsonl`` (one record a line), safetensors in ``spectra/``
and ``slices/``, ``figures/``, ``summary.json`` (`LandscapeSummary`, written last: with it the landscape is complete).

A number that does not exist is None. Steps count updates made. lam are eigenvalues of the Hessian H, g is the gradient, eta the
rate, P the number of parameters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from thalweg.bounds import Number, Rate, Whole, named_arguments
from thalweg.errors import DamagedFileError, DamagedRecordWarning, require, warn
from thalweg.records.run import Provenance, Score, recorded
from thalweg.serialization import checked
from thalweg.storage import read_journal, read_json, refuse_special, there

_MOST_ARRAYS = 1 << 40
"""Most bytes of a file of arrays; a larger one is refused."""
_CHECKPOINTS = "0 for all, or at least 2"


@named_arguments
@dataclass(frozen=True)
class LandscapePlan:
    """What is measured along a run, and how finely."""

    checkpoints: Annotated[int, Whole(0, 10**6, _CHECKPOINTS)] = 0
    """Number of snapshots that are measured, spread evenly, the first and the last always; 0 takes all."""
    sequences: Annotated[int, Whole(2, 10**7)] = 64
    """Training sequences in the fixed batch on which all curvature is measured."""
    loops: Annotated[int, Whole(0, 10**5)] = 0
    """T of the Looped side of the alignment; 0 takes that of the run's last stage, and then a run with one pass has none."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type of Hessian-vector products; eigensolvers always use float64."""
    exact_seconds: Annotated[float, Number(0, 1e9)] = 60.0
    """Longest expected time of one exact spectrum in seconds; where it would take longer the spectrum is matrix-free."""
    top: Annotated[int, Whole(1, 10**4)] = 10
    """Number of largest eigenvalues that are kept with their eigenvectors."""
    lanczos: Annotated[int, Whole(2, 10**5)] = 60
    """Lanczos steps of a matrix-free density."""
    probes: Annotated[int, Whole(2, 10**5)] = 4
    """Random probes of a matrix-free density, and of the similarity of successive Hessians."""
    alignment: bool = True
    """Whether the gradients of one pass and of all passes at shared weights are compared."""
    replays: Annotated[int, Whole(0, 10**5)] = 3
    """Number of snapshots from which training is replayed, spread over the run as far as there are snapshots."""
    window: Annotated[int, Whole(20, 10**7, "at least 20 updates")] = 100
    """Updates of a replayed window."""
    force_rate: Rate = 1e-3
    """Rate eta of the gradient descent that the theorems are compared with; the same for every run, so that forces compare."""
    force_steps: Annotated[int, Whole(1, 10**7)] = 20
    """Number of steps K of that descent."""
    lengths: tuple[Annotated[int, Whole(1, 10**5, "multiples of at least 1")], ...] = (1, 2, 4, 8)
    """Multiples of the training length on which the end of the run is scored."""
    slices: bool = True
    """Whether the loss is measured in planes at the end of the run."""

    def __post_init__(self) -> None:
        checked(self, "")
        require(self.checkpoints != 1, "checkpoints", self.checkpoints, _CHECKPOINTS)


@dataclass(frozen=True)
class Measure:
    """A number with its standard error."""

    value: float
    error: float = 0.0
    """Standard error over probes; 0 where the number is exact."""


_EITHER = "displacement > 0 (95 %)"
"""A condition of earlier versions, which was recorded as not held also where its interval decided neither."""


@dataclass(frozen=True)
class ConditionRecord:
    """One condition of a decision, and the number that was measured for it."""

    words: str
    """The condition as text."""
    held: bool | None
    """Whether it holds; None where the interval of what was measured decides neither."""
    measured: float | None


ClassName = Literal["U", "V", "saddle", "indeterminate"]
CLASSES: tuple[ClassName, ...] = get_args(ClassName)
"""Classes of a valley."""
MIN_VALLEY = 3
"""Fewest eigenvalues of a valley that has a class."""
PLATEAU = 0.3
"""Fewest decades without an eigenvalue around a threshold that is clear."""


@dataclass(frozen=True)
class SplitRecord:
    """The split of one exact spectrum into valley and river."""

    EARLIER: ClassVar[dict[str, str]] = {"negative_mass": "ridge_mass"}
    epsilon: float
    """Threshold between the eigenvalues of valley and river."""
    rule: str
    """The rule that gave epsilon."""
    rules: dict[str, float]
    """Rule -> epsilon: machine_floor, relative, log_gap, and noise_floor where there were batches."""
    plateau: float
    """Decades around epsilon without an eigenvalue."""
    valley: int
    """Number of eigenvalues above epsilon."""
    river: int
    """Number of eigenvalues between -epsilon and epsilon."""
    ridge: int
    """Number of eigenvalues below -epsilon."""
    kappa: float | None
    """Largest over smallest eigenvalue of the valley; None where the valley is empty, as for the next two."""
    kappa_q: float | None
    """90 % over 10 % quantile of the valley's eigenvalues; kappa where it has fewer than 10."""
    spread: float | None
    """Standard deviation of log lam over the valley, nats."""
    ridge_mass: float
    """Sum of |lam| over the eigenvalues below -epsilon as a share of all."""
    name: str
    """Class of this one spectrum: U, V, saddle or indeterminate."""
    conditions: tuple[ConditionRecord, ...]

    @property
    def clear(self) -> bool:
        """Whether a gap separates valley and river; without one, their sizes depend on the rule for the threshold."""
        return self.plateau >= PLATEAU


@dataclass(frozen=True)
class ChangeRecord:
    """How similar the Hessian at one checkpoint is to that at the previous one."""

    since: int
    """Step of the previous checkpoint."""
    cosine: Measure
    """tr(A B) / (||A|| ||B||) of the two Hessians A and B, Frobenius norms."""
    deviatoric: Measure
    """The same cosine with the traces removed."""
    information: Measure | None
    """Mutual information of a Gaussian model, nats; None where it is infinite because nothing changed."""
    forms: float | None
    """Mutual information of quadratic forms of common probes, nats; None where it would cost more products than the rest."""
    forms_baseline: float | None
    """The same quantity over random pairings of the probes, as a baseline."""
    overlap: float
    """Overlap of the top eigenspaces, 0 to 1."""
    distance: float
    """1-Wasserstein distance of log |lam|, nats; magnitudes below the coarser floor or resolution of the two count as that."""


@dataclass(frozen=True)
class LandscapeRecord:
    """The curvature of the loss at one checkpoint."""

    step: int
    how: Literal["exact", "matrix-free"]
    reason: str
    """Why the spectrum is exact or matrix-free, as a sentence."""
    dim: int
    """Number of parameters P."""
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
    """Resolution of a matrix-free density: eigenvalues that lie closer together are not distinguished; None for an exact one."""
    imbalance: float | None
    """Worst gauge imbalance of query and key before they were balanced (1 is balanced); None where nothing was balanced."""
    split: SplitRecord | None
    change: ChangeRecord | None
    """None for the first point."""
    loops: int = 1
    """Passes of the model at the checkpoint."""
    mode: str = "eval"
    """Mode that the model was evaluated in: "eval", "train" or "as-is"."""

    def __str__(self) -> str:
        """The main numbers in one line; `repr` has all of them."""
        words = f"step {self.step}: loss {self.loss:.4g}, largest eigenvalue {self.largest[0]:.4g}, smallest {self.smallest:.4g}"
        if self.split is None:
            pairs = (("trace", self.trace), ("entropy", self.entropy))
            estimates = ", ".join(f"{name} {number.value:.4g} ± {number.error:.2g}" for name, number in pairs)
            return f"{words}, {estimates} (standard errors over probes); {self.how}, so there is no class"
        sizes = f"{self.split.valley} in the valley, {self.split.river} in the river, {self.split.ridge} in the ridge"
        measured = [(one.words, one.measured) for one in self.split.conditions if not one.held and one.measured is not None]
        few = self.split.kappa_q is None or self.split.valley < MIN_VALLEY  # no spread to speak of
        kappa = [] if few else [f"kappa_q {self.split.kappa_q:.3g}"]
        why = ", ".join(kappa + [f"{condition} fails with {value:.3g}" for condition, value in measured])
        return f"{words}; {sizes}, class {self.split.name}{f' ({why})' if why else ''}"


@dataclass(frozen=True)
class GroupRecord:
    """Gradients of Looped and of Single in one group of parameters, at the same weights."""

    cosine: float | None
    """Cosine of the two gradients of the batch."""
    ratio: float | None
    """||g_Looped|| / ||g_Single|| on the batch."""
    minimum: float | None
    """Smallest of the cosines of single samples."""
    fifth: float | None
    """5 % quantile of the cosines of single samples."""
    median: float | None
    """Median of the cosines of single samples."""
    opposed: float
    """Share of samples with a cosine below 0."""


@dataclass(frozen=True)
class AlignmentRecord:
    """The gradients of Looped and Single at shared weights at one checkpoint, for theorem 3."""

    step: int
    loops: int
    """T of the Looped side; the other takes one pass."""
    samples: int
    loss_looped: float
    loss_single: float
    groups: dict[str, GroupRecord]
    """Group of parameters -> its gradients: a matrix such as "query", "key", "value", "embedding" or "head", and "all"."""


@dataclass(frozen=True)
class ReplayRecord:
    """One replayed window of training, with the run's own optimizer: whether it hops, is trapped, and moves along the river."""

    step: int
    """Updates made where the window begins."""
    window: int
    loops: int
    directions: int
    """Number of valley directions that are followed: those at the start that turn by less than 30 degrees until the end."""
    degrees: float
    """Largest angle of these directions to the valley at the end; 30 or more where none is left."""
    loss_first: float
    """Loss on the fixed batch at the start of the window."""
    loss_last: float
    """Loss on the fixed batch at the end of the window."""
    flips: tuple[float, ...]
    """Share of updates at which the sign of v_i . g flips, for each direction v_i."""
    flips_low: tuple[float, ...]
    """Lower end of the interval of each of these shares."""
    flips_threshold: float
    """Share above which flips are significant."""
    tortuosity_valley: float
    """tau_V: length of the path across the valley over its net displacement."""
    tortuosity_river: float
    """tau_R: the same along the river."""
    hop_ratio: float
    """Length of the path across the valley over the net displacement along the river."""
    edge: float
    """Median of eta lam_max over its stable limit, with preconditioner and momentum: 1 at the edge."""
    edge_inside: float
    """Share of the window in which that ratio lies in [0.9, 1.1]."""
    batch_sharpness: float | None
    """Edge ratio measured on mini-batches; plain SGD only."""
    cubic_drift: float
    """grad_R lam_1 . h_R; above 0 the valley sharpens along the river, and hopping slows the motion down."""
    valley_class: str
    """Class of the valley: U, V, saddle or indeterminate."""
    hops: bool
    """Whether the window hops between the walls of the valley."""
    flows: bool
    """Whether it is shown to move along the river. False also where that is undecided, see `shown_not`."""
    trapped: bool
    """Whether it is shown to be trapped. False also where that is undecided, see `shown_not`."""
    conditions: dict[str, tuple[ConditionRecord, ...]]
    """Conditions of these three decisions: "hopping", "river" and "trapped"."""
    ablation: str
    """Outcome of the ablation: supported, not supported, opposed, no progress, or why it was not made."""
    progress: dict[str, float]
    """Progress along the river's slope by descent: plain, bulk_only, bulk_on_floor, valley_only, half_rate."""

    def shown_not(self, decision: str) -> bool:
        """Whether the window is shown not to hop ("hopping"), flow ("river") or be trapped ("trapped"): some condition fails."""
        conditions = self.conditions.get(decision, ())
        return any(condition.held is False and condition.words != _EITHER for condition in conditions)


@dataclass(frozen=True)
class TheoremsRecord:
    """Predictions of theorems 1 and 2 for K steps of gradient descent, and the measured values.

    The split into valley and river comes from the previous snapshot; see `thalweg.landscape.theorems.TheoremsAt` for the symbols.
    """

    step: int
    split_step: int
    """Step of the snapshot that the split comes from."""
    rate: float
    """eta."""
    steps: int
    """K."""
    sharpness: float
    """eta lam_max."""
    valley: int
    """Dimension of the valley."""
    river: int
    """Dimension of the river."""
    coupling: float
    """Frobenius norm of the coupling block over that of H."""
    force_predicted: float
    """Norm of the force C_K on the river by its closed form, displacement counted from the valley's floor."""
    force_measured: float
    """Norm of the same force along the descent."""
    force_cosine: float | None
    """Cosine of the two."""
    relative_predicted: float
    """Norm of the force X_K by its closed form, displacement counted from the start."""
    relative_measured: float
    """Norm of the same force along the descent."""
    upper_paper: float
    """The paper's upper bound of the force C_K."""
    upper_best: float
    """The best upper bound of the force C_K."""
    lower_best: float
    """The best lower bound of the force C_K."""
    decrease_predicted: float
    """Decrease of the loss L_0 - L_K by the loss identity."""
    decrease: float
    """Decrease of the loss along the descent."""
    error: float
    """Distance ||e_K|| between the end of the quadratic model and that of the descent."""
    error_bound: float
    """A-posteriori bound of that distance."""
    loss_error: float
    """Difference between the loss of the model and of the descent at the end."""
    loss_error_bound: float
    """Bound of that difference."""


@dataclass(frozen=True)
class LengthRecord:
    """The scores at the end of a run on sequences of one multiple of the training length."""

    step: int
    loops: int
    multiple: int
    length: int
    """Tokens in a sequence."""
    sequences: int
    scores: dict[str, Score]
    """Stratum -> score; strata are quarters of the information content at this length."""
    ceilings: dict[str, Score]
    """Stratum -> best possible score, where the source is known."""
    bits_mean: float | None
    """Information content for each scored token, mean over sequences; None where the source is not known."""
    bits_deviation: float | None
    """Its standard deviation over sequences."""
    shares: dict[str, float]
    """Share of the sequences below the training set's low cut ("low") and above its high cut ("high"), in bits for each token."""
    error: str = ""
    """Why this length could not be scored."""


@dataclass(frozen=True)
class SliceRecord:
    """One plane of the loss; its arrays lie in ``slices/<name>.safetensors``: first, second, losses, path (if any)."""

    name: str
    step: int
    """Step of the point at the plane's centre."""
    names: tuple[str, str]
    """Names of the two directions."""
    held: float | None
    """Share of the trajectory's squared motion that lies in the plane; None where no trajectory is drawn."""
    points: int
    """Points along each side."""


@dataclass(frozen=True)
class NoteRecord:
    """Something that could not be measured, and why."""

    step: int
    part: str
    """Part of the landscape, such as "replays"."""
    words: str
    """The reason as a sentence."""


@dataclass(frozen=True)
class LandscapeSummary:
    """The summary of a complete landscape."""

    points: int
    """Number of points."""
    exact: int
    """Number of points with an exact spectrum."""
    products: int
    """Hessian-vector products of all points."""
    seconds: float
    """Time of the measurement, over all parts and all processes that took part."""
    training_seconds: float | None
    """Training time of the run itself; None while it is in progress."""
    provenance: Provenance
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds by part: spectra, alignment, replays, theorems, lengths, slices."""


@dataclass(frozen=True)
class RunLandscape:
    """The records in ``RUN/landscape``, each kind in the order of steps; ``summary`` is None while it is not complete."""

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
        """File with the spectrum of one point.

        It holds "values" ``(P,)`` of an exact spectrum, or "nodes" and "weights" of a density; and "top" ``(P, k)``, eigenvectors.
        """
        return spectrum_path(self.folder, step)

    def slice_path(self, name: str) -> Path:
        """File with the arrays of one plane, see `SliceRecord`."""
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
"""Type of a line in the journal -> field of `RunLandscape`, and class of its record."""


def spectrum_path(folder: Path, step: int) -> Path:
    """File with the spectrum of the point at ``step``, in a landscape's folder."""
    return folder / "spectra" / f"step-{step:09d}.safetensors"


def slice_path(folder: Path, name: str) -> Path:
    """File with the arrays of the plane ``name``, in a landscape's folder."""
    return folder / "slices" / f"{name}.safetensors"


def arrays_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file of these arrays, with their hash (see `digest`) in its header."""
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    return save(arrays, metadata={"sha256": digest(arrays)})


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the arrays, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def read_arrays(path: Path, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read the arrays of a file that thalweg wrote; empty where there is no file.

    Args:
        path: in a folder of a landscape.
        names: arrays that must be in it.
    Raises:
        DamagedFileError: the file cannot be read, does not match its hash, or lacks one of ``names``.
    """
    if not there(path):
        return {}
    advice = f"run `thalweg landscape {path.parents[2]}` again"
    try:
        refuse_special(path, _MOST_ARRAYS)
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored = (file.metadata() or {}).get("sha256")  # files of earlier versions have none
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedFileError(f"damaged arrays {path}: {error}; {advice}") from None
    if stored not in (None, digest(arrays)):
        raise DamagedFileError(f"damaged arrays {path}: the bytes do not match the hash that was stored with them; {advice}")
    if lacking := [name for name in names if name not in arrays]:
        raise DamagedFileError(f"damaged arrays {path}: expected {', '.join(lacking)}; {advice}")
    return arrays


def number(value: float) -> float | None:
    """The value itself; None in place of NaN and infinity, which records do not hold."""
    return value if math.isfinite(value) else None


def read_landscape(run: Path) -> RunLandscape | None:
    """Read the landscape of a run, complete or in progress; None where none was begun.

    Raises:
        DamagedFileError: a record cannot be read; the message names the file.
    """
    folder = run / "landscape"
    plan, journal, summary = folder / "plan.json", folder / "journal.jsonl", folder / "summary.json"
    if not there(plan) and not there(journal):
        return None
    by_field: dict[str, list[Any]] = {name: [] for name, _ in KINDS.values()}
    lines = read_journal(journal) if there(journal) else []
    for line in lines:
        kind = line.get("type")
        if kind in KINDS:
            name, cls = KINDS[kind]
            by_field[name].append(recorded(cls, {key: value for key, value in line.items() if key != "type"}, journal))
    ordered = {name: tuple(sorted(records, key=lambda record: record.step)) for name, records in by_field.items()}
    end = recorded(LandscapeSummary, read_json(summary), summary) if there(summary) else None
    return RunLandscape(folder, plan_in(folder, lines), **ordered, summary=end)


def plan_in(folder: Path, lines: Sequence[dict[str, Any]]) -> LandscapePlan:
    """The plan of a landscape that was begun, from plan.json; from its journal where that file is damaged or missing.

    Args:
        folder: of the landscape.
        lines: of its journal.
    Raises:
        DamagedFileError: neither holds the plan, or the two plans differ.
    """
    path, values = folder / "plan.json", next((line.get("plan") for line in lines if line.get("type") == "plan"), None)
    begun = None if values is None else recorded(LandscapePlan, values, folder / "journal.jsonl")
    try:
        stored = recorded(LandscapePlan, read_json(path), path)
    except DamagedFileError as error:
        if begun is None:
            damage = str(error).partition("; ")[0]
            raise DamagedFileError(f"{damage}; nothing tells what was measured: move {folder} away and measure again") from None
        warn(f"{str(error).partition('; ')[0]}; the plan is taken from the journal", DamagedRecordWarning)
        return begun
    if begun not in (None, stored):
        raise DamagedFileError(f"damaged record {path}: not the plan that the journal was begun with; remove it and run again")
    return stored


def broken_arrays(landscape: RunLandscape) -> dict[Path, tuple[str, int]]:
    """Check the files of all spectra and planes.

    Returns:
        File that is damaged or missing -> the part ("spectra" or "slices") and the step that it belongs to.
    """
    expected = {landscape.spectrum_path(point.step): ("spectra", point.step) for point in landscape.points}
    expected |= {landscape.slice_path(plane.name): ("slices", plane.step) for plane in landscape.slices}
    broken = {}
    for path, part in expected.items():
        try:
            if not read_arrays(path):
                broken[path] = part
        except DamagedFileError:
            broken[path] = part
    return broken
