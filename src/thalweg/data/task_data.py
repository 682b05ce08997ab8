"""An algorithmic task as data: fresh samples for every update, at lengths that may grow.

Shape letters: B samples, L positions.

*Full-output prediction* (`format` "full"): the input is the query and one end token for each slot of the answer; the whole answer
is asked at those slots at once. *Next-token prediction* ("next"): the slots hold the end token and then the answer but its last
token. Both ask for the same tokens at the same places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from thalweg.bounds import Whole
from thalweg.data.batches import Tokens
from thalweg.data.find_task import check_name, checked_task, find_task, own
from thalweg.data.task import Task
from thalweg.errors import require
from thalweg.serialization import checked
from thalweg.streams import stream

IGNORED = -100
"""Target of a position where nothing is asked."""
BEYOND = 1.5
"""Loops that are tried after training, as a multiple of those that a length asks for."""
_EXTRA = 0.5
"""Loops that are drawn on top of T(n), at most, as a share of it; `loops` "random" only."""


def with_extra(loops: int) -> int:
    """Most loops that are drawn where a length asks for this many."""
    return loops + int(_EXTRA * loops)


@dataclass(frozen=True)
class Examples:
    """Samples of a task, padded at the end with the end token."""

    inputs: Tokens
    """``(B, L)``."""
    targets: Tokens
    """``(B, L)``, `IGNORED` where nothing is asked."""
    lengths: Tokens
    """n of each sample, ``(B,)``."""
    loops: Tokens
    """Passes of each sample before any cap, ``(B,)``."""


@dataclass(frozen=True)
class TaskSet:
    """Samples that are scored, in groups of one length."""

    name: str
    groups: tuple[Examples, ...]


@dataclass(frozen=True)
class TaskConfig:
    """A task, its lengths, and how it is asked.

    A task of the user's own is not imported here, so that a config can be read where its module is not there: it is when `TaskData`
    is made, and where one of the properties that follow from the task is asked for.
    """

    kind: ClassVar[str] = "task"
    task: str = "parity"
    """parity, copy, addition, binary-sum, multiplication, unique-set, or a task of your own as module:attribute."""
    longest: Annotated[int, Whole(1, 10_000)] = 20
    """Training lengths are 1 to this."""
    start: Annotated[int, Whole(1, 10_000, "a length from 1 to data.longest")] = 3
    """Longest length at the first update."""
    grow: Annotated[int, Whole(0, 10**9, "a number of updates of at least 0")] = 0
    """Updates over which the maximum grows linearly from `start` to `longest`; 0 for `longest` from the first update on."""
    lengths: Literal["grow", "stage"] = "grow"
    """What sets the maximum: the updates made, as above; or the stage: the longest for which its passes are enough."""
    format: Literal["full", "next"] = "full"
    """The whole answer at once, or token by token."""
    loops: Literal["length", "fixed", "random"] = "length"
    """T(n) passes; T(longest) at every length; or T(n) and in training up to half as many more, drawn for every sample."""
    samples: Annotated[int, Whole(1, 10**6)] = 50
    """Of every training length, scored during training."""
    tested: tuple[Annotated[int, Whole(1, 10**5, "lengths of at least 1")], ...] = ()
    """Lengths tested after training; empty for quarters of `longest` up to twice it."""
    tests: Annotated[int, Whole(1, 10**7)] = 1000
    """Samples of each."""

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
        """Whether the task is one of the user's own: what follows from it below imports its module, the config itself does not."""
        return own(self.task)

    def check_passes(self, task: Task) -> None:
        """Refuse a task that asks for no passes, and one that a stage cannot set the lengths of.

        Raises:
            BadInputError: names the length.
        """
        passes = {length: task.loops(length) for length in self.used_lengths}
        for length in range(2, self.longest + 1):
            rises = self.lengths == "grow" or passes[length] >= passes[length - 1]
            wanted = 'no fewer than at the length before, or data.lengths = "grow": a stage takes all lengths up to its longest'
            require(rises, f"task {task.name}: loops at length {length}", passes[length], wanted)

    @property
    def vocabulary(self) -> int:
        """Symbols and the end token."""
        return find_task(self.task).symbols + 1

    @property
    def length(self) -> int:
        """One more than the positions of the longest training input, as a model that predicts next tokens counts."""
        return self.positions(self.longest) + 1

    def positions(self, length: int) -> int:
        """Positions of an input at one length: its query and its slots."""
        task = find_task(self.task)
        return task.query(length, 1, np.random.default_rng(0)).shape[1] + task.slots(length)

    @property
    def deepest(self) -> int:
        """Most passes of a training sample."""
        task = find_task(self.task)
        most = max(task.loops(length) for length in range(1, self.longest + 1))
        return with_extra(most) if self.loops == "random" else most

    def passes(self, length: int) -> int:
        """Passes asked for at one length, without those that are drawn on top."""
        return find_task(self.task).loops(self.longest if self.loops == "fixed" else length)

    @property
    def tested_lengths(self) -> tuple[int, ...]:
        """Lengths tested after training."""
        quarters = (round(self.longest * quarter / 4) for quarter in range(1, 9))
        return self.tested or tuple(dict.fromkeys(max(1, length) for length in quarters))

    @property
    def horizon(self) -> int:
        """Most passes that are tried after training, at every tested length."""
        return math.ceil(BEYOND * max(map(self.passes, self.tested_lengths)))

    @property
    def used_lengths(self) -> tuple[int, ...]:
        """Trained and tested lengths, rising."""
        return tuple(sorted({*range(1, self.longest + 1), *self.tested_lengths}))


