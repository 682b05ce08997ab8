"""A sweep over switches that was never run, at any size, for its figures and its page."""

import math
from dataclasses import replace

import numpy as np
from made_up_records import DATA, HERE

from thalweg.intervals import interval
from thalweg.records.experiment import FirstScreen, Outcome, Share, SweepSummary
from thalweg.records.run import Cell, EvaluationRecord, RunRecord, RunSummary, Score, SwitchRecord, Verdict

STEPS, EVERY = 3000, 60
SECONDS = {1: 0.010, 3: 0.021}
AXES = {"delta_loss": (0.005, 0.01, 0.02, 0.05), "delta_grad": (0.02, 0.05, 0.1, 0.2), "patience": (1.0, 3.0, 5.0)}
FEW = {"delta_loss": (0.01, 0.02), "delta_grad": (0.1,), "patience": (3.0,)}
DEFAULTS = {"delta_loss": 0.02, "delta_grad": 0.1, "patience": 3.0}
OTHERS = {
    "onset": ("hard", "ramp-100", "ramp-300", "ramp-600", "cosine-300", "in-turn-300", "in-turn-600"),
    "optimizer": ("moments-reset", "moments-scale-0.1", "rate-0.5", "rewarm-100", "rewarm-300", "rate-0.5-rewarm-100"),
    "stages": ("stages-1-2-3", "stages-1-3-spread-0.3", "stages-2-3"),
    "share": tuple(f"at-{step:05d}" for step in range(140, 3000, 220)),
    "safety": ("net-hard-1", "net-hard-2", "net-ramp-1"),
}

OPENING = FirstScreen(
    "Asked by https://arxiv.org/abs/2510.10089.", ("Loops help.", "Stages save."), "Three seeds.", "Loop on parity."
)


def scores(accuracy: float, loss: float) -> dict:
    return {where: dict.fromkeys(("low", "high", "all"), Score(accuracy, loss)) for where in ("train", "held-out")}


def level(step: float, switch: float, seed: int) -> float:
    """How much is learned: one pass stops at 0.7, three go on to 1 once they are there."""
    slow = 0.7 * (1 - math.exp(-step / 250))
    fast = max(0.0, step - switch)
    return slow + (1 - math.exp(-fast / 500)) * (1 - slow) * 0.95 + 0.004 * math.sin(7 * seed + step / 90)


def run(arm: str, seed: int, switch: int, drop: float = 0.0) -> RunRecord:
    """``switch``: updates with one pass; 0 for Looped, `STEPS` for Single; ``drop`` of the accuracy fades within 100 updates."""

    def at(step: int, lost: float | None = None) -> dict:
        gone = drop * math.exp(-(step - switch) / 60) if lost is None and step > switch > 0 else (lost or 0.0)
        know = level(step, switch, seed)
        return scores(0.85 * know - gone, 2.2 - 1.5 * know + 3 * gone)

    def seconds(step: int) -> float:
        pace = 1 + 0.03 * seed
        return pace * (min(step, switch) * SECONDS[1] + max(0, step - switch) * SECONDS[3])

    evaluations = tuple(
        EvaluationRecord(step, seconds(step), step * 1e9, 1 if step < switch else 3, at(step))
        for step in range(0, STEPS + 1, EVERY)
    )
    switches = ()
    if 0 < switch < STEPS:
        ends = at(switch, 0.0), at(switch, drop)
        switches = (SwitchRecord(switch, seconds(switch), switch * 1e9, 1, 3, "SCP: x", *ends),)
    last = evaluations[-1]
    kept = RunSummary(
        arm, seed, "h", STEPS, last.seconds, 1.0, 3e12, 10, "w", 51, switches, last.scores, scores(0.9, 0.3), DATA, HERE
    )
    return RunRecord(f"{arm}-seed{seed}", evaluations, switches, kept)


def make_runs(seeds: int = 5) -> dict[str, RunRecord]:
    found = []
    for seed in range(seeds):
        switch = 700 + 37 * seed
        found += [run("single", seed, STEPS), run("looped", seed, 0)]
        found += [run("shift", seed, 1), run("shift-scp", seed, switch, 0.01), run("shift-hard", seed, switch, 0.3)]
    return {one.name: one for one in found}


def cell(values: np.ndarray) -> Cell:
    one = interval(list(map(float, values)))
    return Cell(one.mean, one.low, one.high, one.n)


