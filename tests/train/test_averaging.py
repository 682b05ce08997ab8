import pytest
import torch
from torch import nn

from thalweg import ranks
from thalweg.data.task_data import TaskConfig, TaskData
from thalweg.train.averaging import average
from thalweg.train.step import TaskBatch, part_of, target_loss

CPU = torch.device("cpu")


def parameters(*grads: torch.Tensor | None) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(2)) for _ in grads]
    for parameter, grad in zip(made, grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    return made


def with_partner(monkeypatch: pytest.MonkeyPatch, other: torch.Tensor) -> None:
    """Another rank that sends these numbers: its gradients and loss times its share, then its flags."""
    monkeypatch.setattr(ranks, "total", lambda own: own + other)


def test_gradients_and_loss_are_weighted_by_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    own = parameters(torch.tensor([1.0, 2.0]))
    with_partner(monkeypatch, torch.tensor([0.25 * 5, 0.25 * 6, 0.25 * 8.0, 1.0]))
    loss = average(torch.tensor(4.0), own, 0.75)
    assert own[0].grad.tolist() == [0.75 + 1.25, 1.5 + 1.5]
    assert loss.item() == 0.75 * 4 + 0.25 * 8


def test_a_parameter_that_only_another_rank_used_gets_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    own = parameters(None, torch.ones(2))
    with_partner(monkeypatch, torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0, 1.0, 1.0]))
    average(torch.tensor(0.0), own, 0.5)
    assert own[0].grad.tolist() == [3.0, 4.0]


def test_a_parameter_that_no_rank_used_keeps_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    own = parameters(None, torch.ones(2))
    with_partner(monkeypatch, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    average(torch.tensor(0.0), own, 0.5)
    assert own[0].grad is None


def test_parts_of_a_task_add_up_to_the_loss_of_the_whole_batch() -> None:
    """A mean of means would be another number, as samples of different lengths have different numbers of targets."""
    whole = TaskData(TaskConfig(task="addition", longest=5, samples=4, tests=4), 0).batch(0, 11)
    parts = [part_of(whole, rank, 3, CPU) for rank in range(3)]
    logits = torch.randn(11, whole.inputs.shape[1], 16, generator=torch.Generator().manual_seed(0))
    expected = target_loss(logits, torch.from_numpy(whole.targets))
    losses = [target_loss(logits[rank::3], part.targets) for rank, part in enumerate(parts) if isinstance(part, TaskBatch)]
    shares = [part.share for part in parts if isinstance(part, TaskBatch)]
    assert sum(shares) == pytest.approx(1.0)
    torch.testing.assert_close(sum(share * loss for share, loss in zip(shares, losses, strict=True)), expected)
    assert abs(sum(losses) / 3 - expected) > 1e-4


def test_every_part_knows_the_mean_passes_of_the_whole_batch() -> None:
    whole = TaskData(TaskConfig(task="addition", longest=5, samples=4, tests=4), 0).batch(0, 11)
    means = {part.mean_passes(4) for rank in range(3) if isinstance(part := part_of(whole, rank, 3, CPU), TaskBatch)}
    assert means == {float(whole.loops.clip(max=4).mean())}
