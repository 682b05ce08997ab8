"""The command line: one function per command.

Each docstring below is the help text of its command. Modules that load PyTorch are imported inside the functions, so that
``thalweg --help`` answers at once.
"""

from __future__ import annotations

import functools
import inspect
import io
import itertools
import math
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, Token, UnknownCommandError, UnknownOptionError, UnusedCliTokensError

from thalweg.bounds import Number, Seed, Threads, Whole, refuse
from thalweg.errors import BadInputError, InstallationError, StudyError, ThalwegError, require, shown, synonyms, unknown
from thalweg.interruption import INTERRUPTED, TERMINATED, Terminated, raise_at_sigterm
from thalweg.processes import end_with_parent
from thalweg.screen import complain, say, say_json

app = App(
    name="thalweg",
    help="""Train looped transformers in stages, and measure the loss landscape they train in.

A looped transformer applies the same blocks several times. SHIFT trains with one pass first and with several later; staged training
with two, three and six passes, as far as they are below T, and then T.

Example: `thalweg study markov --preset quick` compares one pass, several passes and staged training, and writes a report.""",
    version_flags=["--version"],
    help_format="markdown",
    result_action="return_value",
    default_parameter=Parameter(show_default=lambda value: str(value) if value else None),  # 0, "" and False are told in words
    suppress_keyboard_interrupt=False,
)


def _to_integers(hint: Any, tokens: Sequence[Token]) -> Any:
    """Convert option values to integers; a fraction is refused, where cyclopts would round it."""
    values = []
    for token in tokens:
        try:
            values.append(int(token.value))
        except ValueError:
            raise ValueError(f"given {shown(token.value)}, expected a whole number") from None
    return tuple(values) if typing.get_origin(hint) is tuple else values[0]


