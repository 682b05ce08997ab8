"""On a GPU, what does the landscape of a block of 10 million parameters on real bytes say about Single and Looped?

Runs `thalweg study text --preset gpu`: the arms single and looped (4 passes), 1,000 updates each, and the curvature at 40 points of
every run, matrix-free. It stops after ``--minutes`` and goes on where it stopped when it is started again, so that several short
sittings add up. Complete runs and points are not made again.

    python benchmarks/on_a_gpu/landscape.py --minutes 9 --out results/landscape-text-gpu
    python benchmarks/on_a_gpu/landscape.py --preset quick --out results/try   # the same in minutes on a CPU, to see that it works
"""

from __future__ import annotations

import argparse
import sys

from sitting import options_of, sit


def command(options: argparse.Namespace) -> list[str]:
    """The command; ``--preset quick`` takes a model of 0.05 million parameters and one seed, whose claims stay undecided."""
    arms = ["--arms", "single,looped", "--device", options.device, "--jobs", "1", "--out", str(options.out)]
    seeds = ["--seeds", "1"] if options.preset == "quick" else []
    return ["study", "text", "--preset", options.preset, *seeds, *arms]


def main() -> int:
    options = options_of(__doc__, "results/landscape-text-gpu")
    return sit(command(options), options.minutes)


if __name__ == "__main__":
    sys.exit(main())
