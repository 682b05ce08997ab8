"""Every file of a run, a task's run, a study, a study of tasks and a sweep, damaged in eight ways, then every command again.

The long form, from the repository's root; the folder is made anew and may be removed afterwards:

    python tests/hostile/damage.py FOLDER [SEED] [CASES]

It prints a line for every case that did something that it may not (traceback, hang, more than one line of refusal, something intact
lost or changed, a run lost) and the counts at the end; exit code 1 where there is one. CASES takes a sample of so many.
"""

import hashlib
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from attempts import Outcome, attempt, emptied
from safetensors.numpy import save

import thalweg.experiments.paper.definition
import thalweg.experiments.switching.definition
import thalweg.experiments.tasks.definition
import thalweg.report.landscape.figures
import thalweg.report.page
import thalweg.survey.command
from thalweg.experiments.paper import recipes
from thalweg.experiments.paper.recipes import Preset
from thalweg.experiments.switching import variants
from thalweg.experiments.tasks import recipes as task_recipes
from thalweg.records.landscape import LandscapePlan

RUN = """
arm = "shift"
[data]
kind = "markov"
sequences = 120
held_out = 64
[model]
length = 11
width = 8
positions = "rotary"
[shift]
stages = [1, 3]
[shift.criterion]
kind = "at-step"
step = 12
[shift.onset]
kind = "ramp"
steps = 10
[training]
steps = 60
batch = 16
evaluate_every = 10
checkpoint_every = 15
log_every = 5
snapshots = 4
device = "cpu"
threads = 1
"""
TASK = """
[data]
kind = "task"
longest = 4
tests = 20
samples = 4
[model]
vocabulary = 3
length = 12
width = 8
positions = "none"
[shift]
stages = [1, 4]
[shift.criterion]
kind = "at-step"
step = 12
[shift.onset]
kind = "hard"
[training]
steps = 40
batch = 8
evaluate_every = 10
checkpoint_every = 10
snapshots = 3
device = "cpu"
threads = 1
"""
PLAN = LandscapePlan(checkpoints=3, exact_seconds=0, top=2, lanczos=8, probes=2, replays=1, window=20, lengths=(1,), sequences=8)
LANDSCAPE = ["--exact-seconds", "0", "--replays", "1", "--window", "20", "--sequences", "8", "--lengths", "1"]
STUDY = ["study", "markov", "--preset", "quick", "--jobs", "1"]
TASKS = ["study", "tasks", "--preset", "quick", "--task", "parity", "--arms", "single,looped", "--jobs", "1", "--device", "cpu"]
SWEEP = ["shift-sweep", "markov", "--preset", "quick", "--groups", "none", "--jobs", "1", "--device", "cpu"]
Tried = tuple[list[str], Outcome, list[str]]
"""Command, how it ended, and what it did that it may not."""
COMMANDS: dict[str, Callable[[Path], list[list[str]]]] = {
    "run": lambda at: [["train", str(at.parent / "run.toml"), "--out", str(at)], ["landscape", str(at), *LANDSCAPE]],
    "done": lambda at: [["train", str(at.parent / "run.toml"), "--out", str(at)]],
    "cut": lambda at: [["train", str(at.parent / "run.toml"), "--out", str(at)]],
    "task": lambda at: [["train", str(at.parent / "task.toml"), "--out", str(at)]],
    "study": lambda at: [["report", str(at)], [*STUDY, "--out", str(at)]],
    "tasks": lambda at: [["report", str(at)], [*TASKS, "--out", str(at)]],
    "sweep": lambda at: [["report", str(at)], [*SWEEP, "--out", str(at)]],
}
"""Kind of folder -> commands that are given again."""


def small_presets() -> None:
    """Presets of seconds, of which the commands take one."""
    landscapes = {"markov": (PLAN, None)}
    recipes.PRESETS["quick"] = Preset(1, ("single", "looped"), {"markov": 48, "text": 40}, landscapes)
    task_recipes.PRESETS["quick"] = replace(task_recipes.PRESETS["quick"], seeds=1, steps=40, longest=4, width=8, batch=8)
    variants.PRESETS["quick"] = replace(variants.PRESETS["quick"], seeds=1, steps={"markov": 48})


