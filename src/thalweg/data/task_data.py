"""An algorithmic task as data: new samples for every update, at lengths that may grow during training.

Shape letters: B samples, L positions.

The input of a sample is its query, followed by one slot for each token of the answer. In *full-output prediction* (`format` "full")
every slot holds the end token, and the whole answer is predicted at once. In *next-token prediction* ("next") the slots hold the
end token and then the answer without its last token. Both have the same targets at the same positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from thalweg.bounds import Whole, named_arguments
from thalweg.data.batches import Tokens
from thalweg.data.find_task import check_name, checked_task, find_task, own
from thalweg.data.task import Task
from thalweg.errors import require
from thalweg.reprs import describe, short_repr
from thalweg.serialization import checked
from thalweg.streams import stream

IGNORED = -100
"""Target value at positions without a target."""
BEYOND = 1.5
"""Largest number of passes that is tried after training, as a multiple of the number that a length needs."""
_EXTRA = 0.5
"""With `loops` "random": largest number of passes added to T(n), as a share of T(n)."""


def with_extra(loops: int) -> int:
    """Largest number of passes that may be drawn, with `loops` "random", for a length that needs ``loops`` passes."""
    return loops + int(_EXTRA * loops)


@short_repr
@dataclass(frozen=True)
class Examples:
    """Samples of a task, padded at the end with the end token."""

    inputs: Tokens
    """Query and slots, ``(B, L)``."""
    targets: Tokens
    """``(B, L)``, `IGNORED` at positions without a target."""
    lengths: Tokens
    """Length n of each sample, ``(B,)``."""
    loops: Tokens
    """Number of passes of each sample, before any cap, ``(B,)``."""


@dataclass(frozen=True)
class TaskSet:
    """Samples for evaluation, grouped by length."""

    name: str
    groups: tuple[Examples, ...]
    """Samples of one length each."""


@named_arguments
@dataclass(frozen=True)
class TaskConfig:
    """An algorithmic task, its lengths, and the form of its samples.

    The module of a user's own task is not imported when the config is created, so that configs can be read without it. It is
    imported when `TaskData` is built, and by the properties that depend on the task.
    """

    kind: ClassVar[str] = "task"
    task: str = "parity"
    """Name: parity, copy, addition, binary-sum, multiplication, unique-set, or your own task as module:attribute."""
    longest: Annotated[int, Whole(1, 10_000)] = 20
    """Largest training length; training lengths start at 1."""
    start: Annotated[int, Whole(1, 10_000, "a length from 1 to data.longest")] = 3
    """Largest length at the first update, with `grow`."""
    grow: Annotated[int, Whole(0, 10**9, "a number of updates of at least 0")] = 0
    """Number of updates over which the largest length grows from `start` to `longest`; 0 for `longest` from the start."""
    lengths: Literal["grow", "stage"] = "grow"
    """What sets the largest length: the number of updates (see `grow`), or the stage (all lengths that its passes suffice for)."""
    format: Literal["full", "next"] = "full"
    """Full-output prediction (the whole answer at once) or next-token prediction."""
    loops: Literal["length", "fixed", "random"] = "length"
    """Passes for length n: T(n); T(longest) at every length; or, in training, T(n) plus a random number up to T(n) / 2."""
    samples: Annotated[int, Whole(1, 10**6)] = 50
    """Number of samples of every training length that are scored during training."""
    tested: tuple[Annotated[int, Whole(1, 10**5, "lengths of at least 1")], ...] = ()
    """Lengths to test after training; empty for multiples of longest / 4 up to twice `longest`."""
    tests: Annotated[int, Whole(1, 10**7)] = 1000
    """Number of test samples of each length."""

    def __post_init__(self) -> None:
        checked(self, "data.")
        check_name(self.task)
        require(1 <= self.start <= self.longest, "data.start", self.start, f"a length from 1 to data.longest, {self.longest}")
        fits = self.lengths == "grow" or (self.grow == 0 and self.loops == "length")
        wanted = 'a maximum that grows with data.grow, or data.grow = 0 and data.loops = "length" for one that the stage sets'
        require(fits, "data.lengths", self.lengths, wanted)
        if not self.own:
            self.check_passes(find_task(self.task))

    @property
    def own(self) -> bool:
        """Whether the task is one of the user's own; the properties below then import its module."""
        return own(self.task)

    def check_passes(self, task: Task) -> None:
        """Check the numbers of passes of a task; if the stage sets the lengths, they must not decrease with the length.

        Raises:
            BadInputError: the message names the length.
        """
        passes = {length: task.loops(length) for length in self.used_lengths}
        for length in range(2, self.longest + 1):
            fits = self.lengths == "grow" or passes[length] >= passes[length - 1]
            wanted = 'no fewer than at the length before, or data.lengths = "grow": a stage takes all lengths up to its longest'
            require(fits, f"task {task.name}: loops at length {length}", passes[length], wanted)

    @property
    def vocabulary(self) -> int:
        """Number of distinct tokens: the symbols and the end token."""
        return find_task(self.task).symbols + 1

    @property
    def length(self) -> int:
        """Positions of the longest training input plus one, as in data for next-token prediction, where a sequence has L + 1."""
        return self.positions(self.longest) + 1

    def positions(self, length: int) -> int:
        """Number of positions of an input of one length: query and slots."""
        task = find_task(self.task)
        return task.query(length, 1, np.random.default_rng(0)).shape[1] + task.slots(length)

    @property
    def deepest(self) -> int:
        """Largest number of passes of a training sample."""
        task = find_task(self.task)
        most = max(task.loops(length) for length in range(1, self.longest + 1))
        return with_extra(most) if self.loops == "random" else most

    def passes(self, length: int) -> int:
        """Number of passes for one length, without random extra passes."""
        return find_task(self.task).loops(self.longest if self.loops == "fixed" else length)

    def longest_at(self, step: int, cap: int | None = None) -> int:
        """Largest length in the batch of a step; ``cap`` is the stage's number of passes, None if it suffices for all lengths."""
        if self.lengths == "stage":
            loops = find_task(self.task).loops
            return next((n for n in range(self.longest, 1, -1) if cap is None or loops(n) <= cap), 1)
        return self.longest if step >= self.grow else self.start + (self.longest - self.start) * step // self.grow

    @property
    def tested_lengths(self) -> tuple[int, ...]:
        """Lengths tested after training."""
        quarters = (round(self.longest * quarter / 4) for quarter in range(1, 9))
        return self.tested or tuple(dict.fromkeys(max(1, length) for length in quarters))

    @property
    def horizon(self) -> int:
        """Largest number of passes that is tried after training, at every tested length."""
        return math.ceil(BEYOND * max(map(self.passes, self.tested_lengths)))

    @property
    def used_lengths(self) -> tuple[int, ...]:
        """All trained and tested lengths, ascending."""
        return tuple(sorted({*range(1, self.longest + 1), *self.tested_lengths}))


