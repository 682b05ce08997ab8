"""Commands, set-ups and numbers as text, in the form that the tables and pages of all experiments share."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from thalweg.errors import plural
from thalweg.experiments.experiment import Table
from thalweg.intervals import Interval
from thalweg.models.config import ModelConfig
from thalweg.records.experiment import ExperimentSummary
from thalweg.records.run import Cell, Verdict
from thalweg.report.page import NUMBERS
from thalweg.train.config import RunConfig


def command_words(*parts: str, **options: str | int | bool) -> str:
    """A thalweg command as a shell takes it.

    Args:
        parts: of the command, such as "study" and "text".
        options: option -> value. Values that are empty, zero or False are left out, because they are the defaults.

    Example:
        >>> command_words("study", "text", preset="quick", text="my notes", seeds=3, compile=True, device="")
        "thalweg study text --preset quick --text 'my notes' --seeds 3 --compile"
    """
    arguments = ["thalweg", *parts]
    for name, value in options.items():
        arguments += [] if not value else [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(arguments)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def markov_words(base: RunConfig, data: dict) -> str:
    """A sentence that describes the Markov language; ``data`` is what a run recorded of its data."""
    c, tail = base.data, data["long_tail"]
    return (
        f"Markov language: vocabulary {c.vocabulary}, order {c.order}, {100 * c.simple:.0f} % simple tokens (sure to "  # type: ignore[union-attr]
        f"{c.simple_sure:g}, complex {c.complex_sure:g}), language seed {c.source_seed}; {c.sequences} training and "  # type: ignore[union-attr]
        f"{c.held_out} held-out sequences of {c.length} tokens; low / high = bottom / top quarter by information content, cut on "  # type: ignore[union-attr]
        f"the training set (mean {tail['mean']:.2f} bits, skewness {tail['skewness']:.2f}, top quarter holds "
        f"{100 * tail['top_quarter_share']:.0f} % of the bits); scored from token {c.order + 1} on"  # type: ignore[union-attr]
    )


def text_words(base: RunConfig, data: dict) -> str:
    """A sentence that describes the text corpus; ``data`` is what a run recorded of its data."""
    return (
        f"bytes of {data['name']} ({data['files']} files, sha256 {data['sha256'][:16]}): {data['train_bytes']} training bytes, "
        f"{data['held_out_bytes']} in {data['held_out_files']} held-out files; windows of {base.data.length} bytes"
    )


def run_words(config: RunConfig) -> str:
    """A sentence that describes a run: data, model, training and stages."""
    settings, optimizer, data = config.training, config.optimizer, config.data
    stages = ", then ".join(map(str, config.shift.stages))
    return (
        f"{data.kind}, {data.length} positions; {model_words(config.model)}; {settings.steps} updates of {settings.batch}, "
        f"{optimizer.name} at rate {optimizer.rate:g} ({optimizer.schedule}); passes {stages}"
    )


def model_words(model: ModelConfig) -> str:
    """A phrase that describes a model: family, size, attention, norm, positions, head."""
    family = "attention-only" if model.block == "attention" else "GPT-2-style block (attention + MLP)"
    ends = f" between {model.prelude} before and {model.coda} after the passes" if model.prelude or model.coda else ""
    positions = "no positions" if model.positions == "none" else f"{model.positions} positions"
    return (
        f"{family}, {plural(model.layers, 'layer')}{ends}, width {model.width}, {plural(model.heads, 'head')}, {model.attention} "
        f"attention, norm {model.norm}, {positions}, {'tied' if model.tied else 'untied'} head"
        f"{', input injection' if model.injection else ''}"
    )


def threads_words(threads: int) -> str:
    """A phrase for the number of threads of a run, where 0 stands for all.

    Example:
        >>> threads_words(0), threads_words(1)
        ('all threads', '1 thread')
    """
    return plural(threads, "thread") if threads else "all threads"


def evidence(verdict: Verdict) -> str:
    """The first numbers of a verdict as text; where it was not measured, the reason."""
    if verdict.verdict == "not measured":
        return verdict.test
    numbers = [f"{name} {cell_text(value, value.n)}" for name, value in verdict.numbers.items()]
    more = f"; {len(numbers) - NUMBERS} more on the page" if len(numbers) > NUMBERS else ""
    return "; ".join(numbers[:NUMBERS]) + more


def cell_text(value: Cell, seeds: int, column: str = "") -> str:
    """A cell as text for the terminal: mean, interval, ceiling, and number of seeds where some have no value.

    Args:
        value: the cell.
        seeds: number of seeds of the experiment.
        column: key of the column; a "target" column without a value says that no seed reached the target.
    """
    if value.mean is None:
        return f"never ({seeds} seeds)" if column.startswith("target") else "-"
    text = f"{value.mean:.4g}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:.4g}, {value.high:.4g}]"
    if value.ceiling is not None:
        text += f" of {value.ceiling:.4g}"
    if value.n < seeds:
        text += f" ({value.n} of {seeds} seeds)"
    return text


def summary_table(summary: ExperimentSummary, what: str = "") -> Table:
    """The table of a summary that holds one, a row for each arm.

    Args:
        summary: with its table.
        what: the quantity in the cells, for the title; empty where the headings say it.
    """
    seeds = len(summary.seeds)
    rows = [
        (arm, *(cell_text(row[heading], seeds) if heading in row else "-" for heading in summary.columns))
        for arm, row in summary.table.items()
    ]
    title = f"{summary.name}: {what}{seeds} seeds, mean and 95 % interval"
    return Table(title, ("arm", *summary.columns), tuple(rows))


def factor(logs: Interval) -> str:
    """A ratio and its interval, from the interval of its logarithm.

    Example:
        >>> factor(Interval(0.0, -0.6931471805599453, 0.6931471805599453, 3))
        '1.00 [0.50, 2.00]'
    """
    ends = "" if logs.low is None or logs.high is None else f" [{_ratio(logs.low)}, {_ratio(logs.high)}]"
    return f"{_ratio(logs.mean)}{ends}"


def _ratio(log: float) -> str:
    """A ratio from its logarithm: two decimals, or two digits where it is below 0.01 or above 100."""
    value = math.exp(min(log, 700.0))
    return f"{value:.2f}" if 0.01 <= value < 100 else f"{value:.1e}"
