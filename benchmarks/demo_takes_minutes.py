"""The demonstration, `thalweg frontier markov --preset quick`, takes at most four minutes on two cores.

The installed command runs once (or `--rounds` times) in a temporary folder, with two runs at a time. On systems that can set it,
the process is restricted to two cores. There is no rival. "report and start" is the time outside the runs: before the first and
after the last one. Training and evaluation times are those that the runs record themselves, summed over the runs.
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
    """Run the frontier once; return the seconds of the whole and of its parts."""
    command = [str(Path(sys.executable).parent / "thalweg"), "frontier", "markov", "--preset", "quick", "--jobs", "2"]
    wall, clock = time.time(), time.perf_counter()
    subprocess.run([*command, "--out", str(folder), *extra], check=True, stdout=subprocess.DEVNULL)
    total = time.perf_counter() - clock
    paths = list(folder.glob("runs/*/summary.json"))
    summaries = [json.loads(path.read_text()) for path in paths]
    runs = max(path.stat().st_mtime for path in paths) - wall
    return {
        "whole demonstration": total,
        "all runs": runs,
        "report and start": total - runs,
        f"training, {len(paths)} runs / 2": sum(summary["seconds"] for summary in summaries) / 2,
        f"evaluation, {len(paths)} runs / 2": sum(summary["evaluation_seconds"] for summary in summaries) / 2,
    }


def main() -> None:
    parser = timing.arguments(__doc__, rounds=1)
    parser.add_argument("--arms", default="", help="arms to run, for a short trial")
    parser.add_argument("--seeds", type=int, default=0, help="number of seeds, for a short trial")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    extra = ["--arms", options.arms] if options.arms else []
    extra += ["--seeds", str(options.seeds)] if options.seeds else []
    parts: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, spent in demo(Path(folder) / "frontier", extra).items():
                parts.setdefault(name, []).append(spent)
    whole = statistics.median(parts["whole demonstration"])
    timing.print_table(
        ["part", "seconds [lowest, highest]", "share"],
        [[name, timing.spread(v, unit=1), f"{statistics.median(v) / whole:.0%}"] for name, v in parts.items()],
    )
    trial = f"; a short trial: {' '.join(extra)}" if extra else ""
    print(f"\nseconds of the demonstration: {whole:.0f} (claim: at most 240 on two cores{trial})")


if __name__ == "__main__":
    main()
