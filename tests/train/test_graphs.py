"""What graphs compute, on the CPU; that they are recorded and replayed is tested on a GPU, in tests/test_on_a_gpu.py."""

from dataclasses import replace

import pytest
import torch

from thalweg.data.task_data import IGNORED, TaskConfig
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.shift.criterion import AtStep
from thalweg.shift.net import SafetyNet
from thalweg.shift.onset import Hard, Ramp
from thalweg.train import state
from thalweg.train.config import ShiftConfig, TrainingConfig
from thalweg.train.graphs import as_tensor, graph_inputs, graph_loss
from thalweg.train.state import by_graphs
from thalweg.train.step import TaskBatch, mean_loss
from thalweg.train.trainer import train

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
def test_the_graph_loss_a_graph_is_the_mean_loss(model, samples, gains):
    for batch in (TOKENS, samples):
        given, passes = graph_inputs(batch, 4)
        assert passes == 4
        factors = None if gains is None else as_tensor(gains, passes, model.head.weight)
        torch.testing.assert_close(graph_loss(model, given, passes, factors), mean_loss(model, batch, 4, gains))


def test_a_graph_has_as_many_passes_as_the_deepest_sample_needs(model, samples):
    given, passes = graph_inputs(samples, 20)
    assert (passes, given[2].tolist()) == (6, [3, 1, 6, 3, 2, 6])
    torch.testing.assert_close(graph_loss(model, given, passes, None), mean_loss(model, samples, 20))


@pytest.mark.parametrize(
    ("gains", "passes"), [(None, 6), ((1.0,) * 6, 6), ((1.0, 0.5, 0.0, 0.0, 0.0, 0.0), 2), ((1.0, 0.0, 0.3, 0.0, 0.0, 0.0), 3)]
)
def test_passes_that_have_not_begun_are_not_in_a_graph(model, samples, gains, passes):
    for batch in (TOKENS, samples):
        given, found = graph_inputs(batch, 6, gains)
        assert found == passes
        factors = None if gains is None else as_tensor(gains, found, model.head.weight)
        torch.testing.assert_close(graph_loss(model, given, found, factors), mean_loss(model, batch, 6, gains))
    assert graph_inputs(TOKENS, 3, (0.0, 0.0, 0.0))[1] == 1  # the first pass is always there


def test_graphs_are_for_runs_on_a_gpu_that_are_not_compiled():
    gpu = torch.device("cuda", 1)
    assert by_graphs(TrainingConfig(), gpu)
    assert not by_graphs(TrainingConfig(), torch.device("cpu"))
    assert not by_graphs(TrainingConfig(compile=True), gpu)
    assert not by_graphs(TrainingConfig(graphs=False), gpu)


class StandIn:
    """What graphs compute, without a GPU."""

    def __init__(self, model: LoopedTransformer, forward) -> None:
        self.model, self.forward, self.seconds, self.calls = model, forward, 0.0, 0

    def backward(self, batch, loops, gains):
        given, passes = graph_inputs(batch, loops, gains)
        for parameter in self.model.parameters():
            parameter.grad = None
        loss = graph_loss(self.forward, given, passes, None if gains is None else as_tensor(gains, passes, self.model.head.weight))
        loss.backward()
        self.seconds, self.calls = self.seconds + 1000.0, self.calls + 1
        return loss.detach()


PARITY = TaskConfig("parity", longest=4, start=2, samples=10, tested=(4,), tests=20)
ON_A_TASK = {
    "data": PARITY,
    "model": ModelConfig(vocabulary=3, width=8, heads=2, block="gpt", positions="none", injection=True),
    "shift": ShiftConfig((1, 4), AtStep(12), Ramp(10, order="in turn")),
}
WATCHED = {"shift": ShiftConfig((1, 12), AtStep(12), Hard(), net=SafetyNet(tries=1, bound=1e-3, within=5, window=3))}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, ON_A_TASK, WATCHED], ids=["ramp", "task", "net"])
def test_a_run_by_graphs_is_the_run_without(tiny, tmp_path, monkeypatch, changes, precision):
    """Same switches, same counted operations, weights up to rounding; what recording takes is no training time."""
    config = replace(tiny, training=replace(tiny.training, precision=precision), **changes)
    plain = train(config, tmp_path / "plain")
    monkeypatch.setattr(state, "Graphs", StandIn)
    monkeypatch.setattr(state, "by_graphs", lambda settings, device: True)
    replayed = train(config, tmp_path / "replayed")
    assert [(one.step, one.loops_after) for one in replayed.switches] == [(one.step, one.loops_after) for one in plain.switches]
    assert [(one.step, one.back_to) for one in replayed.retreats] == [(one.step, one.back_to) for one in plain.retreats]
    assert bool(plain.retreats) == (changes is WATCHED)
    assert (replayed.flops, replayed.evaluations) == (plain.flops, plain.evaluations)
    assert replayed.final["held-out"]["all"].loss == pytest.approx(
        plain.final["held-out"]["all"].loss, rel=1e-4 if precision == "float32" else 1e-2
    )
    assert replayed.seconds < 100
