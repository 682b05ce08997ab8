"""On a GPU, which schedule of passes ends lowest on real bytes, for a model of 25 million parameters with prelude and coda?

Runs `thalweg frontier text --preset gpu` with the arms two passes, six passes and staged, two budgets and two seeds. It stops after
``--minutes`` and goes on where it stopped when it is started again, so that several short sittings add up.

    python benchmarks/on_a_gpu/frontier.py --minutes 9 --out results/frontier-text-gpu
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

ARMS = "depth-2,depth-6,staged"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="when to stop; what is done is kept")
    parser.add_argument("--out", type=Path, default=Path("results/frontier-text-gpu"))
    parser.add_argument("--preset", default="gpu", help="gpu, or quick to try the script on a CPU")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    arms = ARMS if options.preset == "gpu" else "depth-2,depth-4,staged"
    command = [sys.executable, "-m", "thalweg", "frontier", "text", "--preset", options.preset, "--arms", arms]
    command += ["--device", options.device, "--jobs", "1", "--out", str(options.out)]
    running = subprocess.Popen(command)
    try:
        return running.wait(60 * options.minutes)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)
        running.wait()
        print(f"Stopped after {options.minutes:g} minutes; give the same command again to go on.")
        return 0


if __name__ == "__main__":
    sys.exit(main())