_Digits = Parameter(converter=_to_integers)
_Seeds = Annotated[int, Whole(0, 10_000, "a whole number of at least 1, or 0 for the number of the preset"), _Digits]
_Jobs = Annotated[int, Whole(0, 1024, "a whole number of at least 1, or 0 for one for each core"), _Digits]
_Loops = Annotated[int, Whole(0, 10**4, "at least 2 passes, as there is nothing to switch to otherwise"), _Digits]
_Count = Annotated[int | None, _Digits]
"""An optional count; the field of `LandscapePlan` that takes it checks its range."""


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a function as a command that first checks its numbers against the bounds in their types."""
    hints, signature = typing.get_type_hints(function, include_extras=True), inspect.signature(function)

    @app.command
    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> None:
        for name, value in signature.bind(*arguments, **options).arguments.items():
            if name in hints:
                refuse(hints[name], value, f"--{name.strip('_').replace('_', '-')}")
        function(*arguments, **options)

    return checked


_STUDIES = ("markov", "text", "tasks")
_Json = Annotated[bool, Parameter(name="--json", negative="")]


@_command
def study(
    source: str,
    /,
    *,
    preset: str = "quick",
    out: Path | None = None,
    arms: Annotated[str, Parameter(name="--arms")] = "",
    seeds: _Seeds = 0,
    jobs: _Jobs = 0,
    executor: str = "local",
    text: str = "",
    tasks: Annotated[str, Parameter(name="--task")] = "",
    device: str = "auto",
    compile: bool = False,
    landscape: bool = True,
    json_: _Json = False,
) -> None:
    """Train every arm (variant) of a study over several seeds, and write table, verdicts, figures and report.html.

    To resume an interrupted study, give the same command again.

    Example: `thalweg study markov --preset quick --out results/markov`

    Parameters
    ----------
    source:
        What the models learn: `markov` (a synthetic Markov language), `text` (bytes of real text) or `tasks` (algorithmic tasks
        such as addition). Or your own experiment as module:Class; `examples/an_experiment_of_your_own.py` shows one.
    preset:
        Size of the study: `quick` (3 seeds; on two cores minutes for markov and text, an hour for all six tasks) or `paper` (all
        arms; for markov and text 5 seeds and curvature spectra; hours). For text also `large` (a million parameters) and `gpu`
        (ten million, for a GPU). For tasks also `small` (a minute a task), `gpu` (at most an hour on one GPU) and `source` (the
        size used in arXiv 2409.15647; days of a GPU).
    out:
        Folder for the results. Default: results/SOURCE-PRESET, with the tasks of --task between them.
    arms:
        Comma-separated arms to train; default: those of the preset. For markov and text: single, looped, shift, shift-hard,
        single-rescaled, single-flops. For tasks: single, looped, shift, shift-short, shift-scp, shift-hard, looped-fast,
        looped-short, next-token, fixed, random.
    seeds:
        Number of seeds; 0 takes the preset's number.
    jobs:
        Number of runs trained at the same time; 0 takes one per core.
    executor:
        Where the runs are started: `local`, `slurm` or `ray`; for a cluster with what each run is given, such as
        `slurm:cpus=4,gpus=1,minutes=120,partition=NAME`. `local:runs_per_gpu=4` puts four runs on each GPU of this machine.
    text:
        For the study `text`: the file or folder to learn. Default: the sources of Python's standard library.
    tasks:
        For the study `tasks`: comma-separated tasks out of parity, copy, addition, binary-sum, multiplication, unique-set, or your
        own task as module:attribute. Default: all six.
    device:
        Device that trains the models: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
    compile:
        Compile the models with torch.compile before the training time is measured.
    landscape:
        Also measure the loss landscape of every run; this takes most of a study's time.
    json_:
        Print the summary as JSON on standard output.
    """
    from thalweg.experiments.choose_executor import executor_of
    from thalweg.experiments.engine import make
    from thalweg.experiments.experiment import Experiment
    from thalweg.experiments.folder import slug
    from thalweg.experiments.paper.definition import PaperStudy
    from thalweg.experiments.paper.recipes import plan

    if ":" in source:
        _make_own(source, seeds, out, jobs, json_, executor, arms or text or tasks)
        return
    if source not in _STUDIES:
        raise _no_study(source)
    chosen = _listed(arms)
    require(not tasks or source == "tasks", "--task", tasks, "to go with the study `tasks`")
    if source == "tasks":
        require(not text, "--text", text, "to go with the study `text`")
        require(not compile, "--compile", compile, "no --compile: the batches of the study `tasks` vary in shape")
        from thalweg.experiments.tasks.definition import TaskStudy
        from thalweg.experiments.tasks.recipes import plan_tasks

        experiment: Experiment = TaskStudy(plan_tasks(preset, _listed(tasks), chosen, seeds, device))
    else:
        experiment = PaperStudy(plan(source, preset, chosen, seeds, text, device, compile, landscape))
    name = "-".join([source, *map(slug, _listed(tasks)), preset])
    make(experiment, out or Path("results") / name, jobs, json_, executor_of(executor))


def _no_study(source: str) -> BadInputError:
    """The error for a name that no study has; it names the command that has it, if one does."""
    from thalweg.data.tasks import TASKS
    from thalweg.experiments.frontier.sources import WITHOUT_STUDY

    commands = dict.fromkeys(TASKS, f"thalweg study tasks --task {source}")
    commands |= dict.fromkeys(WITHOUT_STUDY, f"thalweg frontier {source}")
    if source not in commands:
        return unknown("study", source, (*_STUDIES, "module:Class"))
    return BadInputError(f"unknown study {source!r}; give `{commands[source]}`. Known: {', '.join(_STUDIES)}")


def _make_own(name: str, seeds: int, out: Path | None, jobs: int, as_json: bool, executor: str, others: str) -> None:
    """Run the command `study` for the user's own experiment class."""
    from thalweg.experiments.choose_executor import executor_of
    from thalweg.experiments.engine import make
    from thalweg.experiments.user_experiment import find_experiment

    require(not others, "study", name, "an experiment of your own alone, without --arms, --text and --task: its class defines them")
    experiment = find_experiment(name, seeds)
    make(experiment, out or Path("results") / name.rpartition(":")[2], jobs, as_json, executor_of(executor))


