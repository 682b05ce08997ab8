"""Run by test_several_ranks.py as each of two ranks: trains every config of a folder, then meets bad input."""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from thalweg import ranks
from thalweg.errors import BadInputError, DivergedError
from thalweg.records.landscape import LandscapePlan
from thalweg.survey.survey import survey
from thalweg.train.callbacks import Callback, StepFacts
from thalweg.train.checkpoint import checkpoints
from thalweg.train.config import read_config
from thalweg.train.group import refuse_differences
from thalweg.train.trainer import train


PLAN = LandscapePlan(sequences=9, top=2, lanczos=8, probes=2, exact_seconds=0.0, replays=1, window=20, lengths=(1,))
"""A landscape that is measured in moments, of nine sequences, which two ranks do not share evenly."""


class StopAt(Callback):
    """Ends a run on both ranks after some updates."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, facts: StepFacts) -> None:
        if facts.step == self.step:
            raise KeyboardInterrupt


def refusal(work) -> None:
    try:
        work()
    except (BadInputError, DivergedError) as error:
        print(f"{type(error).__name__}, told elsewhere: {error.told_elsewhere}: {error}")


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*.toml")):
        train(read_config(path), folder / "two" / path.stem)
    markov = read_config(folder / "markov.toml")
    survey(folder / "surveyed", PLAN)
    try:
        train(markov, folder / "cut", [StopAt(20)])
    except KeyboardInterrupt:
        train(markov, folder / "cut")
    try:
        train(markov, folder / "fewer", [StopAt(20)])  # one process goes on with it
    except KeyboardInterrupt:
        ranks.same(None)
    for name in ("loss-below", "text", "task"):
        train(read_config(folder / f"{name}.toml"), folder / "sharded" / name, parallel="fsdp")
    train(markov, folder / "sharded" / "markov", parallel="fsdp")
    for name in ("sharded-cut", "sharded-torn", "sharded-fewer"):
        try:
            train(markov, folder / name, [StopAt(20)], parallel="fsdp")
        except KeyboardInterrupt:
            ranks.same(None)
    train(markov, folder / "sharded-cut", parallel="fsdp")
    if ranks.rank() == 0:  # the newest of its checkpoints is damaged, and a part of another one was left behind
        newest = checkpoints(folder / "sharded-torn" / "checkpoints")[-1]
        (newest / "__1_0.distcp").write_bytes(b"")
        (newest.parent / ".step-000000021.dcp.tmp").mkdir()
    ranks.same(None)
    train(markov, folder / "sharded-torn", parallel="fsdp")
    refusal(lambda: train(markov, folder / "two" / "task"))
    refusal(lambda: train(replace(markov, training=replace(markov.training, batch=1)), folder / "small"))
    refusal(lambda: refuse_differences({"seed": 0, "training.batch": 16 + ranks.rank()}))
    muon = replace(markov, optimizer=replace(markov.optimizer, name="muon"))
    refusal(lambda: train(muon, folder / "muon", parallel="fsdp"))
    wild = replace(markov, optimizer=replace(markov.optimizer, name="sgd", rate=1e6, clip=0.0))
    refusal(lambda: train(wild, folder / "wild"))


if __name__ == "__main__":
    me, where = int(sys.argv[1]), Path(sys.argv[2])
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where / 'store'}", rank=me, world_size=2, timeout=limit)
    main(where)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # as the command line does
