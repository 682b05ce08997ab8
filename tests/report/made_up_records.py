"""Records of a study that was never run, for figures and pages."""

import math

from thalweg.records.run import (
    Cell,
    EvaluationRecord,
    Provenance,
    RunRecord,
    RunSummary,
    Score,
    StudySummary,
    SwitchRecord,
    Verdict,
)

HERE = Provenance("0", "abc", "2", "3", "Linux", "cpu", "float32", 1)
CURVE = {"accuracy_by_position": [0.9] * 10, "loss_by_position": [0.5] * 10}
DATA = {
    "kind": "markov",
    "cuts_bits": [2.0, 9.0],
    "long_tail": {
        "mean": 5.0, "median": 4.0, "deviation": 3.0, "skewness": 1.0, "top_quarter_share": 0.5, "top_tenth_share": 0.3,
    },
    "histogram": {"counts": [5.0, 3.0, 1.0], "edges_bits": [0.0, 5.0, 10.0, 15.0]},
    "ceilings": {"train": dict.fromkeys(("low", "high", "all"), CURVE)},
}  # fmt: skip
ARMS = {"single": 0.5, "looped": 0.8, "shift": 1.0, "shift-hard": 0.7, "single-rescaled": 0.6, "single-flops": 0.55}
"""Arm -> how fast it learns."""


def run(arm: str, seed: int, speed: float) -> RunRecord:
    evaluations = []
    for step in range(0, 1001, 50):
        level = 1 - math.exp(-step * speed / 300)
        scores = {
            where: {
                "low": Score(0.98 * level + 0.01 * seed, 1 - level),
                "high": Score(0.6 * level + 0.01 * seed, 2 - level),
                "all": Score(0.8 * level, 1.5 - level + 0.01 * seed),
            }
            for where in ("train", "held-out")
        }
        evaluations.append(EvaluationRecord(step, step * (0.01 + 0.001 * seed), step * 1e9, 1, scores))
    last = evaluations[-1].scores
    switches = (SwitchRecord(300, 3.0, 3e11, 1, 3, "SCP: x", last, last),) if "shift" in arm else ()
    ceilings = {w: dict.fromkeys(("low", "high", "all"), Score(0.9, 0.3)) for w in ("train", "held-out")}
    summary = RunSummary(arm, seed, "h", 1000, 10.0, 1.0, 1e12, 10, "w", 21, switches, last, ceilings, DATA, HERE)
    return RunRecord(f"{arm}-seed{seed}", tuple(evaluations), switches, summary)


def make_runs() -> dict[str, RunRecord]:
    """Three seeds of every arm."""
    return {f"{arm}-seed{seed}": run(arm, seed, speed) for arm, speed in ARMS.items() for seed in range(3)}


def make_summary(runs: dict[str, RunRecord], task: str = "markov", name: str = "demo") -> StudySummary:
    arms = tuple(dict.fromkeys(r.summary.arm for r in runs.values() if r.summary))
    columns = {"train high accuracy": "train high acc.", "seconds": "training (s)", "teraflops": "TFLOP"}
    columns |= {"held-out bits": "bits", "target seconds": "to target"}
    row = dict.fromkeys(columns, Cell(0.5, 0.4, 0.6, 3, 0.7)) | {"target seconds": Cell(None)}
    verdict = Verdict("a claim", "supported", "a test", {"difference": Cell(0.1, 0.05, 0.15, 3)})
    setup = dict.fromkeys(("Data", "Model", "Training", "Arms", "Seeds"), "words")
    return StudySummary(
        name, "quick", task, arms, (0, 1, 2), True, (), dict.fromkeys(arms, row), columns, (verdict,), setup, "target", HERE
    )
