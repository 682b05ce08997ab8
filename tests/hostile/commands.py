"""Command lines that nobody should give, each in a forked child.

The long form, from the repository's root; the folder is made anew and may be removed afterwards:

    python tests/hostile/commands.py FOLDER

It prints a line for every case that did something that it may not (traceback, hang, more than one line of refusal, a folder left
behind with exit code 2) and the counts at the end; exit code 1 where there is one.
"""

import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from attempts import attempt, emptied
from damage import RUN, draw, small_presets

DEEP = 5000
FILES: dict[str, bytes] = {
    "bytes.toml": b"\xff\xfe\x00",
    "twice.toml": b"seed = 0\nseed = 1\n",
    "sections.toml": b"[training]\nsteps = 3\n[training]\nsteps = 4\n",
    "empty.toml": b"",
    "blank.toml": b" \n\n",
    "list.toml": b'[[data]]\nkind="markov"\n',
    "open.toml": b"a=" + b"[" * DEEP,
    "deep.toml": b"a=" + b"[" * DEEP + b"]" * DEEP,
    "tables.toml": b"a=" + b"{a=" * DEEP + b"1" + b"}" * DEEP,
    "dotted.toml": b".".join([b"a"] * DEEP) + b"=1",
    "date.toml": b"seed = 1979-05-27T07:32:00Z\n",
    "digits.toml": b"seed = " + b"9" * 5000,
    "long.toml": b'arm = "' + b"x" * 900_000 + b'"\nseed = -1\n',
    "key.toml": b"x" * 100_000 + b" = 1\n",
    "escape.toml": b'"\\u001b[31m\\u202e[bold]" = 1\n',
}
"""Name -> content of a config that cannot be used."""
GOOD: dict[str, bytes] = {
    "mark.toml": b"\xef\xbb\xbf" + RUN.encode(),
    "names.toml": RUN.replace('"shift"', '"[bold]$x_{<script>\\u0000\\u001b[31m\\u202e"').encode(),
    "returns.toml": RUN.replace("\n", "\r\n").encode(),
}
"""Name -> content of a config that is odd."""
REFUSED = """
stduy markov
study
study markvo
study markov --preset qick
study markov --arms sinlge
study markov --seeds -1
study markov --seeds x
study markov --seeds 1e9
study markov --seeds 99999999999999999999
study markov --seeds 2.7
study markov --seeds nan
study markov --jobs -1
study markov --jobs 0.5
study markov --jobs 99999999999999999999
study markov --arms ,,, --preset zzz
study markov --device gpu
study markov --device cuda:99
study markov --device mps
study markov --text README
study markov --task parity
study text --text /nonexistent
study text --text /dev/null
study text --text one.txt --seeds 1
study tasks --task reverse
study tasks --task os:path
study tasks --task nonexist:Thing
study tasks --task a:b:c
study tasks --compile
study tasks --preset large
study markov --out /dev/null
study markov --out /proc/x
study markov --out run.toml
study markov --out .
study markov --out run
study markov --out loop
study markov --out pipe
study markov --out run.toml/x/y
study markov --out {long}
shift-sweep tasks
shift-sweep markov --loops -3
shift-sweep markov --loops 1
shift-sweep markov --loops 100000
shift-sweep markov --loops 6.5
shift-sweep markov --groups foo
shift-sweep markov --seeds -5
recipe
recipe markvo
recipe markov --arm foo
recipe markov --preset large
recipe markov --seed -1
recipe markov --seed 99999999999999999999
recipe parity --arm single-flops
train
train nope.toml
train .
train /dev/null
train /dev/zero
train pipe
train loop
train run
train run.toml/x
train run.toml --set training.stesp=3
train run.toml --set training.steps
train run.toml --set =3
train run.toml --set training.steps=abc --out q
train run.toml --set training.steps=1e3 --out q
train run.toml --set training=3 --out q
train run.toml --set a.b.c.d=1 --out q
train run.toml --set seed=nan --out q
train run.toml --set data.kind=text --out q
train run.toml --set arm={deep} --out q
train run.toml --set training.batch=10000000 --out q
train run.toml --set training.threads=99999 --out q
train run.toml --set training.device=warp --out q/r/s
train run.toml --set training.steps=500 --out run
train run.toml --out /dev/full
train run.toml --out /sys/x
train run.toml --out pipe
train run.toml --out loop
train run/metrics.jsonl
train run.toml --landscape --set training.snapshots=0 --out q
landscape
landscape nope
landscape .
landscape run.toml
landscape pipe
landscape loop
landscape run --checkpoints -1
landscape run --checkpoints 1000
landscape run --sequences 0
landscape run --sequences 1000000
landscape run --sequences 100000000000000000000000
landscape run --exact-seconds nan
landscape run --exact-seconds -1
landscape run --replays -1
landscape run --window 0
landscape run --lengths 0
landscape run --lengths -1
landscape run --lengths 1.5
landscape run --dtype float16
landscape run --threads -1
landscape run --threads 100000
report
report nope
report run
report .
report run.toml
report pipe
report loop
report run run
report run --out x
verify 99.9
verify x
verify --json 99
"""
WORKS = """
--version
recipe markov
recipe text --preset large
recipe parity --arm shift
train run.toml --out run
train run/config.toml --out run
train run.toml --set training.steps=5 --set training.snapshots=0 --out new/er
"""


