"""The demonstration, `thalweg study markov --preset quick`, takes at most four minutes on two cores.

Runs the installed command once (or `--rounds` times) in a temporary folder, two runs at a time, on two cores only where the
machine has more and the system can say so. There is no rival: the claim is about waiting. The report's part is what comes
after the last run has written its summary; training and evaluation are the runs' own clocks, added up over the runs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing


def demo(folder: Path, extra: list[str]) -> dict[str, float]:
    """Seconds of one study and of its parts."""
    command = [str(Path(sys.executable).parent / "thalweg"), "study", "markov", "--preset", "quick", "--jobs", "2"]
    wall, clock = time.time(), time.perf_counter()
    subprocess.run([*command, "--out", str(folder), *extra], check=True, stdout=subprocess.DEVNULL)
    total = time.perf_counter() - clock
    paths = list(folder.glob("runs/*/summary.json"))
    summaries = [json.loads(path.read_text()) for path in paths]
    runs = max(path.stat().st_mtime for path in paths) - wall
    return {
        "whole study": total,
        "all runs": runs,
        "report and start": total - runs,
        f"training, {len(paths)} runs / 2": sum(one["seconds"] for one in summaries) / 2,
        f"evaluation, {len(paths)} runs / 2": sum(one["evaluation_seconds"] for one in summaries) / 2,
    }


def main() -> None:
    parser = timing.arguments(__doc__, rounds=1)
    parser.add_argument("--arms", default="", help="some arms only, for a short trial")
    parser.add_argument("--seeds", type=int, default=0, help="fewer seeds, for a short trial")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    extra = ["--arms", options.arms] if options.arms else []
    extra += ["--seeds", str(options.seeds)] if options.seeds else []
    parts: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, spent in demo(Path(folder) / "study", extra).items():
                parts.setdefault(name, []).append(spent)
    whole = statistics.median(parts["whole study"])
    timing.print_table(
        ["part", "seconds [lowest, highest]", "share"],
        [[name, timing.spread(v, unit=1), f"{statistics.median(v) / whole:.0%}"] for name, v in parts.items()],
    )
    trial = f"; a short trial: {' '.join(extra)}" if extra else ""
    print(f"\nseconds of the demonstration: {whole:.0f} (claim: at most 240 on two cores{trial})")


if __name__ == "__main__":
    main()