DRAWN = {
    (thalweg.survey.command, "run_figures"): lambda *_: [],
    (thalweg.experiments.paper.definition, "write_report"): lambda *_: None,
    (thalweg.experiments.tasks.definition, "write_task_report"): lambda *_: None,
    (thalweg.experiments.switching.definition, "write_sweep_report"): lambda *_: None,
}
"""What draws, which takes seconds, and what stands in its place where no figure is damaged."""
ORIGINAL = {place: getattr(*place) for place in DRAWN}


def draw(on: bool) -> None:
    """Whether commands draw."""
    for place, other in DRAWN.items():
        setattr(*place, ORIGINAL[place] if on else other)


def prepared(folder: Path, kinds: tuple[str, ...]) -> dict[str, Path]:
    """Intact folders of the kinds."""
    (folder / "run.toml").write_text(RUN)
    (folder / "task.toml").write_text(TASK)
    found = {kind: folder / kind for kind in kinds}
    for kind, at in found.items():
        for command in reversed(COMMANDS[kind](at)) if kind not in ("run",) else COMMANDS[kind](at):
            made = attempt(command, folder / "log", 600)
            assert made.code == 0, made.text
        if kind == "cut":
            cut_short(at)
    return found


def cut_short(run: Path) -> None:
    """A run as it is when it is killed after update 50."""
    (run / "summary.json").unlink()
    (run / "checkpoints" / "step-000000060.safetensors").unlink()
    (run / "snapshots" / "step-000000060.safetensors").unlink()


def files_of(at: Path) -> list[Path]:
    """What can be damaged, relative to the folder: files and folders."""
    return sorted(path.relative_to(at) for path in at.rglob("*") if not path.name.endswith(".tmp"))


def nested(depth: int) -> str:
    """A list in a list in a list ..."""
    return "[" * depth + "]" * depth


