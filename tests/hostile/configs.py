"""Every key of a run's config with odd values, deleted and misspelled, each in a forked child.

The long form, from the repository's root; the folder is made anew and may be removed afterwards:

    python tests/hostile/configs.py FOLDER [SECONDS] [SEED] [KIND ...]

It prints a line for every case that did something that it may not (traceback, hang, more than one line of refusal, a folder left
behind with exit code 2) and the counts at the end; exit code 1 where there is one.
"""

import copy
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attempts import Outcome, attempt, emptied

from thalweg.experiments.paper.recipes import plan, runs_of
from thalweg.experiments.tasks.recipes import plan_tasks, task_runs
from thalweg.serialization import to_dict
from thalweg.train.config import RunConfig

VALUES: list[Any] = [
    *("x", "", "\u65e5\u672c\u202e", "1", "nan", "../../x", "a\nb", "<b>", "[bold]", "\x1b[31m", "x" * 5000, "\x00"),
    *(True, False, -1, 0, 1, 3, 2**31, 2**63 - 1, 2**63, 10**30, -(10**30)),
    *(0.5, 1.5, -0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 1e-320, 1e-31),
    *([], [1], ["x"], [1, 2], [[1]], [2, 1], [1, 10**6], {}, {"kind": "x"}, {"kind": 3}, {"kind": []}, "1979-05-27"),
]
SLOW = {("training", "compile"), ("training", "steps")}
"""Keys with which a run may rightly take longer than a case has."""


@dataclass(frozen=True)
class Case:
    """One change of one key."""

    kind: str
    path: tuple[str, ...]
    how: str
    value: Any = None


def base(kind: str, text: Path) -> dict[str, Any]:
    """A run of a second, with every section written out."""
    if kind in ("markov", "text"):
        config: RunConfig = runs_of(plan(kind, "quick", ("shift",), seeds=1))["shift-seed0"]
    else:
        config = task_runs(plan_tasks("quick", (kind,), ("shift",), seeds=1))[kind, "shift", 0]
    settings = {"steps": 8, "batch": 8, "evaluate_every": 4, "checkpoint_every": 4, "log_every": 2, "snapshots": 3, "threads": 1}
    values = to_dict(replace(config, training=replace(config.training, **settings, device="cpu")))  # type: ignore[arg-type]
    values["data"] |= {"markov": {"sequences": 200, "held_out": 60}, "text": {"path": str(text), "windows": 4, "length": 17}}.get(
        kind, {"longest": 3, "samples": 4, "tests": 10}
    )
    if kind != "markov":
        values["model"] |= {"width": 16}
    return values


def keys(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key, sections too."""
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


def cases_of(bases: dict[str, dict[str, Any]], rng: random.Random) -> list[Case]:
    """All of them, in a random order."""
    found = []
    for kind, values in bases.items():
        for path in keys(values):
            found += [Case(kind, path, "set", value) for value in VALUES]
            found += [Case(kind, path, "delete"), Case(kind, path, "misspell")]
    rng.shuffle(found)
    return found


def changed(values: dict[str, Any], case: Case) -> dict[str, Any]:
    """The config of a case."""
    values = at = copy.deepcopy(values)
    for key in case.path[:-1]:
        at = at[key]
    last = case.path[-1]
    if case.how == "set":
        at[last] = case.value
    elif case.how == "delete":
        del at[last]
    else:
        at[f"{last}s"] = at.pop(last)
    return values


def toml(value: Any) -> str:
    """A value as TOML, odd ones too."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else repr(value)


def tried(case: Case, bases: dict[str, dict[str, Any]], folder: Path, limit: float = 25) -> tuple[Outcome, list[str]]:
    """How a config's run ended, and what it did that it may not."""
    values, out = changed(bases[case.kind], case), folder / "made" / "run"
    shutil.rmtree(out.parent, ignore_errors=True)
    (folder / "case.toml").write_text("\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in values.items()))
    made = attempt(["train", str(folder / "case.toml"), "--out", str(out)], folder / "log", limit)
    faults = [fault for fault in made.faults if not (fault == "hang" and case.path in SLOW)]
    if made.code == 2 and out.parent.exists():
        faults.append("left a folder")
    if made.code == 0 and not (out / "summary.json").exists():
        faults.append("worked without a summary")
    return made, faults


def bases_of(folder: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """Kind -> its config; writes the text that one of them learns."""
    (folder / "text.txt").write_text("the river runs down the valley\n" * 100)
    return {kind: base(kind, folder / "text.txt") for kind in kinds}


def main(folder: Path, seconds: float = 240, seed: int = 0, *kinds: str) -> int:
    """The long form."""
    bases = bases_of(emptied(folder), list(kinds) or ["markov", "text", "parity"])
    end, counts, every = time.monotonic() + seconds, Counter[str](), cases_of(bases, random.Random(seed))
    for case in every:
        if time.monotonic() > end:
            break
        made, faults = tried(case, bases, folder)
        counts["cases"] += 1
        counts[f"exit {made.code}"] += 1
        for fault in faults:
            counts[fault] += 1
            print(
                case.kind,
                ".".join(case.path),
                case.how,
                repr(case.value)[:60],
                "->",
                f"{fault}: {made.text.strip()[-200:]!r}",
                flush=True,
            )
    print(dict(counts), "of", len(every))
    return int(any(not name.startswith(("cases", "exit")) for name in counts))


if __name__ == "__main__":
    given = sys.argv[2:]
    sys.exit(main(Path(sys.argv[1]).resolve(), *map(float, given[:1]), *map(int, given[1:2]), *given[2:]))
