"""Two gloo ranks train what one process trains."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.ranked_runs import PLAN

from thalweg.data.markov_data import MarkovConfig
from thalweg.data.pointers import PointersConfig
from thalweg.data.task_data import TaskConfig
from thalweg.data.text import TextConfig
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import read_landscape
from thalweg.records.run import RunSummary, recorded
from thalweg.serialization import to_dict
from thalweg.shift.criterion import AtStep, LossBelow, Plateau
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Ramp
from thalweg.storage import read_journal, read_json
from thalweg.survey.survey import survey
from thalweg.train.assemble import make_model
from thalweg.train.checkpoint import checkpoints, read_checkpoint
from thalweg.train.config import RunConfig, ShiftConfig, TrainingConfig, config_text, read_config
from thalweg.train.rank_costs import collectives
from thalweg.train.trainer import train

APART = 2e-5
"""Largest difference of a weight after 40 updates: sums of float32 in another order, and what the updates make of it."""
PADDED = 0.03
"""Largest share of entries that are sent only because all parts have one size."""
WIDE = {"width": 8, "block": "gpt"}
TASK = TaskConfig(task="parity", longest=6, samples=20, tested=(6, 8), tests=40)
POINTERS = PointersConfig(nodes=8, queries=4, levels=3, samples=40)
TRAINING = TrainingConfig(steps=40, batch=16, evaluate_every=10, checkpoint_every=7, log_every=5, device="cpu", threads=1)
MARKOV = RunConfig(
    data=MarkovConfig(sequences=600, held_out=64),
    model=ModelConfig(length=11, width=8),
    shift=ShiftConfig((1, 3), AtStep(12), Ramp(10)),
    training=TRAINING,
)
PLATEAU = Plateau(delta_loss=1.0, delta_grad=9.0, patience=2, window=5)
TASK_MODEL = ModelConfig(vocabulary=TASK.vocabulary, positions="rotary", learned_gains=20, **WIDE)
DEEP_MODEL = ModelConfig(vocabulary=256, length=16, heads=2, layers=2, prelude=1, **WIDE)
NET = SafetyNet(tries=2, bound=0.01, within=5, window=5)
CONFIGS = {
    "markov": MARKOV,
    "plateau": replace(MARKOV, shift=ShiftConfig((1, 3), PLATEAU, Hard())),
    "loss-below": replace(MARKOV, shift=ShiftConfig((1, 3), LossBelow(2.6, window=5, most=20), Hard(), spread=0.5)),
    "gains": replace(MARKOV, model=replace(MARKOV.model, learned_gains=3)),
    "uneven": replace(MARKOV, training=replace(TRAINING, batch=17)),
    "net": replace(
        MARKOV, model=replace(MARKOV.model, norm="none", deviation=0.6), shift=ShiftConfig((1, 3), AtStep(12), Hard(), net=NET)
    ),
    "text": replace(MARKOV, data=TextConfig(length=17, windows=8), model=DEEP_MODEL),
    "task": replace(MARKOV, data=TASK, model=TASK_MODEL, shift=ShiftConfig((1, 6), AtStep(20), Ramp(10))),
    "pointers": replace(
        MARKOV,
        data=POINTERS,
        model=ModelConfig(vocabulary=POINTERS.vocabulary, length=12, **WIDE),
        shift=ShiftConfig((1, 3), AtStep(20)),
    ),
}

# One sample for each rank, which mostly needs fewer passes on one rank than on the other: each block is a unit of its own.
CONFIGS["few"] = replace(CONFIGS["task"], model=replace(TASK_MODEL, layers=2), training=replace(TRAINING, batch=2))
LONG = replace(MARKOV, training=replace(TRAINING, steps=800, checkpoint_every=10, evaluate_every=100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every config trained by two ranks, in ``two``, and by one process, in ``one``; and what the ranks printed."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "corpus.txt").write_text("the river runs down the valley\n" * 90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THALWEG_CACHE", str(folder / "cache"))
        for name, config in CONFIGS.items():
            data = replace(config.data, path=str(folder / "corpus.txt")) if isinstance(config.data, TextConfig) else config.data
            (folder / f"{name}.toml").write_text(config_text(replace(config, data=data)))
        (folder / "long.toml").write_text(config_text(LONG))
        surveyed = replace(MARKOV, training=replace(TRAINING, snapshots=3))
        train(surveyed, folder / "surveyed")
        shutil.copytree(folder / "surveyed", folder / "surveyed-by-one")
        run_two_ranks(folder)
        for name in CONFIGS:
            train(read_config(folder / f"{name}.toml"), folder / "one" / name)
        yield folder


def run_two_ranks(folder: Path) -> None:
    script = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("ranked_runs.py"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*script, str(me), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        for me in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    for me, (output, _) in enumerate(said):
        (folder / f"said{me}").write_text(output)


def last(run: Path):
    return read_checkpoint(checkpoints(run / "checkpoints")[-1])


def summary(run: Path) -> RunSummary:
    return recorded(RunSummary, read_json(run / "summary.json"), run / "summary.json")


def without_seconds(run: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_journal(run / "metrics.jsonl")]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_end_where_one_process_ends(folder: Path, name: str) -> None:
    one, two = last(folder / "one" / name).tensors, last(folder / "two" / name).tensors
    assert max((one[key] - two[key]).abs().max().item() for key in one if key.startswith("model.")) < APART


@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_switch_and_count_like_one_process(folder: Path, name: str) -> None:
    one, two = summary(folder / "one" / name), summary(folder / "two" / name)
    assert [(s.step, s.loops_after, s.onset) for s in one.switches] == [(s.step, s.loops_after, s.onset) for s in two.switches]
    assert (one.flops, one.evaluations, len(one.retreats)) == (two.flops, two.evaluations, len(two.retreats))
    assert (one.provenance.ranks, two.provenance.ranks) == (1, 2)


@pytest.mark.parametrize("name", ["markov", "uneven", "text", "task", "few"])
def test_two_ranks_that_shard_the_weights_end_where_one_process_ends(folder: Path, name: str) -> None:
    one, ours = last(folder / "one" / name), last(folder / "sharded" / name)
    assert ours.path.suffix == ".safetensors"
    assert max((one.tensors[key] - ours.tensors[key]).abs().max().item() for key in one.tensors if key.startswith("model.")) < APART
    before, after = summary(folder / "one" / name), summary(folder / "sharded" / name)
    assert [(s.step, s.loops_after) for s in before.switches] == [(s.step, s.loops_after) for s in after.switches]
    assert before.flops == after.flops


@pytest.mark.parametrize("name", ["sharded-cut", "sharded-torn"])
def test_sharded_checkpoints_resume_bit_equal_and_a_damaged_one_is_left_out(folder: Path, name: str) -> None:
    whole, cut = last(folder / "sharded" / "markov").tensors, last(folder / name).tensors
    assert [key for key in whole if not key.startswith("random.") and not torch.equal(whole[key], cut[key])] == []
    assert without_seconds(folder / name) == without_seconds(folder / "sharded" / "markov")


def test_one_process_reads_and_goes_on_with_sharded_checkpoints(folder: Path) -> None:
    path = checkpoints(folder / "sharded-fewer" / "checkpoints")[-1]
    assert path.name == "step-000000014.dcp"
    assert read_checkpoint(path).tensors["model.head.weight"].shape == (16, 8)
    done = train(read_config(folder / "markov.toml"), folder / "sharded-fewer")
    assert (done.steps, done.provenance.ranks) == (40, 1)
    one, ours = last(folder / "one" / "markov").tensors, last(folder / "sharded-fewer").tensors
    assert max((one[key] - ours[key]).abs().max().item() for key in one if key.startswith("model.")) < APART


def test_a_sharded_update_gathers_a_single_block_once_and_several_one_by_one(folder: Path) -> None:
    passes = 3
    for me in (0, 1):
        calls = read_json(folder / f"collectives{me}.json")
        for name in ("markov", "text"):
            config = read_config(folder / f"{name}.toml")
            model = make_model(config)
            whole, looped, once = (sum(p.numel() for p in part.parameters()) for part in (model, model.blocks, model.prelude))
            gathered = whole if name == "markov" else whole + (2 * passes - 1) * looped + once
            assert sum(calls[name]["all_gather"]) == pytest.approx(gathered, rel=PADDED)
            assert sum(calls[name]["reduce_scatter"]) == pytest.approx(whole, rel=PADDED)
            assert sum(map(len, calls[name].values())) == collectives(config.model, passes, "fsdp")[0]
            largest = max(calls[name]["all_gather"])
            assert largest == pytest.approx(whole if name == "markov" else whole - looped - once, rel=PADDED)


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """All numbers of a record but its times, by their places."""
    if isinstance(value, dict):
        items = [(f"{path}.{key}", inner) for key, inner in value.items() if key != "seconds"]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {path: float(value)} if isinstance(value, int | float) else {}
    return {place: number for where, inner in items for place, number in numbers(inner, where).items()}


def test_two_ranks_measure_the_landscape_that_one_process_measures(folder: Path) -> None:
    ours, one = read_landscape(folder / "surveyed"), survey(folder / "surveyed-by-one", PLAN)
    assert ours is not None
    assert ours.summary is not None
    assert ours.summary.provenance.ranks == 2
    assert (len(one.points), len(one.alignments), len(one.replays), len(one.notes)) == (3, 3, 1, 0)
    given, expected = numbers(to_dict(ours.points)), numbers(to_dict(one.points))
    assert given == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for alone in ("alignments", "lengths"):  # by one rank each, in turn
        assert numbers(to_dict(getattr(ours, alone))) == numbers(to_dict(getattr(one, alone)))
    # So are replays, but they are judged by the gradient of the first point, which the ranks have summed.
    assert numbers(to_dict(ours.replays)) == pytest.approx(numbers(to_dict(one.replays)), rel=1e-6)


def test_there_is_a_switch_in_every_run_and_a_retreat_in_one(folder: Path) -> None:
    assert all(summary(folder / "two" / name).switches for name in CONFIGS)
    assert summary(folder / "two" / "net").retreats


@pytest.mark.parametrize("name", ["markov", "task"])
def test_shared_evaluations_of_equal_weights_are_equal_to_the_last_bit(folder: Path, name: str) -> None:
    first = [without_seconds(folder / ranks / name)[0] for ranks in ("one", "two")]
    assert first[0]["type"] == "evaluation"
    assert first[0] == first[1]


def test_every_length_of_a_task_is_tested_once(folder: Path) -> None:
    one, two = (read_json(folder / ranks / "task" / "lengths.json") for ranks in ("one", "two"))
    assert [length["length"] for length in one] == [length["length"] for length in two] == [6, 8]


def test_a_stopped_run_of_two_ranks_ends_bit_equal_to_one_that_was_not(folder: Path) -> None:
    whole, cut = last(folder / "two" / "markov").tensors, last(folder / "cut").tensors
    assert [name for name in whole if not name.startswith("random.") and not torch.equal(whole[name], cut[name])] == []
    assert without_seconds(folder / "cut") == without_seconds(folder / "two" / "markov")


def test_one_process_goes_on_with_a_run_of_two_ranks(folder: Path) -> None:
    done = train(read_config(folder / "markov.toml"), folder / "fewer")
    assert (done.steps, done.provenance.ranks, done.flops) == (40, 1, summary(folder / "one" / "markov").flops)


def test_each_refusal_is_told_once_and_leaves_nothing(folder: Path) -> None:
    told, silent = ((folder / f"said{me}").read_text().splitlines() for me in (0, 1))
    small = "training.batch: given 1, expected at least one sample for each of the 2 ranks"
    assert told[0].startswith("FolderError, told elsewhere: False: run")
    assert silent[0] == "ElsewhereError, told elsewhere: True: rank 1: another rank refused its input; see its message"
    assert told[1] == f"BadInputError, told elsewhere: False: {small}"
    assert silent[1] == f"BadInputError, told elsewhere: True: {small}"
    assert told[2].endswith("training.batch is 17 on rank 1 and 16 on rank 0; start all ranks with the same command")
    assert told[3].endswith("optimizer.name: given 'muon', expected adamw or sgd with --parallel fsdp")
    assert not (folder / "muon").exists()
    assert told[4].startswith("DivergedError, told elsewhere: False: loss not finite in update")
    assert silent[4].startswith("DivergedError, told elsewhere: True")
    assert not (folder / "small").exists()


@pytest.mark.slow
def test_a_killed_rank_that_torchrun_starts_again_changes_no_bit(folder: Path, python: str) -> None:
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "9",
        "--monitor-interval",
        "0.1",
    ]
    command = [python, *launch, "-m", "thalweg", "train", str(folder / "long.toml"), "--out", str(folder / "killed")]
    launcher = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while launcher.poll() is None and not checkpoints(folder / "killed" / "checkpoints"):
        time.sleep(0.01)
    assert launcher.poll() is None, "the run ended before it was killed: make it longer"
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    assert launcher.wait() == 0
    assert summary(folder / "killed").weights_sha256 == summary(folder / "two" / "long").weights_sha256
    assert without_seconds(folder / "killed") == without_seconds(folder / "two" / "long")