class TaskData:
    """Samples of a task, each a function of its index."""

    def __init__(self, config: TaskConfig, seed: int) -> None:
        """
        Raises:
            BadInputError: a task of the user's own that cannot be imported or contradicts itself at a trained or tested length, see
                `check_task`; one whose passes fall where a stage sets the lengths.
        """
        self.config, self.seed, self.name = config, seed, config.task
        self.task = checked_task(config.task, config.used_lengths, count=20)
        if config.own:
            config.check_passes(self.task)
        self.vocabulary, self.length, self.deepest = config.vocabulary, config.length, config.deepest
        groups = [self.drawn(n, config.samples, stream(seed, "task-held-out", n)) for n in range(1, config.longest + 1)]
        self.evaluation = (TaskSet("held-out", tuple(groups)),)

    def longest_at(self, step: int, cap: int | None = None) -> int:
        """Longest length of the batch of a step in a stage of ``cap`` passes; no number for a stage that has enough for all."""
        start, longest, grow = self.config.start, self.config.longest, self.config.grow
        if self.config.lengths == "stage":
            fits = (n for n in range(longest, 1, -1) if cap is None or self.task.loops(n) <= cap)
            return next(fits, 1)
        return longest if step >= grow else start + (longest - start) * step // grow

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1, cap: int | None = None) -> Examples:
        """Samples of one step and rank, lengths uniform from 1 to `longest_at`, the shortest first."""
        rng = stream(self.seed, "tasks", step, rank)
        lengths, counts = np.unique(rng.integers(1, self.longest_at(step, cap) + 1, size=size), return_counts=True)
        made = joined([self.drawn(int(n), int(count), rng) for n, count in zip(lengths, counts, strict=True)], self.task.symbols)
        if self.config.loops != "random":
            return made
        extra = rng.integers(0, (_EXTRA * made.loops).astype(np.int64) + 1)
        return Examples(made.inputs, made.targets, made.lengths, made.loops + extra)

    def at(self, length: int, count: int) -> Examples:
        """Samples of one length, in or out of the trained range, from a stream of their own.

        What is trained on and scored during training is drawn elsewhere, but where a length has few queries, most of them occur in
        training all the same: parity has 32 of length 5, and a million of length 20.

        Raises:
            BadInputError: a length or count below 1.
        """
        require(length >= 1, "length", length, "a whole number of at least 1")
        require(count >= 1, "count", count, "at least 1")
        return self.drawn(length, count, stream(self.seed, "task-tests", length))

    def drawn(self, length: int, count: int, rng: np.random.Generator) -> Examples:
        """Samples of one length."""
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
    """Samples of several lengths in one batch, as wide as the longest of them."""
    width = max(part.inputs.shape[1] for part in parts)

    def padded(tokens: Tokens, value: int) -> Tokens:
        return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=value)

    return Examples(
        inputs=np.concatenate([padded(part.inputs, end) for part in parts]),
        targets=np.concatenate([padded(part.targets, IGNORED) for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        loops=np.concatenate([part.loops for part in parts]),
    )