@_command
def frontier(
    source: str,
    /,
    *,
    preset: str = "quick",
    arms: Annotated[str, Parameter(name="--arms")] = "",
    loops: _Loops = 0,
    seeds: _Seeds = 0,
    out: Path | None = None,
    jobs: _Jobs = 0,
    executor: str = "local",
    device: str = "auto",
    optimizer: str = "adamw",
    text: str = "",
    budgets: Annotated[str, Parameter(name="--budgets")] = "",
    json_: _Json = False,
) -> None:
    """Find the schedule of passes that ends lowest for the operations that can be paid.

    Every arm (each constant depth, staged training, the paper's two stages) is trained at several budgets, each time with a
    complete learning-rate schedule, at a rate chosen for the arm on other seeds (`quick`: at one rate). Then the arms are compared
    at equal loss and at equal operations.

    Example: `thalweg frontier markov --preset quick --out results/frontier`

    Parameters
    ----------
    source:
        What is learned: `markov` (the Markov language, where depth hardly pays), or, where it pays, `pointers` (roots of trees) or
        `ancestors` (topmost marked ancestors), or `text` (bytes), or an algorithmic task, such as `parity` or your own as
        module:attribute, for SHIFT along its lengths.
    preset:
        `quick` (3 seeds, minutes; of a task up to an hour) or `paper` (5 seeds, an hour or more, not of tasks); also `deep` (12
        passes) of markov, and `gpu` (25 million parameters) of text.
    arms:
        Some arms (ways to train) only, with commas: depth-1, depth-2, ... (so many passes throughout), plain-looped (T passes of
        the paper's model), shift (the paper's two stages), staged (few passes first, then more), staged-unscaled; when not given,
        all of these, or for `quick` of markov depth-1, depth-2, depth-6 and staged. Other ways to keep T passes trainable:
        looped-own-gains, looped-norm, looped-by-t, looped-deepnorm; other ends of the stages: staged-early, staged-even,
        staged-late, staged-plateau. The deepest constant arm is always there, as everything is compared with it. A task has the
        arms depth-1, staged and the depth of its longest trained length.
    loops:
        T, the largest number of passes; 0 takes the preset's.
    seeds:
        Number of seeds; 0 takes the preset's.
    out:
        Folder of the frontier; results/frontier-SOURCE-PRESET when not given.
    jobs:
        Runs at a time; 0 takes one for each core.
    executor:
        Where the runs are started: `local`, `slurm` or `ray`; for a cluster with what each run is given, such as
        `slurm:cpus=4,gpus=1,minutes=120,partition=NAME`. `local:runs_per_gpu=4` puts four runs on each GPU of this machine.
    device:
        `auto`, `cpu`, `cuda`, ...
    optimizer:
        Of every arm: `adamw`, or `muon` for the matrices of the blocks.
    text:
        File or folder for source `text`; the files of Python's standard library when not given.
    budgets:
        Operations of a run in GFLOP (1e9 operations), rising, with commas; the preset's when not given.
    json_:
        Print the summary as JSON on standard output.
    """
    from thalweg.experiments.choose_executor import executor_of
    from thalweg.experiments.engine import make
    from thalweg.experiments.folder import slug
    from thalweg.experiments.frontier.definition import FrontierStudy
    from thalweg.experiments.frontier.plan import plan_frontier

    paid = _numbers("--budgets", budgets)
    plan = plan_frontier(source, preset, _listed(arms), seeds, loops, device, optimizer, text, paid)
    name = "-".join(["frontier", slug(source), preset, *([] if optimizer == "adamw" else [optimizer])])
    make(FrontierStudy(plan), out or Path("results") / name, jobs, json_, executor_of(executor))


