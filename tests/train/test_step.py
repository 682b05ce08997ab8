import math

import pytest
import torch

from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import InBFloat16, make_optimizer, next_token_loss, train_step

TOKENS = torch.arange(60).reshape(5, 12) % 16


def model() -> LoopedTransformer:
    return LoopedTransformer(ModelConfig(width=8), torch.Generator().manual_seed(0)).double()


def one_step(net: torch.nn.Module, config: OptimizerConfig, rate: float = 0.1):
    optimizer = make_optimizer(config, net)
    return train_step(net, optimizer, TOKENS, loops=2, gains=None, rate=rate, clip=config.clip)


def test_loss_is_the_mean_negative_log_probability_of_the_next_tokens() -> None:
    net = model()
    logs = net(TOKENS[:, :-1], loops=2).log_softmax(-1)
    byhand = [-logs[b, i, TOKENS[b, i + 1]].item() for b in range(5) for i in range(11)]
    assert next_token_loss(net, TOKENS, 2).item() == pytest.approx(sum(byhand) / len(byhand), rel=1e-12)


def test_sgd_step_is_rate_times_clipped_gradient() -> None:
    net = model()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    next_token_loss(net, TOKENS, 2).backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters()}
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    outcome = one_step(net, OptimizerConfig(name="sgd", momentum=0.0, clip=norm / 2))
    assert outcome.grad_norm == pytest.approx(norm, rel=1e-12)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * grads[name] / 2, rtol=1e-5, atol=1e-9)


def test_first_adamw_step_moves_every_weight_by_its_rate() -> None:
    net = model()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    one_step(net, OptimizerConfig(value_rate=3.0, clip=0.0), rate=1e-3)
    for name, parameter in net.named_parameters():
        moved = (parameter.detach() - before[name]).abs()
        largest = 3e-3 if name.endswith("value.weight") else 1e-3
        assert moved.max().item() == pytest.approx(largest, rel=1e-3)


def test_weight_decay_leaves_vectors_alone() -> None:
    net = LoopedTransformer(ModelConfig(width=8, block="gpt"))
    groups = make_optimizer(OptimizerConfig(weight_decay=0.1), net).param_groups
    decays = {p.dim() >= 2: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {True: 0.1, False: 0.0}


def test_every_parameter_is_in_exactly_one_group() -> None:
    net = LoopedTransformer(ModelConfig(width=8, block="gpt", tied=True))
    groups = make_optimizer(OptimizerConfig(weight_decay=0.1, value_rate=2.0), net).param_groups
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())


def test_nothing_moves_when_the_loss_is_not_finite() -> None:
    net = model()
    with torch.no_grad():
        net.head.weight[0, 0] = math.nan
    before = [p.detach().clone() for p in net.parameters()]
    outcome = one_step(net, OptimizerConfig())
    assert not outcome.finite
    assert all(torch.equal(a, b.detach()) or a.isnan().any() for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("config", [{}, {"block": "gpt", "positions": "rotary", "prelude": 1}], ids=["attention", "gpt"])
def test_products_in_bfloat16_round_the_loss_and_the_gradients_and_keep_them_in_float32(config: dict) -> None:
    net = LoopedTransformer(ModelConfig(width=32, **config).for_loops(4, shared_gain=True, gain_start=0.5))
    weights, gains = list(net.parameters()), (1.0, 0.5, 0.5, 0.5)
    exact = next_token_loss(net, TOKENS, 4, gains)
    rounded = next_token_loss(InBFloat16(net, torch.device("cpu")), TOKENS, 4, gains)
    assert 1e-6 < abs(rounded.item() / exact.item() - 1) < 1e-2
    expected, given = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]) for loss in (exact, rounded))
    assert given.dtype == rounded.dtype == torch.float32
    assert 1e-4 < ((given - expected).norm() / expected.norm()).item() < 3e-2


def test_masked_passes_in_bfloat16_are_those_of_each_sample() -> None:
    net = InBFloat16(LoopedTransformer(ModelConfig(width=32)), torch.device("cpu"))
    loops = torch.tensor([1, 3, 2, 3, 1])
    torch.testing.assert_close(net.forward_masked(TOKENS, loops, 3), net(TOKENS, loops=loops), rtol=2e-2, atol=2e-2)
