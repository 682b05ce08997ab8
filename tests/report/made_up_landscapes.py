"""Landscapes of runs that were never made, on the disk, for figures and pages."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from thalweg.records.landscape import (
    AlignmentRecord,
    ChangeRecord,
    GroupRecord,
    LandscapePlan,
    LandscapeRecord,
    Measure,
    RunLandscape,
    SliceRecord,
    SplitRecord,
    read_landscape,
)
from thalweg.serialization import to_dict
from thalweg.storage import Journal, write_json

STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1600)
DIM = 60
GROUPS = ("query", "key", "value", "embedding", "head", "all")


def spectrum(step: int, seed: int, speed: float) -> np.ndarray:
    """A bulk around zero, a valley that grows and spreads, and a ridge that fades; ``(DIM,)``."""
    g, age = np.random.default_rng([seed, step]), np.log1p(step) * speed
    river = g.normal(size=DIM // 2) * 1e-4
    valley = 10.0 ** np.linspace(-1.5, -0.5 + 0.2 * age, DIM // 2 - 6) * np.exp(0.1 * g.normal(size=DIM // 2 - 6))
    ridge = -(10.0 ** np.linspace(-2.5, 0.3 - 0.15 * age, 6))
    return np.sort(np.concatenate([river, valley, ridge]))


def split(values: np.ndarray) -> SplitRecord:
    epsilon = 3e-3
    valley, ridge = int((values > epsilon).sum()), int((values < -epsilon).sum())
    rules = {"machine_floor": 1e-12, "log_gap": epsilon}
    river = len(values) - valley - ridge
    return SplitRecord(epsilon, "log_gap", rules, 1.2, valley, river, ridge, 30.0, 15.0, 1.0, 0.02, "V", ())


def change(before: int, step: int, age: float, error: float) -> ChangeRecord:
    information = Measure(0.4 + 0.2 * age, error) if step != 5 else None
    near = Measure(0.9, error)
    return ChangeRecord(before, near, near, information, 0.3, 0.1, 1 - np.exp(-0.4 * age), 0.2)


def point(step: int, before: int | None, seed: int, speed: float, exact: bool) -> LandscapeRecord:
    values, error = spectrum(step, seed, speed), 0.0 if exact else 0.1
    shares = np.abs(values) / np.abs(values).sum()
    whole = Measure(float(values.sum()), error)
    return LandscapeRecord(
        step=step,
        how="exact" if exact else "matrix-free",
        reason="made up",
        dim=DIM,
        products=DIM,
        seconds=0.1,
        loss=2.0,
        gradient_norm=0.1,
        largest=tuple(float(v) for v in values[::-1][:3]),
        smallest=float(values[0]),
        trace=whole,
        frobenius=whole,
        entropy=Measure(float(-(shares * np.log(shares)).sum()), error),
        entropies={},
        negative_mass=Measure(0.05, error),
        above_one=Measure(float((values > 1).sum()), 10 * error),
        resolution=None if exact else 0.02,
        imbalance=None,
        split=split(values) if exact else None,
        change=None if before is None else change(before, step, np.log1p(step) * speed, error),
        loops=1 if step < 100 or speed < 0.7 else 3,
    )


def alignment(step: int, seed: int, speed: float) -> AlignmentRecord:
    groups = {}
    for number, name in enumerate(GROUPS):
        cosine = float(np.cos(0.2 * speed * np.log1p(step) * (0.4 + 0.3 * number)) + 0.01 * seed)
        opposed = float(np.clip(0.5 - 0.5 * cosine, 0, 1))
        groups[name] = GroupRecord(None if step == 5 else min(cosine, 1.0), 2.0, -0.5, 0.0, 0.8, opposed)
    return AlignmentRecord(step, 3, 64, 2.0, 2.5, groups)


def write_spectrum(landscape: RunLandscape, step: int, values: np.ndarray, exact: bool) -> None:
    path = landscape.spectrum_path(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    if exact:
        save_file({"values": values}, path)
    else:
        nodes = np.stack([values[::4], values[1::4]])
        save_file({"nodes": nodes, "weights": np.full(nodes.shape, 1 / nodes.shape[1])}, path)


def write_plane(landscape: RunLandscape, name: str, path: np.ndarray | None, hole: bool = False) -> dict[str, np.ndarray]:
    """A bent valley of another number of places along each direction."""
    first, second = np.linspace(-4, 2, 25), np.linspace(-2, 1, 19)
    a, b = np.meshgrid(first, second, indexing="ij")
    made = {"first": first, "second": second, "losses": 1 + 0.02 * a**2 + (b - 0.1 * a**2 + 0.3 * a) ** 2}
    made |= {} if path is None else {"path": path}
    if hole:
        made["losses"][0, 0] = np.nan
    (landscape.folder / "slices").mkdir(parents=True, exist_ok=True)
    save_file(made, landscape.folder / "slices" / f"{name}.safetensors")
    return made


def trajectory(count: int = 12) -> np.ndarray:
    """From far away into the middle, ``(count, 2)``."""
    a = -3.5 * np.exp(-np.linspace(0, 4, count))
    return np.stack([a, 0.1 * a**2 - 0.3 * a - 0.5 * (-1.0) ** np.arange(count) * np.exp(-np.linspace(0, 3, count))], axis=1)


def make_landscape(
    run: Path, seed: int = 0, speed: float = 0.5, exact: int = 9, steps: tuple[int, ...] = STEPS, planes: bool = True
) -> RunLandscape:
    """A landscape whose first ``exact`` points have exact spectra, written and read back."""
    folder = run / "landscape"
    folder.mkdir(parents=True)
    write_json(folder / "plan.json", to_dict(LandscapePlan()))
    records: list[tuple[str, object]] = []
    for number, step in enumerate(steps):
        made = point(step, steps[number - 1] if number else None, seed, speed, number < exact)
        records += [("point", made), ("alignment", alignment(step, seed, speed))]
        write_spectrum(RunLandscape(folder, LandscapePlan()), step, spectrum(step, seed, speed), number < exact)
    if planes:
        records += [("slice", SliceRecord("random", steps[-1], ("random 1", "random 2"), None, 25))]
        records += [("slice", SliceRecord("path", steps[-1], ("PC 1", "PC 2"), 0.93, 25))]
        write_plane(RunLandscape(folder, LandscapePlan()), "random", None)
        write_plane(RunLandscape(folder, LandscapePlan()), "path", trajectory())
    journal = Journal(folder / "journal.jsonl")
    for kind, record in records:
        journal.append({"type": kind} | to_dict(record))
    journal.close()
    found = read_landscape(run)
    assert found is not None
    return found
