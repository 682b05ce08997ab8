"""Records of runs and landscapes that were never measured, with an answer planted in them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from thalweg.experiments.paper.evidence import Evidence, Finding, Rule, judged
from thalweg.landscape.threshold import threshold
from thalweg.records.landscape import (
    AlignmentRecord,
    ChangeRecord,
    ConditionRecord,
    GroupRecord,
    LandscapePlan,
    LandscapeRecord,
    LengthRecord,
    Measure,
    ReplayRecord,
    RunLandscape,
    SplitRecord,
    TheoremsRecord,
)
from thalweg.records.run import Cell, EvaluationRecord, RunRecord, Score

END = 3000
NOISE = (-0.5, 0.3, 0.9, -0.2, -0.5)
"""One number a seed, of mean 0."""


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and ends by scipy."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(np.mean(values)), float(low), float(high)


def ends(cell: Cell) -> tuple[float | None, float | None, float | None]:
    return cell.mean, cell.low, cell.high


def ask(rule: Rule, runs: dict | None = None, landscapes: dict | None = None, spectra: dict | None = None) -> Finding:
    """What a rule finds; spectra by (arm, seed, step)."""
    return judged(rule, Evidence(runs or {}, landscapes or {}, lambda *key: (spectra or {}).get(key)))


def seeds(make: Callable[[int], object], count: int = 5) -> dict:
    return {seed: make(seed) for seed in range(count)}


def run(low=None, high=None, loss=lambda step: 1.0) -> RunRecord:
    """A run whose accuracies by stratum and loss are functions of the step."""
    records = []
    for step in range(0, END + 1, 100):
        held = {"all": Score(0.5, float(loss(step)))}
        held |= {name: Score(float(f(step)), 1.0) for name, f in (("low", low), ("high", high)) if f is not None}
        records.append(EvaluationRecord(step, 0.0, 0.0, 1, {"held-out": held}))
    return RunRecord("r", tuple(records), (), None)


def landscape(**parts) -> RunLandscape:
    return RunLandscape(Path("nowhere"), LandscapePlan(dtype="float64"), **{k: tuple(v) for k, v in parts.items()})


def point(
    step: int,
    entropy: float = 3.0,
    largest: float = 1.0,
    kappa_q: float | None = None,
    how: str = "exact",
    cosine: float | None = None,
    epsilon: float = 0.01,
) -> LandscapeRecord:
    one = Measure(1.0)
    split = None if kappa_q is None else SplitRecord(epsilon, "log_gap", {}, 1.0, 5, 5, 0, kappa_q, kappa_q, 0.1, 0.0, "U", ())
    change = None if cosine is None else ChangeRecord(0, Measure(cosine), one, None, None, None, 1.0, 0.0)
    return LandscapeRecord(
        step, how, "", 10, 10, 0.1, 1.0, 1.0, (largest,), -0.1, one, one, Measure(entropy), {}, one, one, None, None, split, change
    )  # type: ignore[arg-type]


def spectrum(kappa: float, negative: float = 0.0, valley: int = 12, river: int = 12) -> torch.Tensor:
    """A valley from 1 to kappa (log-uniform), a wide gap, a river of 1e-6; ``negative`` is one eigenvalue below zero."""
    high = torch.logspace(0, np.log10(kappa), valley, dtype=torch.float64)
    found = torch.cat([high, torch.full((river,), 1e-6, dtype=torch.float64)])
    return torch.cat([found, torch.tensor([-negative], dtype=torch.float64)]) if negative else found


def exact(arm: str, rows: dict[int, torch.Tensor], steps: Sequence[int] = (END,)) -> tuple[dict, dict]:
    """Landscapes with exact points at the steps, and their spectra."""
    landscapes, spectra = {}, {}
    for seed, values in rows.items():
        epsilon = threshold(values).epsilon
        landscapes[seed] = landscape(points=[point(step, kappa_q=1.0, epsilon=epsilon) for step in steps])
        spectra |= {(arm, seed, step): values for step in steps}
    return {arm: landscapes}, spectra


def replay(step: int = END - 100, hops: bool = False, trapped: bool = False, ablation: str = "not made") -> ReplayRecord:
    conditions = {
        "trapped": (ConditionRecord("edge ratio < 0.5", True, 0.1), ConditionRecord("class U", trapped, float(trapped))),
        "hopping": (ConditionRecord("tau_V >= 2", hops, 2.0),),
    }
    return ReplayRecord(
        step, 100, 1, 5, 1.0, 2.0, 1.9, (), (), 0.5, 1.0, 1.0, 1.0, 0.4, 0.0, None, 0.0, "U", hops, False, trapped, conditions,
        ablation, {},
    )  # fmt: skip


def theorems(step: int, force: float, decrease: float = 1.0, bound: float = 1.0, relative: float = 1.0) -> TheoremsRecord:
    return TheoremsRecord(
        step, 0, 1e-3, 20, 0.1, 5, 5, 0.1, force, force, 1.0, relative, relative, bound, bound, 0.0, decrease, decrease,
        0.0, 0.0, 0.0, 0.0,
    )  # fmt: skip


def alignment(step: int, cosines: dict[str, float | None], opposed: float = 0.0) -> AlignmentRecord:
    groups = {name: GroupRecord(cosine, 1.0, 0.0, 0.0, 0.0, opposed) for name, cosine in cosines.items()}
    return AlignmentRecord(step, 3, 8, 1.0, 1.0, groups)


def length(multiple: int, accuracy: float | None, stratum: str = "high", shares: tuple[float, float] | None = None) -> LengthRecord:
    """Of the end; one without an accuracy could not be scored."""
    scores = {} if accuracy is None else {stratum: Score(accuracy, 1.0), "all": Score(0.1, 1.0)}
    ceilings = {stratum: Score(0.9 + 0.01 * multiple, 0.1)}
    low_high = {} if shares is None else dict(zip(("low", "high"), shares, strict=True))
    bits = None if shares is None else 2.0
    error = "too long" if accuracy is None else ""
    return LengthRecord(END, 1, multiple, 12 * multiple, 100, scores, ceilings, bits, bits, low_high, error)