def outcome(name: str, group: str, switch: float, drop: float, seeds: int, settings: dict | None = None) -> Outcome:
    """Numbers that a switch after ``switch`` of `STEPS` updates could have; late ones never reach Looped's loss."""
    noise = np.random.default_rng(sum(map(ord, name))).normal(size=(6, seeds))
    late = switch / STEPS
    whole = 1 - late * 0.52
    share = Share(*spread(whole * (0.85 + 0.02 * noise[0])), seeds, 0)
    if late > 0.55:
        share = Share(0.95 * whole, 0.8 * whole, None, seeds, 1)
    if late > 0.7:
        share = Share(None, 0.8 * whole if late < 0.9 else None, None, seeds, max(1, seeds - 1) if late < 0.9 else seeds)
    ends = {"value": share.value, "low": share.low, "high": share.high}
    return Outcome(
        name,
        group,
        settings or {},
        cell(switch + 30 * noise[1]) if 0 < late < 1 else Cell(None),
        seeds if 0 < late < 1 else 0,
        cell(np.abs(drop + 0.3 * noise[2])) if 0 < late < 1 else Cell(None),
        cell(drop / 20 + 0.01 * noise[3]) if 0 < late < 1 else Cell(None),
        cell(0.76 + 0.2 * late**6 + 0.002 * noise[4]),
        cell(0.81 + 0.002 * noise[4]),
        cell(-0.004 + 0.2 * late**6 + 0.002 * noise[4]),
        share,
        replace(share, **{end: None if value is None else 0.9 * value for end, value in ends.items()}),
        cell(whole + 0.001 * noise[5]),
        cell(whole * 63 + 0.1 * noise[5]),
        cell(whole * 3 + 0.01 * noise[4]),
    )


def spread(values: np.ndarray) -> tuple[float, float, float]:
    one = interval(list(np.log(np.abs(values))))
    low, high = (one.mean if end is None else end for end in (one.low, one.high))
    return math.exp(one.mean), math.exp(low), math.exp(high)


def make_sweep(seeds: int = 5, scp: bool = True, others: bool = True, few: bool = False) -> SweepSummary:
    """The full size: 48 settings of the grid and every other group; ``few``: 2 settings and one of every group."""
    axes = FEW if few else AXES
    ends = {"single": STEPS, "looped": 0, "shift": 1, "shift-scp": 760, "shift-hard": 760}
    found = [outcome(arm, "reference", step, 25.0 if arm == "shift-hard" else 1.0, seeds) for arm, step in ends.items()]
    for a, x in enumerate(axes["delta_loss"] if scp else ()):
        for b, y in enumerate(axes["delta_grad"]):
            for c, z in enumerate(axes["patience"]):
                settings = {"delta_loss": x, "delta_grad": y, "patience": int(z)}
                step = min(STEPS, 3500 * 0.62**a * 0.8**b * 1.35**c)
                found.append(outcome(f"scp-{x:g}-{y:g}-{z:g}", "scp", step, 1 + 2 * a, seeds, settings))
    for group, names in OTHERS.items() if others else ():
        for k, one in enumerate(names[:1] if few else names):
            step = int(one[3:]) if group == "share" else 760 + 40 * k
            found.append(outcome(one, group, step, 25.0 if "hard" in one else 1.0 + k, seeds))
    verdicts = (
        Verdict(
            "Does a ramp spare the drop?", "Yes: the ramp loses less.", numbers={"ramp": Cell(1.0, 0.8, 1.2, 5), "hard": Cell(25.0)}
        ),
        Verdict(
            "When is it best to switch?", "After a third of the updates.", numbers={f"after {k}": Cell(k / 9) for k in range(5)}
        ),
    )
    setup = {
        "Data": "Markov language, 16 tokens",
        "Model": "attention-only, width 24, 1 or 3 passes",
        "Training": "3,000 updates of 128 sequences, AdamW, rate 0.003",
        "Seeds": ", ".join(map(str, range(seeds))),
    }
    return SweepSummary(
        "demo", "markov", "quick", 3, tuple(range(seeds)), True, (), tuple(found), axes, DEFAULTS, verdicts, setup, HERE,
        {arm: arm for arm in ends}, command="thalweg shift-sweep markov --preset quick", first=OPENING,
    )  # fmt: skip
