"""A run of an experiment starts at least 10 times sooner as a fork of a process that has imported everything than as a process.

A run of two updates on 64 sequences is started both ways in turn. Each time is that of the whole run, from the start to its exit
status. The first round, in which the fork server itself is started, does not count.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from pathlib import Path

import timing

from thalweg.data.markov_data import MarkovConfig
from thalweg.experiments.forked import ForkedProcess
from thalweg.models.config import ModelConfig
from thalweg.processes import LocalProcess
from thalweg.train.config import RunConfig, TrainingConfig, config_text

CONFIG = RunConfig(
    data=MarkovConfig(sequences=64, held_out=16),
    model=ModelConfig(length=11, width=8),
    training=TrainingConfig(steps=2, batch=8, evaluate_every=2, threads=1, device="cpu"),
)
CLAIM = 10.0


def main() -> None:
    options = timing.arguments(__doc__, rounds=9).parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), itertools.count()
        (folder / "run.toml").write_text(config_text(CONFIG))

        def arguments() -> list[str]:
            return ["train", str(folder / "run.toml"), "--out", str(folder / str(next(numbers)))]

        def forked() -> None:
            assert ForkedProcess(arguments(), folder / "log", environment, append=False).wait() == 0

        def started() -> None:
            command = [sys.executable, "-m", "thalweg", *arguments()]
            assert LocalProcess(command, folder / "log", environment, append=False).wait() == 0

        times = timing.interleaved({"forked": forked, "started": started}, options.rounds, calls=1, warmup=1)
    timing.print_table(
        ["a run of two updates", "seconds [lowest, highest]"], [[n, timing.spread(t, unit=1)] for n, t in times.items()]
    )
    print(f"started / forked: {timing.ratio(times, 'started', 'forked'):.1f} (claim: at least {CLAIM:g})")


if __name__ == "__main__":
    main()
