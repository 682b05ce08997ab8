"""On a GPU, what does the landscape of a block of 10 million parameters on real bytes say about Single and Looped?

Runs `thalweg study text --preset gpu`: the arms single and looped (4 passes) over 5 seeds, 1,000 updates each, and the curvature at
40 points of every run, matrix-free. It stops after ``--minutes`` and goes on where it stopped when it is started again, so that
several short sittings add up. Complete runs and points are not made again, and `--seeds 1` can be extended to 2, 3, ... later.

    python benchmarks/on_a_gpu/landscape.py --minutes 9 --out results/landscape-text-gpu
    python benchmarks/on_a_gpu/landscape.py --preset quick --out results/try   # a small model and one seed, to try it on a CPU

Measured on one H200: 1,000 updates of Looped take 14.5 s, and a point of 115 to 157 products 15 to 19 s while each kernel of a
product was launched from Python: about 17 minutes a seed. Products are replayed as a CUDA graph now, which was not timed. Counted
operations of one seed, Single and Looped (a product has 6 times those of the forward call on 8 windows of 64 bytes, which are
0.010 TFLOP Single and 0.040 Looped, in 340 or 1,140 steps; a point takes 100 to 150 products):

    training, 1,000 updates of 32 windows     0.12 and 0.48 PFLOP
    40 points, 4,000 products                 0.25 and 0.96 PFLOP
    one replayed window, float64              0.02 and 0.08 PFLOP

Snapshots and eigenvectors take 8 GB of disk a run, 81 GB in all; the replayed window needs 20 GB of free memory. Three seeds (49
GB) leave the claims on phases undecided.
"""

from __future__ import annotations

import argparse
import sys

from sitting import common, options_of, sit


def command(options: argparse.Namespace) -> list[str]:
    seeds = options.seeds or (1 if options.preset == "quick" else 0)
    arms = ["--arms", "single,looped", "--seeds", str(seeds)]
    return ["study", "text", "--preset", options.preset, *arms, *common(options)]


def main() -> int:
    options = options_of(__doc__, "results/landscape-text-gpu")
    return sit(command(options), options.minutes)


if __name__ == "__main__":
    sys.exit(main())
