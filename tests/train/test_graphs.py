"""What graphs compute, on the CPU; that they are recorded and replayed is tested on a GPU, in tests/test_on_a_gpu.py."""

import pytest
import torch

from thalweg.data.task_data import IGNORED
from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import TrainingConfig
from thalweg.train.graphs import as_tensor, given_of, loss_of
from thalweg.train.step import TaskBatch, mean_loss

TOKENS = torch.randint(7, (6, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def model() -> LoopedTransformer:
    config = ModelConfig(vocabulary=7, width=8, heads=2, block="gpt", positions="none", injection=True)
    return LoopedTransformer(config, torch.Generator().manual_seed(0)).double()


@pytest.fixture
def samples() -> TaskBatch:
    targets = torch.full_like(TOKENS, IGNORED)
    targets[:, -2:] = 3
    return TaskBatch(TOKENS, targets, torch.tensor([3, 1, 6, 3, 2, 6]))


@pytest.mark.parametrize("gains", [None, (1.0, 0.5, 0.2, 0.0)])
def test_the_loss_of_a_graph_is_the_mean_loss(model, samples, gains):
    for batch in (TOKENS, samples):
        given, passes = given_of(batch, 4)
        assert passes == 4
        factors = None if gains is None else as_tensor(gains, passes, model.head.weight)
        torch.testing.assert_close(loss_of(model, given, passes, factors), mean_loss(model, batch, 4, gains))


def test_a_graph_has_as_many_passes_as_the_deepest_sample_needs(model, samples):
    given, passes = given_of(samples, 20)
    assert (passes, given[2].tolist()) == (6, [3, 1, 6, 3, 2, 6])
    torch.testing.assert_close(loss_of(model, given, passes, None), mean_loss(model, samples, 20))


def test_graphs_and_compilation_exclude_each_other():
    with pytest.raises(BadInputError, match=r"training\.graphs: given True, expected false where training\.compile is true"):
        TrainingConfig(compile=True, graphs=True)
