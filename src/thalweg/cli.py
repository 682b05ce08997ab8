"""The command line: one table from command to function. Heavy imports wait inside the calls, so that --help is quick."""

from __future__ import annotations

import functools
import inspect
import io
import os
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, Token

from thalweg.bounds import Seed, Threads, Whole, refuse
from thalweg.errors import StudyError, ThalwegError, require, shown, unknown
from thalweg.processes import end_with_parent
from thalweg.screen import complain, say, say_json

app = App(
    name="thalweg",
    help="""Train looped transformers in stages, and see the landscape they train in.

Example: `thalweg study markov --preset quick`""",
    version_flags=["--version"],
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


def whole(hint: Any, tokens: Sequence[Token]) -> Any:
    """Whole numbers as they are written: a fraction is refused, not rounded."""
    found = []
    for token in tokens:
        try:
            found.append(int(token.value))
        except ValueError:
            raise ValueError(f"given {shown(token.value)}, expected a whole number") from None
    return tuple(found) if typing.get_origin(hint) is tuple else found[0]


_Digits = Parameter(converter=whole)
_Seeds = Annotated[int, Whole(0, 10_000, "a whole number of at least 1"), _Digits]
_Jobs = Annotated[int, Whole(0, 1024, "a whole number of at least 1, or 0 for one for each core"), _Digits]
Loops = Annotated[int, Whole(0, 10**4, "at least 2 passes, as there is nothing to switch to otherwise"), _Digits]
_Count = Annotated[int | None, _Digits]
"""Bounded by the field of the plan that it goes into."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command whose numbers are checked against the bounds in their types first."""
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


@command
def study(
    task: str,
    /,
    *,
    preset: str = "quick",
    out: Path | None = None,
    arms: Annotated[str, Parameter(name="--arms")] = "",
    seeds: _Seeds = 0,
    jobs: _Jobs = 0,
    text: str = "",
    tasks: Annotated[str, Parameter(name="--task")] = "",
    device: str = "auto",
    compile: bool = False,
    landscape: bool = True,
    json_: _Json = False,
) -> None:
    """Make a whole study: runs of every arm over seeds, then table, verdicts, figures and report.html.

    A study that was interrupted goes on where it was when the same command is given again.

    Example: `thalweg study markov --preset quick --out results/markov`

    Parameters
    ----------
    task:
        What is learned: `markov` (the Markov language), `text` (bytes of real text) or `tasks` (algorithmic tasks); or an
        experiment of your own as module:Class, see `examples/an_experiment_of_your_own.py`.
    preset:
        `quick` (3 seeds, minutes), `paper` (all arms; markov and text: 5 seeds, spectra), for text `large` (a million parameters),
        for tasks `gpu` (one GPU, an hour or less) or `source` (the source's size, days).
    out:
        Folder of the study; results/TASK-PRESET when not given.
    arms:
        Some arms only, with commas: single,looped,shift,shift-hard,single-rescaled,single-flops; of tasks single,looped,shift,
        shift-short,shift-scp,shift-hard,looped-fast,looped-short,next-token,fixed,random.
    seeds:
        Number of seeds; 0 takes the preset's.
    jobs:
        Runs at a time; 0 takes one for each core.
    text:
        File or folder to learn (task `text`); Python's standard library when not given.
    tasks:
        Of the study `tasks`, with commas: parity,copy,addition,binary-sum,multiplication,unique-set, or a task of your own as
        module:attribute; all six when not given.
    device:
        `auto`, `cpu`, `cuda`, ...
    compile:
        Compile the models before their clocks start.
    landscape:
        Whether the landscape of every run is measured too; most of a study's time.
    json_:
        Print the summary as JSON on standard output.
    """
    from thalweg.experiments.engine import make
    from thalweg.experiments.experiment import Experiment
    from thalweg.experiments.paper.definition import PaperStudy
    from thalweg.experiments.paper.recipes import plan

    if ":" in task:
        _make_own(task, seeds, out, jobs, json_, arms or text or tasks)
        return
    if task not in _STUDIES:
        raise unknown("study", task, _STUDIES)
    chosen = _listed(arms)
    require(not tasks or task == "tasks", "--task", tasks, "to go with the study `tasks`")
    if task == "tasks":
        require(not text, "--text", text, "to go with the study `text`")
        require(not compile, "--compile", compile, "not to be given with the study `tasks`, whose batches have shapes of their own")
        from thalweg.experiments.tasks.definition import TaskStudy
        from thalweg.experiments.tasks.recipes import plan_tasks

        made: Experiment = TaskStudy(plan_tasks(preset, _listed(tasks), chosen, seeds, device))
    else:
        made = PaperStudy(plan(task, preset, chosen, seeds, text, device, compile, landscape))
    make(made, out or Path("results") / f"{task}-{preset}", jobs, json_)


def _make_own(name: str, seeds: int, out: Path | None, jobs: int, as_json: bool, others: str) -> None:
    """The command `study` for an experiment of a user's own."""
    from thalweg.experiments.engine import make
    from thalweg.experiments.own import find_experiment

    require(not others, "study", name, "an experiment of your own alone: its arms, data and seeds are what the class says")
    made = find_experiment(name, seeds)
    make(made, out or Path("results") / name.rpartition(":")[2], jobs, as_json)


@command
def frontier(
    source: str,
    /,
    *,
    preset: str = "quick",
    arms: Annotated[str, Parameter(name="--arms")] = "",
    loops: Loops = 0,
    seeds: _Seeds = 0,
    out: Path | None = None,
    jobs: _Jobs = 0,
    device: str = "auto",
    json_: _Json = False,
) -> None:
    """Find the schedule of passes that ends lowest for the operations that can be paid.

    Every arm (each constant depth, staged training, the paper's two stages) is trained at several budgets, each time with a
    complete learning-rate schedule, at a rate chosen for the arm on other seeds. Then the arms are compared at equal loss and at
    equal operations.

    Example: `thalweg frontier markov --preset quick --out results/frontier`

    Parameters
    ----------
    source:
        What is learned: `markov` (the Markov language, where depth hardly pays) or `pointers` (roots of trees, where it pays).
    preset:
        `quick` (3 seeds, minutes) or `paper` (5 seeds, an hour or more); of markov `deep` too (12 passes).
    arms:
        Some arms only, with commas: depth-1, depth-2, ..., plain-looped, shift, staged, staged-unscaled. The deepest constant arm
        is always there, as everything is compared with it.
    loops:
        T, the passes of the last stage; 0 takes the preset's.
    seeds:
        Number of seeds; 0 takes the preset's.
    out:
        Folder of the frontier; results/frontier-SOURCE-PRESET when not given.
    jobs:
        Runs at a time; 0 takes one for each core.
    device:
        `auto`, `cpu`, `cuda`, ...
    json_:
        Print the summary as JSON on standard output.
    """
    from thalweg.experiments.engine import make
    from thalweg.experiments.frontier.definition import FrontierStudy
    from thalweg.experiments.frontier.recipes import plan_frontier

    plan = plan_frontier(source, preset, _listed(arms), seeds, loops, device)
    make(FrontierStudy(plan), out or Path("results") / f"frontier-{source}-{preset}", jobs, json_)


@command
def shift_sweep(
    task: str,
    /,
    *,
    preset: str = "quick",
    loops: Loops = 0,
    groups: Annotated[str, Parameter(name="--groups")] = "",
    seeds: _Seeds = 0,
    out: Path | None = None,
    jobs: _Jobs = 0,
    text: str = "",
    device: str = "auto",
    json_: _Json = False,
) -> None:
    """Try ways to switch from one pass to many: when, how, and with what for the optimizer; heat maps and report.html.

    Single, Looped, SHIFT from the first update on, by SCP, and as in the paper, and a short one are always made; --groups chooses
    what else. A sweep that was interrupted goes
    on where it was when the same command is given again.

    Example: `thalweg shift-sweep markov --preset quick --groups scp,share`

    Parameters
    ----------
    task:
        What is learned: `markov` (the Markov language) or `text` (bytes of real text).
    preset:
        `quick` (3 seeds, a small grid, minutes) or `paper` (5 seeds, 36 settings of SCP).
    loops:
        Passes after the switch; 0 takes 6 for markov and 4 for text.
    groups:
        With commas: scp (grid of thresholds and patience), share (fixed moments), onset, optimizer, stages (ladders), safety (the
        net), model (controls that keep loops stable by themselves), or none; all when not given.
    seeds:
        Number of seeds; 0 takes the preset's.
    out:
        Folder of the sweep; results/TASK-shift-LOOPS-PRESET when not given.
    jobs:
        Runs at a time; 0 takes one for each core.
    text:
        File or folder to learn (task `text`); Python's standard library when not given.
    device:
        `auto`, `cpu`, `cuda`, ...
    json_:
        Print the summary as JSON on standard output.
    """
    from thalweg.experiments.engine import make
    from thalweg.experiments.switching.definition import SwitchingSweep
    from thalweg.experiments.switching.variants import GROUPS, sweep_of

    chosen = tuple(group for group in _listed(groups) if group != "none") if groups else GROUPS
    planned = sweep_of(task, preset, loops, chosen, seeds, text, device)
    make(SwitchingSweep(planned), out or Path("results") / f"{task}-shift-{planned.loops}-{preset}", jobs, json_)


@command
def train(
    config: Path,
    /,
    *,
    out: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    landscape: Annotated[bool, Parameter(negative="")] = False,
    json_: _Json = False,
) -> None:
    """Make one run from a TOML config, or go on with it where it was stopped.

    Example: `thalweg train run.toml --out results/run --set training.steps=500`

    Parameters
    ----------
    config:
        TOML file; `thalweg recipe markov` prints one to start from.
    out:
        Folder of the run; results/NAME-OF-THE-FILE when not given.
    set_:
        Change a value: section.key=value. May be given many times.
    landscape:
        Measure the landscape at each snapshot while the run goes on (needs training.snapshots); see `thalweg landscape`.
    json_:
        Print the run's summary as JSON on standard output.
    """
    from thalweg.serialization import to_dict
    from thalweg.train.callbacks import Callback, ProgressBar
    from thalweg.train.config import read_config
    from thalweg.train.trainer import train as make_run

    if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        raise ThalwegError("train: started on several ranks, expected one process; start it without torchrun")
    settings = read_config(config, set_)
    folder = out or Path("results") / config.stem
    label = f"{settings.arm} seed {settings.seed}"
    bar = ProgressBar(label)
    callbacks: list[Callback] = [bar]
    if landscape:
        from thalweg.survey.callback import along

        callbacks.insert(0, along(folder, settings, bar.measuring))  # first, so that the bar stays while the end is measured
    summary = make_run(settings, folder, callbacks)
    if json_:
        say_json(to_dict(summary))
        return
    scores = ", ".join(f"{name} loss {strata['all'].loss:.4f}" for name, strata in summary.final.items())
    say(f"{label}: {summary.steps} updates in {summary.seconds:.1f} s, {scores}; {folder}")


@command
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
    json_: _Json = False,
) -> None:
    """Measure the loss landscape along a run that is there: spectra, river and valley, alignment, hopping, lengths, slices.

    Everything goes into RUN/landscape, figures too. A landscape that was interrupted goes on where it was when the same command is
    given again; without options it keeps the plan it was begun with.

    Example: `thalweg landscape results/markov-quick/runs/looped-seed0`

    Parameters
    ----------
    run:
        The --out folder of `thalweg train`, with snapshots (training.snapshots) or at least checkpoints.
    checkpoints:
        How many snapshots are looked at; all when not given. Phases of learning need 40.
    sequences:
        Training sequences of the fixed batch (64 when not given).
    loops:
        Passes of the Looped side of the alignment; the run's last stage when not given.
    exact_seconds:
        Longest time for one exact spectrum (60 when not given); above it spectra are matrix-free.
    replays:
        Windows of training gone over again, for hopping and trapping (3 when not given).
    window:
        Updates of a window (100 when not given).
    lengths:
        Multiples of the training length to score at, one --lengths for each (1, 2, 4, 8 when not given).
    slices:
        Whether planes of the loss are drawn.
    dtype:
        float32 or float64, arithmetic of the products.
    threads:
        CPU threads; 0 leaves PyTorch's own choice.
    json_:
        Print all records as JSON on standard output.
    """
    from thalweg.records.landscape import LandscapePlan
    from thalweg.serialization import from_dict
    from thalweg.survey.command import measure_landscape

    given = {
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
    chosen = {name: value for name, value in given.items() if value is not None}
    measure_landscape(run, from_dict(LandscapePlan, chosen) if chosen else None, threads, json_)


@command
def report(folder: Path, other: Path | None = None, /, *, out: Path | None = None, json_: _Json = False) -> None:
    """Make table, answers, figures and report.html of a study or a sweep again, from its records; or compare two of them.

    Works on one that is still going on: what is missing is named, with how far it is.

    Example: `thalweg report results/markov-quick`; two side by side: `thalweg report results/markov-quick results/markov-paper`

    Parameters
    ----------
    folder:
        The --out folder of `thalweg study` or `thalweg shift-sweep`.
    other:
        A second one of the same kind: what differs between their settings, numbers and verdicts, in place of a report.
    out:
        Folder of the comparison; compare-A-B here when not given.
    json_:
        Print the summary as JSON on standard output.
    """
    require(out is None or other is not None, "--out", str(out), "two folders, whose comparison it is for")
    if other is not None:
        from thalweg.experiments.compare import compare

        compare(folder, other, out, json_)
        return
    from thalweg.experiments.engine import show
    from thalweg.experiments.registry import experiment_in

    found = experiment_in(folder)
    show(found, found.report(folder), folder, json_)


@command
def recipe(task: str, /, *, arm: str = "looped", preset: str = "quick", seed: Annotated[Seed, _Digits] = 0) -> None:
    """Print the config of one run as TOML, every key with what it is and its range, to change and to give to `thalweg train`.

    Of markov and text the run keeps snapshots, so that `thalweg landscape` has curves to draw.

    Example: `thalweg recipe markov --arm shift > run.toml`

    Parameters
    ----------
    task:
        `markov`, `text`, or an algorithmic task: parity, copy, addition, binary-sum, multiplication, unique-set, module:attribute.
    arm:
        single, looped, shift, shift-hard, single-rescaled or single-flops; of a task also shift-short, shift-scp, looped-fast,
        looped-short, next-token, fixed or random.
    preset:
        `quick` or `paper`; of a task also `gpu` or `source`.
    seed:
        Root seed of the run.
    """
    from thalweg.data.tasks import TASKS
    from thalweg.experiments.paper.recipes import plan, runs_of
    from thalweg.experiments.tasks.recipes import plan_tasks, task_runs
    from thalweg.train.config import SNAPSHOTS_FOR_CURVES
    from thalweg.train.config_comments import explained_text

    if task in TASKS or ":" in task:
        run = task_runs(plan_tasks(preset, (task,), (arm,), seeds=1))[task, arm, 0]
    elif task in _STUDIES[:2]:
        run = runs_of(plan(task, preset, (arm,), seeds=1))[f"{arm}-seed0"]
        run = replace(run, training=replace(run.training, snapshots=run.training.snapshots or SNAPSHOTS_FOR_CURVES))
    else:
        raise unknown("recipe", task, (*_STUDIES[:2], *TASKS))
    sys.stdout.write(explained_text(replace(run, seed=seed)))


@command
def verify(*statements: str, json_: _Json = False) -> None:
    """Try every statement of the theory on this machine, counterexamples included, and print what was found.

    Exit code 1 when one does not hold.

    Example: `thalweg verify` or `thalweg verify 3.2 CE1`

    Parameters
    ----------
    statements:
        Numbers as in docs/theory.md; all when none is given.
    json_:
        Print the findings as JSON on standard output.
    """
    from thalweg.verify.commands import verify as try_all

    try_all(statements, json_)


def _listed(words: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(word.strip() for word in words.split(",") if word.strip())


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit 0 when it worked, 1 when it failed, 2 when the input was bad, 130 when interrupted."""
    warnings.showwarning = one_line
    for stream in (sys.stdout, sys.stderr):  # a letter that the terminal's encoding lacks is shown as its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    end_with_parent()
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors become one line on standard error."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return refused(" ".join(str(error).split()), 2)
    except StudyError as error:
        return refused(str(error), error.exit_code)
    except ThalwegError as error:
        return refused(" ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        return refused("interrupted; give the same command again to go on", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        where = " ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return refused(f"cannot use {where or 'a file'}: {error.strerror or error}; choose another path or fix its rights", 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return refused(f"out of memory ({str(error).splitlines()[0] if str(error) else 'no more can be had'}); ask for less", 1)
    return 0


def _out_of_memory(error: Exception) -> bool:
    """Whether an error says that no more memory could be had; PyTorch has no class of its own for that on a CPU."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, MemoryError) or any(one in str(error) for one in words)


def refused(message: str, code: int) -> int:
    """Say what is wrong and hand the exit code on."""
    complain(message)
    return code


def one_line(message: Any, *_: Any) -> None:
    """Warnings as one line, without the source around them."""
    complain(f"warning: {' '.join(str(message).split())}")
