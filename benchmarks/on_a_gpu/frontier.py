"""On a GPU, which schedule of passes ends lowest on real bytes, for a model of 25 million parameters with prelude and coda?

Runs `thalweg frontier text --preset gpu` with the arms two passes, six passes and staged, two budgets and two seeds. It stops after
``--minutes`` and goes on where it stopped when it is started again, so that several short sittings add up.

    python benchmarks/on_a_gpu/frontier.py --minutes 9 --out results/frontier-text-gpu
"""

from __future__ import annotations

import argparse
import sys

from sitting import common, options_of, sit

ARMS = {"gpu": "depth-2,depth-6,staged", "quick": "depth-2,depth-4,staged"}


def command(options: argparse.Namespace) -> list[str]:
    arms = ["--arms", ARMS[options.preset], "--seeds", str(options.seeds)]
    return ["frontier", "text", "--preset", options.preset, *arms, *common(options)]


def main() -> int:
    options = options_of(__doc__, "results/frontier-text-gpu")
    return sit(command(options), options.minutes)


if __name__ == "__main__":
    sys.exit(main())