@_command
def shift_sweep(
    source: str,
    /,
    *,
    preset: str = "quick",
    loops: _Loops = 0,
    groups: Annotated[str, Parameter(name="--groups")] = "",
    seeds: _Seeds = 0,
    out: Path | None = None,
    jobs: _Jobs = 0,
    executor: str = "local",
    text: str = "",
    device: str = "auto",
    json_: _Json = False,
) -> None:
    """Compare ways to switch from one pass to several: when to switch, how fast, and what to do with the optimizer.

    Writes heat maps and report.html. The sweep always trains the baselines: one pass (Single), all passes from the start (Looped),
    SHIFT with a ramp from the first update on, SHIFT switched by the plateau criterion SCP, the paper's SHIFT, and a short one.
    The option --groups chooses the variants beyond these. To resume an interrupted sweep, give the same command again.

    Example: `thalweg shift-sweep markov --preset quick --groups scp,share`

    Parameters
    ----------
    source:
        What the models learn: `markov` (a synthetic Markov language) or `text` (bytes of real text).
    preset:
        Size of the sweep: `quick` (3 seeds, a small grid, minutes) or `paper` (5 seeds, 36 settings of SCP).
    loops:
        Number of passes after the switch; 0 takes 6 for markov and 4 for text.
    groups:
        Comma-separated groups of variants; default: all. `scp`: grid over thresholds and patience of the criterion. `share`:
        switches after a fixed share of the run. `onset`: ways to bring in the new passes. `optimizer`: what becomes of the
        optimizer's state. `stages`: several switches, such as 1, 2, 4 passes. `safety`: taking a failed switch back. `model`:
        models that are stable with many loops by construction. `none`: the baselines only.
    seeds:
        Number of seeds; 0 takes the preset's number.
    out:
        Folder for the results. Default: results/SOURCE-shift-LOOPS-PRESET.
    jobs:
        Number of runs trained at the same time; 0 takes one per core.
    executor:
        Where the runs are started: `local`, `slurm` or `ray`; for a cluster with what each run is given, such as
        `slurm:cpus=4,gpus=1,minutes=120,partition=NAME`. `local:runs_per_gpu=4` puts four runs on each GPU of this machine.
    text:
        For the source `text`: the file or folder to learn. Default: the sources of Python's standard library.
    device:
        Device that trains the models: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
    json_:
        Print the summary as JSON on standard output.
    """
    from thalweg.experiments.choose_executor import executor_of
    from thalweg.experiments.engine import make
    from thalweg.experiments.switching.definition import SwitchingSweep
    from thalweg.experiments.switching.variants import GROUPS, sweep_of

    chosen = tuple(group for group in _listed(groups) if group != "none") if groups else GROUPS
    planned = sweep_of(source, preset, loops, chosen, seeds, text, device)
    make(
        SwitchingSweep(planned),
        out or Path("results") / f"{source}-shift-{planned.loops}-{preset}",
        jobs,
        json_,
        executor_of(executor),
    )