def of_another_shape(path: Path, content: bytes, rng: random.Random) -> bytes:
    """A valid file of its kind that does not hold what it should."""
    if path.suffix == ".safetensors":
        return save({"a": np.ones(3)}, metadata={"thalweg": rng.choice(["[]", "{}", '{"format": 1, "step": "x"}', nested(5000)])})
    if path.suffix == ".toml":
        return rng.choice([b"a = 1", b"seed = nan", b"[training]\nsteps = 7", f"a = {nested(5000)}".encode(), b"seed = 0"])
    values = [b"[]", b"{}", b'{"a": NaN}', b"3", b'"x"', b"null", nested(5000).encode(), nested(60).encode(), b'{"type": "point"}']
    if content.strip().startswith(b"{") and path.suffix == ".json":
        value = json.loads(content)
        key = rng.choice(sorted(value))
        values += [json.dumps(value | {key: other}).encode() for other in (None, [], {}, "x", -1, 1e308, True, [[[]]])]
    if path.suffix == ".jsonl" and content:
        lines = content.splitlines(keepends=True)
        lines[len(lines) // 2] = rng.choice(values) + b"\n"
        return b"".join(lines)
    return rng.choice(values) + b"\n"


def flipped(content: bytes, rng: random.Random) -> bytes:
    """The same with one bit changed."""
    changed, place = bytearray(content or b"x"), rng.randrange(max(1, len(content)))
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def write(path: Path, content: bytes) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(content)


def removed(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def content_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    removed(path)
    make(path)


WAYS: dict[str, Callable[[Path, random.Random], object]] = {
    "emptied": lambda path, rng: write(path, b""),
    "cut": lambda path, rng: write(path, content_of(path)[: len(content_of(path)) // 2]),
    "flipped": lambda path, rng: write(path, flipped(content_of(path), rng)),
    "noise": lambda path, rng: write(path, rng.randbytes(max(40, min(4000, len(content_of(path)))))),
    "folder": lambda path, rng: in_place_of(path, Path.mkdir),
    "deleted": lambda path, rng: removed(path),
    "link": lambda path, rng: in_place_of(path, lambda at: at.symlink_to(rng.choice(["nowhere", at.name]))),
    "shape": lambda path, rng: write(path, of_another_shape(path, content_of(path), rng)),
    "pipe": lambda path, rng: in_place_of(path, os.mkfifo),
}
"""Eight ways, and a pipe in the place of a file."""
DERIVED = ("summary.json", "verdicts.json", "figures", "report.html", ".lock", "stderr.log", "lengths.json")
"""What is made again, and so may change."""


def prints(at: Path) -> dict[str, str]:
    """Hash of every file that is not made again."""
    return {
        str(path.relative_to(at)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(at.rglob("*"))
        if path.is_file() and not path.is_symlink() and not any(part in DERIVED for part in path.relative_to(at).parts)
    }


def lost(before: dict[str, str], after: dict[str, str], damaged: str, kind: str) -> list[str]:
    """Intact files that are gone or changed, neither beside their place nor anywhere else; what goes on may grow."""
    kept = set(after.values())
    grows = ("metrics.jsonl", "journal.jsonl", "checkpoints/") if kind == "cut" or "checkpoints" in damaged else ("journal.jsonl",)
    again = ("landscape/",) if "landscape" in damaged else ()
    return [
        name
        for name, hashed in before.items()
        if hashed not in kept
        and name != damaged
        and not name.startswith(f"{damaged}/")
        and not any(part in name for part in (*grows, *again))
    ]


def weights(run: Path) -> str:
    """Of a complete run."""
    return json.loads((run / "summary.json").read_text())["weights_sha256"]


def tried(
    kind: str, intact: Path, target: Path, way: str, rng: random.Random, log: Path
) -> list[tuple[list[str], Outcome, list[str]]]:
    """Every command after one damage: command, outcome, faults."""
    at = intact.parent / "spoiled"
    removed(at) if at.is_symlink() or at.is_file() else shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(intact, at, symlinks=True)
    WAYS[way](at / target, rng)
    draw("figures" in target.parts or target.name == "report.html")
    before, found = prints(at), []
    for command in COMMANDS[kind](at):
        made = attempt(command, log, 120)
        faults = made.faults + [f"lost {name}" for name in lost(before, prints(at) if at.is_dir() else {}, str(target), kind)]
        if command[0] == "train":
            if made.code == 0 and weights(at) != WEIGHTS[kind]:
                faults.append("other weights")
            if made.code != 0 and goes_on(target, way):
                faults.append("run lost")
        found.append((command, made, faults))
    return found


def goes_on(target: Path, way: str) -> bool:
    """Whether a run whose checkpoints are intact has to go on: where its lock or log is no file that is for the user to see to."""
    return target.parts[0] not in (".lock", "checkpoints", "snapshots") or len(target.parts) > 1


WEIGHTS: dict[str, str] = {}
"""Kind of folder -> those of the run when nothing was damaged."""


def cases_of(kinds: dict[str, Path], rng: random.Random, count: int) -> list[tuple[str, Path, str]]:
    """Kind, file, way: all, or a sample."""
    every = [(kind, target, way) for kind, at in kinds.items() for target in files_of(at) for way in WAYS]
    every = [one for one in every if "figures" not in one[1].parts or (len(one[1].parts) < 3 and one[2] in ("folder", "emptied"))]
    rng.shuffle(every)
    return every[:count] if count else every


def main(folder: Path, seed: int = 0, count: int = 0) -> int:
    """The long form."""
    small_presets()
    rng = random.Random(seed)
    kinds = prepared(emptied(folder), tuple(COMMANDS))
    WEIGHTS.update({kind: weights(kinds["run" if kind == "cut" else kind]) for kind in ("run", "done", "cut", "task")})
    counts: Counter[str] = Counter()
    print(f"{len(cases_of(kinds, random.Random(seed), count))} cases", flush=True)
    for kind, target, way in cases_of(kinds, rng, count):
        for command, made, faults in tried(kind, kinds[kind], target, way, rng, folder / "log"):
            counts["commands"] += 1
            counts[f"exit {made.code}"] += 1
            for fault in faults:
                counts[fault.split()[0] if fault.startswith("lost") else fault] += 1
                print(f"{kind} {target} {way}: {command[0]}: {fault}: {made.text.strip()[-300:]!r}", flush=True)
    print(dict(counts))
    return int(sum(counts.values()) > counts["commands"] + sum(n for name, n in counts.items() if name.startswith("exit")))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:])))
