"""Set-ups and numbers in words, as every experiment's table and page show them."""

from __future__ import annotations

import shlex

from thalweg.models.config import ModelConfig
from thalweg.records.run import Cell, Verdict
from thalweg.report.page import NUMBERS
from thalweg.train.config import RunConfig


def command_words(*parts: str, **options: str | int | bool) -> str:
    """A command as a shell takes it; options that are empty, zero or False are left out, as they are the defaults.

    Example:
        >>> command_words("study", "text", preset="quick", text="my notes", seeds=3, compile=True, device="")
        "thalweg study text --preset quick --text 'my notes' --seeds 3 --compile"
    """
    words = ["thalweg", *parts]
    for name, value in options.items():
        words += [] if not value else [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def markov_words(base: RunConfig, data: dict) -> str:
    """The Markov language in a sentence."""
    c, tail = base.data, data["long_tail"]
    return (
        f"Markov language: vocabulary {c.vocabulary}, order {c.order}, {c.simple:.0%} simple tokens (sure to "  # type: ignore[union-attr]
        f"{c.simple_sure:g}, complex {c.complex_sure:g}), language seed {c.source_seed}; {c.sequences} training and "  # type: ignore[union-attr]
        f"{c.held_out} held-out sequences of {c.length} tokens; low / high = bottom / top quarter by information content, cut on "  # type: ignore[union-attr]
        f"the training set (mean {tail['mean']:.2f} bits, skewness {tail['skewness']:.2f}, top quarter holds "
        f"{tail['top_quarter_share']:.0%} of the bits); scored from token {c.order + 1} on"  # type: ignore[union-attr]
    )


def text_words(base: RunConfig, data: dict) -> str:
    """The corpus in a sentence."""
    return (
        f"bytes of {data['name']} ({data['files']} files, sha256 {data['sha256'][:16]}): {data['train_bytes']} training bytes, "
        f"{data['held_out_bytes']} in {data['held_out_files']} held-out files; windows of {base.data.length} bytes"
    )


def run_words(config: RunConfig) -> str:
    """A run in a sentence: data, model, training, stages."""
    settings, optimizer, data = config.training, config.optimizer, config.data
    stages = ", then ".join(map(str, config.shift.stages))
    return (
        f"{data.kind}, {data.length} positions; {model_words(config.model)}; {settings.steps} updates of {settings.batch}, "
        f"{optimizer.name} at rate {optimizer.rate:g} ({optimizer.schedule}); passes {stages}"
    )


def model_words(model: ModelConfig) -> str:
    """The model in a sentence."""
    family = "attention-only" if model.block == "attention" else "GPT-2-style block (attention + MLP)"
    return (
        f"{family}, {model.layers} layer(s), width {model.width}, {model.heads} head(s), {model.attention} attention, "
        f"norm {model.norm}, {model.positions} positions, {'tied' if model.tied else 'untied'} head"
        f"{', input injection' if model.injection else ''}"
    )


def evidence(verdict: Verdict) -> str:
    """The first numbers of a verdict; why, where it was not measured."""
    if verdict.verdict == "not measured":
        return verdict.test
    numbers = [f"{name} {in_words(value, value.n)}" for name, value in verdict.numbers.items()]
    more = f"; {len(numbers) - NUMBERS} more on the page" if len(numbers) > NUMBERS else ""
    return "; ".join(numbers[:NUMBERS]) + more


def in_words(value: Cell, seeds: int, column: str = "") -> str:
    """A cell for the terminal: mean, interval, ceiling; "never" where no seed has a value."""
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