@_command
def train(
    config: Path,
    /,
    *,
    out: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    landscape: Annotated[bool, Parameter(negative="")] = False,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    timeout: Annotated[float, Number(1, 10**6, "seconds, at least 1")] = 600.0,
    json_: _Json = False,
) -> None:
    """Train one model from a TOML config, or resume a run that was stopped.

    Started by torchrun, several processes train one model: each takes a part of every batch, and the gradients are averaged.

    Example: `thalweg train run.toml --out results/run --set training.steps=500`, or on two processes
    `torchrun --nproc-per-node 2 -m thalweg train run.toml --out results/run`

    Parameters
    ----------
    config:
        TOML file that describes the run; `thalweg recipe markov` prints one to start from.
    out:
        Folder for the run. Default: results/NAME, where NAME is the file name of the config.
    set_:
        Override a value of the config: section.key=value. May be given several times.
    landscape:
        Measure the loss landscape at every snapshot during training (needs training.snapshots); see `thalweg landscape`.
    parallel:
        Under torchrun: what each process keeps. `ddp`: all weights, gradients and moments. `fsdp`: its part of them (FSDP2); the
        weights are gathered for each update.
    timeout:
        Under torchrun: seconds that a process waits for another one before it ends with a message.
    json_:
        Print the run's summary as JSON on standard output.
    """
    from thalweg.serialization import to_dict
    from thalweg.train.config import read_config

    folder = out or Path("results") / config.stem
    if not _several_processes():  # before PyTorch is loaded, so that a mistake is answered at once
        read_config(config, set_)

    from thalweg import ranks
    from thalweg.data.task_data import TaskConfig
    from thalweg.records.run import read_lengths
    from thalweg.train.callbacks import Callback, ProgressBar
    from thalweg.train.group import flat, joined, refuse_differences
    from thalweg.train.trainer import train as make_run

    with joined(timeout):
        with ranks.together():
            settings = read_config(config, set_)
        refuse_differences(flat(to_dict(settings)) | {"--out": str(folder), "--landscape": landscape, "--parallel": parallel})
        first = ranks.rank() == 0
        label = f"{settings.arm} seed {settings.seed}"
        bar = ProgressBar(label)
        callbacks: list[Callback] = [bar] if first else []
        if landscape:
            from thalweg.survey.callback import along

            # First, so that the bar stays while the end is measured.
            callbacks.insert(0, along(folder, settings, bar.measuring if first else None))
        complete = (folder / "summary.json").exists()
        summary = make_run(settings, folder, callbacks, parallel)
    if not first:
        return
    if json_:
        say_json(to_dict(summary))
        return
    scores = ", ".join(f"{name} loss {strata['all'].loss:.4f}" for name, strata in summary.final.items())
    state = "complete already, " if complete else ""
    say(f"{label}: {state}{summary.steps} updates in {summary.seconds:.1f} s, {scores}; {folder}")
    if isinstance(settings.data, TaskConfig):
        matches = ", ".join(f"{one.length}: {one.accuracy:.2f}" for one in read_lengths(folder))
        depth = summary.switches[-1].loops_after if summary.switches else settings.shift.stages[0]
        say(f"{label}: exact match by length (trained up to {settings.data.longest_at(summary.steps - 1, depth)}): {matches}")


@_command
def plan(
    config: Path,
    /,
    *,
    ranks: Annotated[int, Whole(1, 10**6, "at least 1"), _Digits] = 1,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    rate: Annotated[float, Number(0, 1e20)] = 0.0,
    bandwidth: Annotated[float, Number(1, 1e15)] = 1.25e9,
    latency: Annotated[float, Number(0, 10)] = 2e-5,
    json_: _Json = False,
) -> None:
    """Estimate what a run needs on several ranks: operations, memory, bytes over the network, and time of an update.

    For data parallelism (`--parallel ddp` of `thalweg train`) and for fully sharded data parallelism (`--parallel fsdp`).

    Example: `thalweg plan run.toml --ranks 8 --rate 4e13 --bandwidth 2.5e10`

    Parameters
    ----------
    config:
        TOML file that describes the run.
    ranks:
        Number of processes, each with a device of its own.
    set_:
        Override a value of the config: section.key=value. May be given several times.
    rate:
        Counted floating-point operations per second of one device. 0 measures some updates on this machine.
    bandwidth:
        Bytes per second that a rank sends over the network. Default: that of 10 Gbit/s.
    latency:
        Seconds that one message takes besides.
    json_:
        Print the numbers as JSON on standard output.
    """
    from thalweg.train.config import read_config
    from thalweg.train.rank_costs import print_plan

    print_plan(read_config(config, set_), ranks, rate, bandwidth, latency, json_)


