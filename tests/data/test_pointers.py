"""The tree source: answers against following every pointer by hand."""

from pathlib import Path

import numpy as np
import pytest

from thalweg.data.pointers import PointersConfig, PointersData, draw
from thalweg.data.task_data import IGNORED
from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.records.run import read_run
from thalweg.streams import stream
from thalweg.train.config import RunConfig, ShiftConfig, TrainingConfig
from thalweg.train.trainer import train

CONFIG = PointersConfig(samples=50)


def climb(pointers: np.ndarray, node: int) -> tuple[int, int]:
    """Root and depth of a node, one pointer at a time."""
    depth = 0
    while pointers[node] != node:
        node, depth = int(pointers[node]), depth + 1
    return node, depth


@pytest.mark.parametrize("level", [1, 3, 6])
def test_every_answer_is_the_root_of_its_query(level: int) -> None:
    drawn = draw(CONFIG, level, 200, stream(0, "tasks"))
    pointers, queries = drawn.inputs[:, :14], drawn.inputs[:, 14:] - 14
    depths = set()
    for row in range(200):
        for slot in range(6):
            root, depth = climb(pointers[row], int(queries[row, slot]))
            assert root == drawn.targets[row, 14 + slot]
            depths.add(depth)
        assert sum(pointers[row, node] == node for node in range(14)) == 2
    assert depths == set(range(1, level + 1))
    assert (drawn.targets[:, :14] == IGNORED).all()


def test_a_guess_is_right_half_of_the_time() -> None:
    drawn = draw(CONFIG, 6, 2000, stream(1, "tasks"))
    roots = np.argsort(drawn.inputs[:, :14] != np.arange(14), axis=1, kind="stable")[:, :2]
    share = (drawn.targets[:, 14:] == roots[:, :1]).mean()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2000))


def test_batches_are_functions_of_their_index_and_the_level_grows_by_the_clock() -> None:
    data = PointersData(PointersConfig(hold=10, grow=10, samples=10), seed=4)
    assert [data.level_at(step) for step in (0, 9, 10, 11, 12, 18, 20, 99)] == [1, 1, 2, 2, 3, 6, 6, 6]
    first, again = (data.batch(15, 8) for _ in range(2))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.inputs, data.batch(16, 8).inputs)


def test_too_few_nodes_for_two_chains_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"data.nodes: given 10, expected at least 14"):
        PointersConfig(nodes=10)


def test_a_run_on_the_source_is_trained_and_scored(tmp_path: Path) -> None:
    config = RunConfig(
        data=PointersConfig(samples=20),
        model=ModelConfig(vocabulary=28, length=20, width=8, block="gpt"),
        shift=ShiftConfig((3,)),
        training=TrainingConfig(steps=4, batch=4, evaluate_every=2, device="cpu", threads=1),
    )
    train(config, tmp_path)
    assert [one.step for one in read_run(tmp_path).evaluations] == [0, 2, 4]


@pytest.mark.parametrize("level", [1, 6])
def test_with_marks_every_answer_is_the_topmost_marked_ancestor(level: int) -> None:
    config = PointersConfig(samples=50, marks=True)
    drawn = draw(config, level, 200, stream(0, "tasks"))
    own = 0
    for inputs, targets in zip(drawn.inputs, drawn.targets, strict=True):
        pointers, marked = inputs[:14] % 14, inputs[:14] >= 14
        for slot in range(6):
            query = node = int(inputs[14 + slot]) - 28
            answer = query
            while pointers[node] != node:
                node = int(pointers[node])
                answer = node if marked[node] else answer
            assert targets[14 + slot] == answer
            own += answer == query
    assert 0 < own < 200 * 6
    assert (drawn.inputs < config.vocabulary).all()


def test_marks_do_not_change_the_trees() -> None:
    plain, marked = (draw(PointersConfig(marks=marks), 4, 30, stream(3, "tasks")) for marks in (False, True))
    np.testing.assert_array_equal(plain.inputs[:, :14], marked.inputs[:, :14] % 14)
    np.testing.assert_array_equal(plain.inputs[:, 14:] - 14, marked.inputs[:, 14:] - 28)
