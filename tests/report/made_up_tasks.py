"""A study of algorithmic tasks that was never run, at any size, for its figures and its page."""

import math

import numpy as np
from made_up_records import HERE
from made_up_sweeps import OPENING, cell

from thalweg.records.experiment import Share, TaskOutcome, TaskStudySummary
from thalweg.records.run import Cell, EvaluationRecord, RunRecord, RunSummary, Score, SwitchRecord, Verdict

TASKS = ("parity", "copy", "addition", "binary-sum", "multiplication", "unique-set")
ARMS = ("single", "looped", "shift", "shift-hard", "next-token", "fixed", "random")
LONGEST, STEPS, EVERY = 20, 6000, 100
LENGTHS = (5, 10, 15, 20, 25, 30, 35, 40)
REACH = {"single": 9, "looped": 36, "shift": 35, "shift-hard": 31, "next-token": 14, "fixed": 22, "random": 38}
"""Length at which half of the answers are right, before the task makes it harder."""
SWITCH = 1500


def rng(*words) -> np.random.Generator:
    return np.random.default_rng([sum(map(ord, str(word))) for word in words])


def loops_at(task: str, length: int) -> int:
    return 2 * length if task == "multiplication" else length + (task == "addition")


def falling(task: str, arm: str, seed: int, length: int, ratio: float = 1.0) -> float:
    """Exact match: near 1 in range, falling beyond with a place that varies by seed; ``ratio``: passes over T(n)."""
    half = REACH[arm] - 4 * ("u" in task) + 4 * rng(task, arm, seed).normal()
    level = 1 / (1 + math.exp(min(50.0, 0.5 * (length - half))))
    return level * max(0.0, 1 - abs(ratio - 1) ** 1.5 * (4 if ratio < 1 else 1 + length / LONGEST))


def outcome(task: str, arm: str, seeds: int, place: int) -> TaskOutcome:
    def table(number) -> tuple:
        return tuple(tuple(number(seed, n) for seed in range(seeds)) for n in LENGTHS)

    def near(seed: int, n: int, spread: float) -> float:
        return min(1.0, max(0.0, falling(task, arm, seed, n) + spread * (n / 40) ** 2 * rng(task, seed, n).normal()))

    looping = arm not in ("single", "next-token")
    loops = [loops_at(task, n) if looping else 1 for n in LENGTHS]
    noise = rng(task, arm).normal(size=(4, seeds))
    switches = arm in ("shift", "shift-hard")
    return TaskOutcome(
        task,
        arm,
        tuple(range(seeds)),
        cell(np.array([np.mean([falling(task, arm, seed, n) for n in range(1, 21)]) for seed in range(seeds)])),
        LENGTHS,
        tuple(loops),
        1000,
        table(lambda seed, n: falling(task, arm, seed, n)),
        table(lambda seed, n: near(seed, n, 0.03)),
        table(lambda seed, n: near(seed, n, 0.06)),
        {
            str(n): tuple(
                tuple(falling(task, arm, seed, n, k / own) for seed in range(seeds)) for k in range(1, math.ceil(1.5 * own) + 1)
            )
            for n, own in zip(LENGTHS, loops, strict=True)
        },
        cell(SWITCH + 50 * noise[0]) if switches else Cell(None),
        cell(np.abs((22.0 if arm == "shift-hard" else 0.8) + noise[1])) if switches else Cell(None),
        cell((0.9 if arm == "shift-hard" else 0.0) + 0.01 * np.abs(noise[1])) if switches else Cell(None),
        share(task, arm, seeds, place),
        share(task, arm, seeds, place),
        cell(ends(task, arm) * (1 + 0.02 * noise[2])),
        cell(ends(task, arm) / 10 + 0.01 * noise[3]),
    )


def share(task: str, arm: str, seeds: int, place: int) -> Share | None:
    """Of Looped's time: sooner on the first tasks, later on the last ones, never for arms with one pass."""
    if arm == "looped":
        return Share(1.0, 1.0, 1.0, seeds, 0) if seeds > 1 else Share(1.0, None, None, 1, 0)
    if arm in ("single", "next-token") or (task, arm) == ("unique-set", "shift-hard"):
        return Share(None, None, None, seeds, seeds)
    value = (0.55 if arm == "shift" else 0.7) + 0.12 * place
    if (task, arm) == ("multiplication", "shift-hard") and seeds > 1:
        return Share(1.2, 0.9, None, seeds, 1)
    return Share(value, value / 1.2, value * 1.2, seeds, 0) if seeds > 1 else Share(value, None, None, 1, 0)