@_command
def landscape(
    run: Path,
    /,
    *,
    checkpoints: _Count = None,
    sequences: _Count = None,
    loops: _Count = None,
    exact_seconds: float | None = None,
    replays: _Count = None,
    window: _Count = None,
    lengths: Annotated[tuple[int, ...] | None, _Digits] = None,
    slices: bool | None = None,
    dtype: str | None = None,
    threads: Annotated[Threads, _Digits] = 0,
    timeout: Annotated[float, Number(1, 10**6, "seconds, at least 1")] = 3600.0,
    json_: _Json = False,
) -> None:
    """Measure the loss landscape along a finished run.

    Measured are: Hessian spectra, the split into river (flat) and valley (steep) directions, the alignment of one-pass and
    all-pass gradients, hopping between valley walls, accuracy on longer sequences, and slices of the loss. Records and figures go
    into RUN/landscape. To resume an interrupted measurement, give the same command again; without options it keeps its settings.

    Started by torchrun, several processes share the batch out for the spectra, and take all other measurements in turn.

    Example: `thalweg landscape results/markov-quick/runs/looped-seed0`

    Parameters
    ----------
    run:
        Folder of the run: the --out folder of `thalweg train`, with snapshots (training.snapshots) or at least checkpoints.
    checkpoints:
        Number of snapshots to measure at. Default: all. The phases of learning need 40.
    sequences:
        Number of training sequences in the batch whose loss is studied. Default: 64.
    loops:
        Number of passes whose gradient is compared with the gradient of one pass. Default: that of the run's last stage.
    exact_seconds:
        Longest time in seconds for one exact spectrum; a slower one is estimated by matrix-free methods. Default: 60.
    replays:
        Number of windows in which the training is repeated to detect hopping and trapping. Default: 3.
    window:
        Number of updates in a window. Default: 100.
    lengths:
        Multiples of the training length to score at; repeat the option for each. Default: 1, 2, 4 and 8.
    slices:
        Compute the loss on two-dimensional planes through the final weights.
    dtype:
        Arithmetic of the Hessian-vector products: `float32` or `float64`.
    threads:
        CPU threads; 0 leaves PyTorch's own choice.
    timeout:
        Under torchrun: seconds that a process waits for another one before it ends with a message.
    json_:
        Print all records as JSON on standard output.
    """
    from thalweg.records.landscape import LandscapePlan
    from thalweg.serialization import from_dict
    from thalweg.survey.command import measure_landscape
    from thalweg.train.group import joined, refuse_differences

    options = {
        "checkpoints": checkpoints,
        "sequences": sequences,
        "loops": loops,
        "exact_seconds": exact_seconds,
        "replays": replays,
        "window": window,
        "lengths": lengths,
        "slices": slices,
        "dtype": dtype,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    with joined(timeout):
        refuse_differences({"RUN": str(run)} | {f"--{name.replace('_', '-')}": value for name, value in options.items()})
        measure_landscape(run, from_dict(LandscapePlan, chosen) if chosen else None, threads, json_)


@_command
def report(folder: Path, other: Path | None = None, /, *, out: Path | None = None, json_: _Json = False) -> None:
    """Rebuild table, verdicts, figures and report.html of a study or sweep from its records, or compare two of them.

    Also works while a study is still running: the report then lists the missing runs and their progress.

    Example: `thalweg report results/markov-quick`; to compare two: `thalweg report results/markov-quick results/markov-paper`

    Parameters
    ----------
    folder:
        Folder of the study: the --out folder of `thalweg study`, `thalweg shift-sweep` or `thalweg frontier`. Or the folder of
        a landscape that was measured along a training with another library; its figures are drawn.
    other:
        Folder of a second study of the same kind. If given, the command compares settings, numbers and verdicts of the two.
    out:
        Folder for the comparison. Default: compare-A-B in the current folder.
    json_:
        Print the summary as JSON on standard output.
    """
    require(out is None or other is not None, "--out", str(out), "two folders to compare: a report goes into its own folder")
    if other is not None:
        from thalweg.experiments.compare import compare

        compare(folder, other, out, json_)
        return
    from thalweg.experiments.engine import show
    from thalweg.experiments.registry import experiment_in
    from thalweg.survey.command import figures_of_series

    if figures_of_series(folder):
        return
    experiment = experiment_in(folder)
    show(experiment, experiment.report(folder), folder, json_)


@_command
def recipe(source: str, /, *, arm: str = "", preset: str = "quick", seed: Annotated[Seed, _Digits] = 0) -> None:
    """Print the config of one run as TOML, with the meaning and range of every key; edit it and give it to `thalweg train`.

    For markov and text the config keeps snapshots, so that `thalweg landscape` can draw curves.

    Example: `thalweg recipe markov --arm shift > run.toml`

    Parameters
    ----------
    source:
        What the model learns: `markov`, `text`, `pointers`, `ancestors`, or an algorithmic task: parity, copy, addition,
        binary-sum, multiplication, unique-set, or your own as module:attribute.
    arm:
        Variant of the training. For markov and text: single, looped (the default), shift, shift-hard, single-rescaled,
        single-flops. For a task: single, looped (the default), shift, shift-hard, shift-short, shift-scp, looped-fast,
        looped-short, next-token, fixed, random. For pointers and ancestors the arms of `thalweg frontier`: depth-1, ..., depth-5
        (the default), plain-looped, shift, staged, staged-unscaled.
    preset:
        Size of the run: `quick` or `paper`; for text also `large` or `gpu`, for a task also `small`, `gpu` or `source`.
    seed:
        Seed from which all random numbers of the run are derived.
    """
    from thalweg.data.tasks import TASKS
    from thalweg.experiments.frontier.plan import one_run
    from thalweg.experiments.frontier.sources import WITHOUT_STUDY
    from thalweg.experiments.paper.recipes import plan, runs_of
    from thalweg.experiments.tasks.recipes import plan_tasks, task_runs
    from thalweg.train.config import SNAPSHOTS_FOR_CURVES
    from thalweg.train.config_comments import explained_text

    if source in WITHOUT_STUDY:
        run = one_run(source, arm, preset)
    elif source in TASKS or ":" in source:
        arm = arm or "looped"
        run = task_runs(plan_tasks(preset, (source,), (arm,), seeds=1))[source, arm, 0]
    elif source in _STUDIES[:2]:
        arm = arm or "looped"
        run = runs_of(plan(source, preset, (arm,), seeds=1))[f"{arm}-seed0"]
        run = replace(run, training=replace(run.training, snapshots=run.training.snapshots or SNAPSHOTS_FOR_CURVES))
    else:
        raise unknown("recipe", source, (*_STUDIES[:2], *WITHOUT_STUDY, *TASKS, "module:attribute"))
    sys.stdout.write(explained_text(replace(run, seed=seed)))


@_command
def verify(*statements: str, json_: _Json = False) -> None:
    """Test the statements of the theory numerically on this machine, counterexamples included, and print the results.

    Exits with code 1 if a statement does not hold.

    Example: `thalweg verify` or `thalweg verify 3.2 CE1`

    Parameters
    ----------
    statements:
        Numbers of the statements to test, as in docs/theory.md. Default: all.
    json_:
        Print the results as JSON on standard output.
    """
    from thalweg.verify.commands import verify as try_all

    try_all(statements, json_)


@_command
def doctor(*, json_: _Json = False) -> None:
    """Print versions, devices, threads and what is missing, on one screen to paste into a bug report.

    Exits with code 1 if a package that thalweg requires is missing or too old.

    Example: `thalweg doctor`

    Parameters
    ----------
    json_:
        Print the findings as JSON on standard output.
    """
    from thalweg.doctor import describe, diagnose
    from thalweg.serialization import to_dict

    found = diagnose()
    if json_:
        say_json(to_dict(found))
    else:
        for line in describe(found):
            say(line)
    if found.problems:
        raise InstallationError(found.problems[0] + (f" (and {len(found.problems) - 1} more)" if found.problems[1:] else ""))


def _listed(text: str) -> tuple[str, ...]:
    """Split a comma-separated list, without empty items."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers of a comma-separated list.

    Raises:
        BadInputError: something in it is no finite number.
    """
    try:
        numbers = tuple(float(item) for item in _listed(text))
    except ValueError:
        numbers = (math.inf,)
    require(all(map(math.isfinite, numbers)), option, text, "numbers with commas between them")
    return numbers


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 if it worked, 1 if it failed, 2 if the input was bad, 130 or 143 if it was asked to end."""
    warnings.showwarning = one_line
    for stream in (sys.stdout, sys.stderr):  # print a character that the terminal's encoding lacks as its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    end_with_parent()
    if not _several_processes():  # a rank that waits for another one must end at once, whatever it waits in
        raise_at_sigterm()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # PyTorch's C++ prints its stack besides our line where a rank is lost
    code = call(sys.argv[1:] if arguments is None else arguments)
    if _several_processes():
        # Threads of the process group sometimes abort the process while the interpreter is torn down; everything is written by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _several_processes() -> bool:
    """Whether torchrun or another launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse a value that is empty, as an unset variable of a shell gives it, or a list without items.

    It would silently mean the default, or the present folder.

    Raises:
        BadInputError: names the option.
    """
    for before, argument in itertools.pairwise(["", *arguments]):
        name, _, value = argument.partition("=") if re.match(r"--[\w-]+=", argument) else (before, "", argument)
        if not value.strip(" ,"):
            option = name if name.startswith("--") else ""
            expected = f"a value; leave {option} out for the default" if option else "a value"
            place = option or (f"the argument after {before}" if before else "command")
            raise BadInputError(f"{place}: given {shown(value)}, expected {expected}")


def call(arguments: list[str]) -> int:
    """Run a command and return its exit code; print an error as one line on standard error."""
    try:
        _refuse_empty(arguments)
        app(arguments, exit_on_error=False, print_error=False)
    except UnknownOptionError as error:
        return _fail(str(_unknown_option(error, arguments)), 2)
    except CycloptsError as error:
        if isinstance(error, UnknownCommandError):
            # cyclopts lists the first eight, and calls options commands too.
            if arguments[0].startswith("-"):
                return _fail(str(unknown("option", arguments[0], [name for name in app if name.startswith("-")])), 2)
            commands = [name for name in app if not name.startswith("-")]
            return _fail(str(unknown("command", arguments[0], [*commands, "--help"])), 2)
        if isinstance(error, UnusedCliTokensError):
            more = shown((error.unused_tokens or [""])[0])
            return _fail(f"given {more} besides, expected nothing more; `thalweg {arguments[0]} --help` has an example", 2)
        command = " ".join(["thalweg", *(name for name in arguments[:1] if name in app)])
        return _fail(f"{' '.join(str(error).split()).rstrip('., ')}; `{command} --help` has an example", 2)
    except StudyError as error:
        return _fail(str(error), error.exit_code)
    except ThalwegError as error:
        return error.exit_code if error.told_elsewhere else _fail(" ".join(str(error).split()), error.exit_code)
    except Terminated:
        return _fail("ended by SIGTERM; give the same command again to go on", TERMINATED)
    except KeyboardInterrupt:
        return _fail("interrupted; give the same command again to go on", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        where = " ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return _fail(f"cannot use {where or 'a file'}: {error.strerror or error}; choose another path or fix its rights", 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "none left"
        return _fail(f"out of memory ({reason}); choose a smaller model, batch or number of jobs", 1)
    return 0


def _unknown_option(error: UnknownOptionError, arguments: list[str]) -> BadInputError:
    """The error for an option that a command lacks; where the command takes ``--set``, it may lead to a key of the config."""
    known = {name for argument in error.argument_collection for name in argument.names if name.startswith("--")}
    places: dict[str, Sequence[str]] = {}
    if "--set" in known:
        from thalweg.serialization import key_paths
        from thalweg.train.config import RunConfig

        places = {name: (f"'--set {path}=VALUE'",) for name, path in key_paths(RunConfig).items()}
    given = (error.token.keyword or error.token.value).partition("=")[0]
    key = next((name for name in synonyms(given.lstrip("-")) if name in places), "")
    if f"--{key}" in known:  # such as the rate of `thalweg plan`, which is that of a device
        return BadInputError(f"unknown option of `thalweg {arguments[0]}` {given!r}; did you mean {places[key][0]} or '--{key}'?")
    return unknown(f"option of `thalweg {arguments[0]}`" if known else "option", given, known, places)


def _out_of_memory(error: Exception) -> bool:
    """Whether an error reports a lack of memory; on a CPU PyTorch raises a plain RuntimeError for it."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


def _fail(message: str, code: int) -> int:
    """Print an error message and return the exit code."""
    complain(message)
    return code


def one_line(message: Any, *_: Any) -> None:
    """Print a warning as one line, without the source line that Python adds."""
    complain(f"warning: {' '.join(str(message).split())}")
