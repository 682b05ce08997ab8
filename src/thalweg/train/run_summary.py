"""The end of a run: final tests, and the summary that marks the run as complete."""

from __future__ import annotations

import time

import torch

from thalweg import ranks
from thalweg.data.task_data import TaskData
from thalweg.errors import DamagedFileError
from thalweg.models.cost import parameters
from thalweg.records.run import RunSummary, TaskLength, provenance, read_run
from thalweg.serialization import fingerprint, to_dict
from thalweg.storage import make_way, write_json
from thalweg.train.answers import score_length
from thalweg.train.checkpoint import digest, weights, whole_tensors
from thalweg.train.sharding import forward_alone
from thalweg.train.state import Run, ceilings_of


def finish(run: Run) -> RunSummary:
    """Test a trained task at every length, then write the summary of a run and return it.

    The summary is written last: a run is complete if and only if it has a summary.

    Raises:
        DamagedFileError: metrics.jsonl lacks the scores of the last update.
    """
    run.check_folder()
    if isinstance(run.data, TaskData):
        _write_lengths(run, run.data)
    tensors = whole_tensors(weights(run.model))
    with ranks.together():
        summary = _write_summary(run, digest(tensors)) if run.rank == 0 else None
    summary = ranks.same(summary)
    assert summary is not None
    return summary


def _write_summary(run: Run, weights_sha256: str) -> RunSummary:
    """Write the summary, with the hash of the final weights, and return it."""
    evaluations = read_run(run.folder).evaluations
    if not evaluations or evaluations[-1].step != run.shift.step:
        path = run.folder / "metrics.jsonl"
        raise DamagedFileError(f"damaged record {path}: it lacks the scores of the last update; run the same command again")
    summary = RunSummary(
        arm=run.config.arm,
        seed=run.config.seed,
        config_hash=fingerprint(run.config),
        steps=run.shift.step,
        seconds=run.clock.seconds,
        evaluation_seconds=run.clock.evaluation_seconds,
        flops=run.clock.flops,
        parameters=parameters(run.model),
        weights_sha256=weights_sha256,
        evaluations=run.clock.evaluations,
        switches=tuple(run.switches),
        retreats=tuple(run.retreats),
        final=evaluations[-1].scores,
        ceilings=ceilings_of(run.data),
        data=to_dict(run.data.facts()),
        provenance=provenance(
            str(run.device), run.config.training.precision, torch.get_num_threads(), torch.__version__, run.world
        ),
        surroundings=run.clock.surroundings,
    )
    run.check_folder()
    write_json(run.folder / "summary.json", to_dict(summary))
    return summary


def _tell_lengths(run: Run, done: int, count: int, samples: int) -> None:
    """Tell the callbacks how many lengths this rank has tested; nothing where it has none to test."""
    for callback in run.callbacks if count else ():
        callback.on_lengths(done, count, samples)


def _write_lengths(run: Run, data: TaskData) -> None:
    """Score samples of every tested length of a task, and write the scores to lengths.json."""
    started = time.perf_counter()
    config, gains = data.config, run.shift.depth_gains
    own = config.tested_lengths[run.rank :: run.world]  # the ranks take the lengths in turn
    scored: dict[int, TaskLength] = {}
    with forward_alone(run.model):
        for done, length in enumerate(own):
            _tell_lengths(run, done, len(own), config.tests)
            scored[length] = score_length(run.model, data, run.device, length, config.tests, gains)
    _tell_lengths(run, len(own), len(own), config.tests)
    scores = {length: score for part in ranks.gathered(scored) for length, score in part.items()}
    run.clock.evaluation_seconds += time.perf_counter() - started
    if run.rank == 0:
        make_way(run.folder / "lengths.json")
        write_json(run.folder / "lengths.json", to_dict([scores[length] for length in config.tested_lengths]))