@dataclass(frozen=True)
class Case:
    """One command line, and the exit code that it has to have."""

    arguments: tuple[str, ...]
    code: int


def cases() -> list[Case]:
    """All of them; what works comes last, as it leaves folders."""
    odd = {"{long}": "x" * 300, "{deep}": "[" * DEEP + "]" * DEEP}
    lines = [line.split(" ") for line in REFUSED.strip().splitlines()]
    refused = [Case(tuple(odd.get(word, word.replace("{deep}", odd["{deep}"])) for word in line), 2) for line in lines]
    refused = [case for case in refused if not any(odd["{deep}"] in word for word in case.arguments)]
    refused += [Case(("train", name, "--out", "q"), 2) for name in FILES]
    refused += [Case(("train", "run.toml", "--out", "q", "--set", f"seed={odd['{deep}']}"), 2)]
    refused += [Case(("train", os.fsdecode(b"\xff\x1b[31m[bold].toml")), 2), Case(("report", "\u202e\x1b[2J[/bold]"), 2)]
    refused += [Case(("train", "run.toml", "--out", "q", "--set", f"arm={os.fsdecode(bytes([255]))}"), 2)]
    works = [Case(tuple(line.split()), 0) for line in WORKS.strip().splitlines()]
    return refused + works + [Case(("train", name, "--out", f"[bold]{name}\x1b[1m"), 0) for name in GOOD]


def set_up(folder: Path) -> Path:
    """A folder with a finished run, odd configs, a pipe and a link to itself."""
    emptied(folder)
    for name, content in (FILES | GOOD | {"run.toml": RUN.encode(), "one.txt": b"abc"}).items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    made = attempt(["train", "run.toml", "--out", "run"], folder.parent / "log", at=folder)
    assert made.code == 0, made.text
    return folder


def tried(case: Case, folder: Path) -> list[str]:
    """What a command line did that it may not."""
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    made = attempt(list(case.arguments), folder.parent / "log", 40, at=folder)
    faults = made.faults
    if made.code != case.code:
        faults.append(f"exit code {made.code} in place of {case.code}")
    left = {path.relative_to(folder) for path in folder.rglob("*")} - before
    if case.code == 2 and left:
        faults.append(f"left {sorted(map(str, left))[0]}")
        for path in {path.parts[0] for path in left}:
            shutil.rmtree(folder / path, ignore_errors=True)
    return [f"{fault}: {made.text.strip()[-300:]!r}" for fault in faults]


def main(folder: Path) -> int:
    """The long form."""
    small_presets()
    draw(False)
    set_up(folder)
    counts: Counter[str] = Counter()
    for case in cases():
        counts["cases"] += 1
        for fault in tried(case, folder):
            counts[fault.split(":")[0]] += 1
            print(" ".join(case.arguments)[:80].encode("unicode_escape").decode(), "->", fault, flush=True)
    print(dict(counts))
    return int(len(counts) > 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() / "here"))
