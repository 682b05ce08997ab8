"""Run by test_several_ranks.py as each of two ranks: trains every config of a folder, then meets bad input."""

import json
import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from thalweg import ranks
from thalweg.errors import BadInputError, DivergedError
from thalweg.records.landscape import LandscapePlan
from thalweg.survey.survey import survey
from thalweg.train.callbacks import Callback, StepFacts
from thalweg.train.checkpoint import checkpoints
from thalweg.train.config import RunConfig, read_config
from thalweg.train.group import refuse_differences
from thalweg.train.state import Run
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


def collectives_of_an_update(config: RunConfig, folder: Path) -> dict[str, list[int]]:
    """Name of a collective -> number of entries that each call in one update of a sharded run gathers or reduces."""
    calls: dict[str, list[int]] = {}
    kinds = ("all_gather", "reduce_scatter")  # PyTorch's versions have several functions of each

    def counted(name: str) -> Any:
        function = getattr(dist, name)

        def call(*given: Any, **named: Any) -> Any:
            calls.setdefault(next(kind for kind in kinds if name.startswith(kind)), []).append(
                max(t.numel() for t in (*given, *named.values()) if isinstance(t, torch.Tensor))
            )
            return function(*given, **named)

        return call

    run = Run(config, folder, parallel="fsdp")
    with patch.multiple(dist, **{name: counted(name) for name in dir(dist) if name.startswith(kinds)}):
        run.train_on(run.batch(0), 3, None)
    return calls


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
    for name in ("uneven", "text", "task", "few"):
        train(read_config(folder / f"{name}.toml"), folder / "sharded" / name, parallel="fsdp")
    train(markov, folder / "sharded" / "markov", parallel="fsdp")
    calls = {name: collectives_of_an_update(read_config(folder / f"{name}.toml"), folder) for name in ("markov", "text")}
    (folder / f"collectives{ranks.rank()}.json").write_text(json.dumps(calls))
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