@named_arguments
class TaskData:
    """Samples of a task; those of an update are a function of its number and the seed.

    Args:
        config: the task and its lengths.
        seed: seed of the samples.
    Raises:
        BadInputError: a task of the user's own cannot be imported or is inconsistent at a trained or tested length, see
            `thalweg.check_task`; or its passes decrease with the length although the stage sets the lengths.
    """

    def __init__(self, config: TaskConfig, seed: int) -> None:
        self.config, self.seed, self.name = config, seed, config.task
        self.task = checked_task(config.task, config.used_lengths, count=20)
        if config.own:
            config.check_passes(self.task)
        self.vocabulary, self.length, self.deepest = config.vocabulary, config.length, config.deepest
        groups = [self.drawn(n, config.samples, stream(seed, "task-held-out", n)) for n in range(1, config.longest + 1)]
        self.evaluation = (TaskSet("held-out", tuple(groups)),)

    def __repr__(self) -> str:
        lengths = f"lengths 1 to {self.config.longest}"
        return describe(self, f"task {self.name}", lengths, f"at most {self.deepest} passes", f"seed={self.seed}")

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1, cap: int | None = None) -> Examples:
        """Samples of one step and rank, with lengths drawn uniformly from 1 to `TaskConfig.longest_at`, sorted by length."""
        rng = stream(self.seed, "tasks", step, rank)
        lengths, counts = np.unique(rng.integers(1, self.config.longest_at(step, cap) + 1, size=size), return_counts=True)
        samples = joined([self.drawn(int(n), int(count), rng) for n, count in zip(lengths, counts, strict=True)], self.task.symbols)
        if self.config.loops != "random":
            return samples
        extra = rng.integers(0, (_EXTRA * samples.loops).astype(np.int64) + 1)
        return Examples(samples.inputs, samples.targets, samples.lengths, samples.loops + extra)

    def at(self, length: int, count: int) -> Examples:
        """Test samples of one length, inside or outside of the trained range, from a random stream of their own.

        A length with few different queries has most of them in the training samples all the same: parity has 32 queries of length
        5, and a million of length 20.

        Args:
            length: length n of the samples.
            count: number of samples.
        Raises:
            BadInputError: a length or count below 1.
        """
        require(length >= 1, "length", length, "a whole number of at least 1")
        require(count >= 1, "count", count, "at least 1")
        return self.drawn(length, count, stream(self.seed, "task-tests", length))

    def drawn(self, length: int, count: int, rng: np.random.Generator) -> Examples:
        """Samples of one length, drawn from a generator."""
        query = self.task.query(length, count, rng)
        answer = self.task.answer(query, length)
        slots = np.full(answer.shape, self.task.symbols)
        if self.config.format == "next":
            slots[:, 1:] = answer[:, :-1]
        return Examples(
            inputs=np.concatenate([query, slots], axis=1),
            targets=np.concatenate([np.full(query.shape, IGNORED), answer], axis=1),
            lengths=np.full(count, length),
            loops=np.full(count, self.task.loops(self.config.longest if self.config.loops == "fixed" else length)),
        )

    def facts(self) -> dict:
        """What a record needs to know about the data; JSON values."""
        return {"kind": "task", "task": self.name, "longest": self.config.longest, "format": self.config.format}


def joined(parts: list[Examples], end: int) -> Examples:
    """Join samples of several lengths into one batch, padded to the width of the longest.

    Args:
        parts: the samples of each length.
        end: the end token, with which inputs are padded; targets are padded with `IGNORED`.
    """
    width = max(part.inputs.shape[1] for part in parts)

    def padded(tokens: Tokens, value: int) -> Tokens:
        return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=value)

    return Examples(
        inputs=np.concatenate([padded(part.inputs, end) for part in parts]),
        targets=np.concatenate([padded(part.targets, IGNORED) for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        loops=np.concatenate([part.loops for part in parts]),
    )
