"""The root of a tree of pointers: a source on which depth pays, with exact answers.

Shape letters: B samples, N nodes, Q queries, L = N + Q positions.

A sample is a forest of two trees over N nodes with labels in random order. The first N tokens are f(0) ... f(N - 1), the parent of
each node (f(root) = root); then come Q query nodes. The answer at each query is its root. A pass that replaces every pointer by the
pointer of its pointer's answer gets one level further, so that deep nodes need several passes, and as a root is a fixed point
further passes do no harm. A guess is right about half of the time.

With `marks` half of the nodes are marked, and the answer is the topmost marked ancestor of the query, or the query itself if it has
none. Besides the node that it has come to, a model has to remember the best answer so far. Roots are fixed points here too.

The depth of the trees grows during training: level k has queries at depths 1 to k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from thalweg.bounds import Whole, named_arguments
from thalweg.data.task_data import IGNORED, Examples, TaskSet
from thalweg.errors import require
from thalweg.reprs import describe
from thalweg.serialization import checked
from thalweg.streams import stream

TREES = 2
"""Trees in a sample."""
EVERY_PASS = 10**6
"""Passes of a sample that has none of its own: as many as the stage has."""


@named_arguments
@dataclass(frozen=True)
class PointersConfig:
    """Trees of pointers, how deep they are, and how fast the depth grows in training."""

    kind: ClassVar[str] = "pointers"
    nodes: Annotated[int, Whole(4, 10_000)] = 14
    """Nodes N of a sample, in two trees."""
    queries: Annotated[int, Whole(1, 10_000)] = 6
    """Queries Q of a sample."""
    levels: Annotated[int, Whole(1, 5_000)] = 6
    """Deepest query; both trees have a chain of as many nodes below the root."""
    hold: Annotated[int, Whole(0, 10**9)] = 0
    """Updates at level 1 before the level grows."""
    grow: Annotated[int, Whole(0, 10**9)] = 0
    """Updates over which the level grows from 1 to `levels` after that, in equal parts; 0 for `levels` from then on."""
    samples: Annotated[int, Whole(1, 10**6)] = 2000
    """Held-out samples, all of the deepest level."""
    marks: bool = False
    """Whether half of the nodes are marked, and the answer is the topmost marked ancestor in place of the root."""

    def __post_init__(self) -> None:
        checked(self, "data.")
        least = TREES * (self.levels + 1)
        require(
            self.nodes >= least, "data.nodes", self.nodes, f"at least {least}, for two chains of {self.levels} below their roots"
        )

    @property
    def vocabulary(self) -> int:
        """Pointers, with marks also those of marked nodes, and nodes that are asked for."""
        return self.first_query + self.nodes

    @property
    def first_query(self) -> int:
        """Token that asks for node 0."""
        return 2 * self.nodes if self.marks else self.nodes

    @property
    def length(self) -> int:
        """One more than the positions of a sample, as a model that predicts next tokens counts."""
        return self.nodes + self.queries + 1


class PointersData:
    """Samples of the source, each batch a function of its index."""

    def __init__(self, config: PointersConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.vocabulary, self.length = config.vocabulary, config.length
        held_out = draw(config, config.levels, config.samples, stream(seed, "task-held-out"))
        self.evaluation = (TaskSet("held-out", (held_out,)),)

    def __repr__(self) -> str:
        return describe(self, repr(self.config), f"seed={self.seed}")

    def level_at(self, step: int) -> int:
        """Deepest query in the batch of a step."""
        levels, after = self.config.levels, step - self.config.hold
        if after < 0:
            return 1
        return levels if after >= self.config.grow else min(levels, 2 + after * (levels - 1) // self.config.grow)

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Examples:
        """Samples of one step and rank at the level of the step."""
        return draw(self.config, self.level_at(step), size, stream(self.seed, "tasks", step, rank))

    def facts(self) -> dict:
        """What a record needs to know about the data; JSON values."""
        config = self.config
        return {"kind": config.kind, "nodes": config.nodes, "queries": config.queries, "levels": config.levels} | (
            {"marks": True} if config.marks else {}
        )


def draw(config: PointersConfig, level: int, count: int, rng: np.random.Generator) -> Examples:
    """Samples whose queries have depths 1 to ``level``, each depth as likely.

    Nodes 0 and 1 are the roots, 2 to 1 + 2 level the two chains; every other node hangs below a random earlier one that is not too
    deep. Then the nodes are renamed at random.

    Returns:
        Inputs: N pointers, then Q queries. Targets: the answers at the queries. With marks, the token of a marked node is its
        pointer plus N.
    """
    nodes, queries, rows = config.nodes, config.queries, np.arange(count)
    parents, depths, roots = (np.zeros((count, nodes), dtype=np.int64) for _ in range(3))
    for node in range(nodes):
        parent = _parent(node, level, depths, parents, rng)
        is_root = node < TREES
        parents[:, node] = parent
        depths[:, node] = 0 if is_root else depths[rows, parent] + 1
        roots[:, node] = node if is_root else roots[rows, parent]
    wanted = rng.integers(1, level + 1, (count, queries))
    chances = rng.random((count, queries, nodes)) * (depths[:, None] == wanted[:, :, None])
    asked = chances.argmax(2)
    labels = rng.permuted(np.tile(np.arange(nodes), (count, 1)), axis=1)
    pointers = np.empty_like(parents)
    np.put_along_axis(pointers, labels, np.take_along_axis(labels, parents, 1), 1)
    if config.marks:
        marks = rng.integers(0, 2, parents.shape).astype(bool)
        roots, shown = _topmost(parents, marks), np.empty_like(marks)
        np.put_along_axis(shown, labels, marks, 1)
        pointers += nodes * shown
    answers = np.take_along_axis(labels, np.take_along_axis(roots, asked, 1), 1)
    return Examples(
        inputs=np.concatenate([pointers, config.first_query + np.take_along_axis(labels, asked, 1)], axis=1),
        targets=np.concatenate([np.full((count, nodes), IGNORED), answers], axis=1),
        lengths=np.full(count, level),
        loops=np.full(count, EVERY_PASS),
    )


def _topmost(parents: NDArray, marks: NDArray) -> NDArray:
    """For every node the topmost marked ancestor, or itself if it has none, ``(B, N)``.

    Args:
        parents: parent of every node, earlier nodes only, the roots first, ``(B, N)``.
        marks: whether each node is marked, ``(B, N)``.
    """
    rows, below_mark = np.arange(len(parents)), marks.copy()
    topmost = np.tile(np.arange(parents.shape[1]), (len(parents), 1))
    for node in range(TREES, parents.shape[1]):
        parent = parents[:, node]
        topmost[:, node] = np.where(below_mark[rows, parent], topmost[rows, parent], node)
        below_mark[:, node] |= below_mark[rows, parent]
    return topmost


def _parent(node: int, level: int, depths: NDArray, parents: NDArray, rng: np.random.Generator) -> NDArray:
    """Parent of one node in every sample, before the nodes are renamed."""
    count, rows = len(depths), np.arange(len(depths))
    if node < TREES:
        return np.full(count, node)
    if node < TREES * (1 + level):
        return np.full(count, node - TREES)
    drawn = rng.integers(0, node, count)
    return np.where(depths[rows, drawn] == level, parents[rows, drawn], drawn)