def ends(task: str, arm: str) -> float:
    """Seconds of a whole run."""
    whole = 60.0 * loops_at(task, 10) / 10
    return {"single": 0.3, "next-token": 0.3, "shift": 0.8, "shift-hard": 0.75}.get(arm, 1.0) * whole


def run(task: str, arm: str, seed: int) -> RunRecord:
    switches = arm in ("shift", "shift-hard")
    switch = SWITCH + 70 * seed if switches else STEPS if arm == "single" else 0
    top = np.mean([falling(task, arm, seed, n) for n in range(1, 21)])

    def at(step: int, lost: float = 0.0) -> dict:
        slow, fast = 1 - math.exp(-step / 500), 1 - math.exp(-max(0, step - switch) / 1200)
        level = 0.45 * top * slow + fast * (1 - 0.45) * top
        gone = lost + (0.22 * level * math.exp(-(step - switch) / 90) if arm == "shift-hard" and step > switch else 0.0)
        return {"held-out": dict.fromkeys(("all", "5"), Score(max(0.0, level - gone), 1.5 * (1 - level) + gone))}

    whole = ends(task, arm) * (1 + 0.03 * seed)
    evaluations = tuple(
        EvaluationRecord(step, whole * step / STEPS, step * 1e9, 1 if step < switch else 20, at(step))
        for step in range(0, STEPS + 1, EVERY)
    )
    seconds = whole * switch / STEPS
    lost = 0.22 * at(switch)["held-out"]["all"].accuracy if arm == "shift-hard" else 0.0
    record = SwitchRecord(switch, seconds, switch * 1e9, 1, 20, "SCP: x", at(switch), at(switch, lost))
    made = (record,) if switches else ()
    last = evaluations[-1]
    kept = RunSummary(
        arm, seed, "h", STEPS, last.seconds, 1.0, 6e12, 10, "w", len(evaluations), made, last.scores, {}, {"kind": "task"}, HERE
    )
    return RunRecord(f"{task}-{arm}-seed{seed}", evaluations, made, kept)


def make_task_runs(tasks: tuple[str, ...] = TASKS, arms: tuple[str, ...] = ARMS, seeds: int = 3) -> dict[str, RunRecord]:
    found = [run(task, arm, seed) for task in tasks for arm in arms for seed in range(seeds)]
    return {one.name: one for one in found}


def make_tasks(tasks: tuple[str, ...] = TASKS, arms: tuple[str, ...] = ARMS, seeds: int = 3) -> TaskStudySummary:
    verdicts = (
        Verdict(
            "On which tasks does SHIFT reach Looped's exact match in 70 % of its time?",
            "parity, copy; not in every run: unique-set (3 of 3 never)",
            numbers={f"share of time, {task}": Cell(0.55 + 0.1 * place, 0.5, 0.9, seeds) for place, task in enumerate(tasks)},
        ),
        Verdict("Is the drop at SHIFT's switch at most 1 point on every task?", "yes", numbers={"drop, parity, shift": Cell(0.8)}),
    )
    words = {
        "Data": "drawn afresh for every update: length uniform from 1 to a maximum that grows from 3 to 20",
        "Model": "GPT-2-style block, width 64, 4 heads, no positions, input injection",
        "Training": "6000 updates of 64 samples, AdamW at rate 0.001",
        "Arms": "single = 1 pass; looped = T(n) passes",
        "Seeds": f"{seeds} ({', '.join(map(str, range(seeds)))}), paired",
    }
    return TaskStudySummary(
        "demo", "paper", tasks, arms, tuple(range(seeds)), True, (), dict.fromkeys(tasks, LONGEST),
        tuple(outcome(task, arm, seeds, place) for place, task in enumerate(tasks) for arm in arms), verdicts, words, HERE,
        f"thalweg study tasks --preset paper --task {','.join(tasks)} --seeds {seeds}", first=OPENING,
    )  # fmt: skip
