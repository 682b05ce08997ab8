"""Learned gains, the norm at the end of a pass, and residual branches scaled for many loops."""

import copy
import functools
import itertools

import pytest
import torch
from tests.curvature.cases import apart, language
from torch._dynamo.testing import CompileCounterWithBackend

from thalweg import dense_hessian
from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import make_optimizer, next_token_loss

FLOAT64 = {"rtol": 1e-11, "atol": 1e-12}
T = 4
SHAPE = {"vocabulary": 7, "length": 5, "width": 8, "heads": 2}
ALL = {"learned_gains": T, "loop_norm": True, "residual_loops": T}
TOKENS = torch.tensor([[0, 3, 6, 1, 2], [5, 5, 4, 0, 1]])
FAMILIES = [
    {"block": block, "attention": attention, "norm": norm, "injection": injection}
    for block, attention, norm, injection in itertools.product(
        ("attention", "gpt"), ("softmax", "linear"), ("pre", "none"), (False, True)
    )
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: "-".join(map(str, f.values())))
alone_and_together = pytest.mark.parametrize("more", [{}, {"loop_norm": True}, {"residual_loops": T}, ALL], ids="-".join)


def fresh(dtype=torch.float32, **config):
    """A model with the weights that it begins with."""
    return LoopedTransformer(ModelConfig(**(SHAPE | config)), torch.Generator().manual_seed(0)).to(dtype)


def with_gains(gains, **config):
    model = fresh(torch.float64, learned_gains=len(gains) + 1, **config)
    model.pass_gains.data = torch.tensor(gains, dtype=torch.float64)
    return model


@every_family
@alone_and_together
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_with_learned_gains_a_hard_switch_changes_nothing_to_the_last_bit(family, more, dtype):
    model = fresh(dtype, **(family | more | {"learned_gains": T}))
    for gains in (None, (1.0,) * T, torch.ones(T), torch.linspace(1, 0, T)):
        assert torch.equal(model(TOKENS, loops=T, gains=gains), model(TOKENS, loops=1))


@every_family
@torch.no_grad()
def test_without_learned_gains_a_hard_switch_is_a_jump(family):
    model = fresh(**family)
    assert not torch.equal(model(TOKENS, loops=T), model(TOKENS, loops=1))


@every_family
@alone_and_together
def test_every_learned_gain_has_a_gradient_from_the_first_update_on(family, more):
    model = fresh(torch.float64, **(family | more | {"learned_gains": T}))
    next_token_loss(model, TOKENS, T).backward()
    assert (model.pass_gains.grad.abs() > 1e-9).all()


@every_family
def test_at_the_switch_the_other_weights_have_the_gradient_of_one_loop(family):
    one, many = (fresh(torch.float64, **(family | {"learned_gains": T})) for _ in range(2))
    next_token_loss(one, TOKENS, 1).backward()
    next_token_loss(many, TOKENS, T).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.blocks.parameters(), many.blocks.parameters(), strict=True))


@every_family
@torch.no_grad()
def test_learned_gains_are_gains(family):
    learned, given = with_gains((0.5, -0.25, 1.5), **family), fresh(torch.float64, **family)
    torch.testing.assert_close(learned(TOKENS, loops=4), given(TOKENS, loops=4, gains=(1, 0.5, -0.25, 1.5)), **FLOAT64)


@pytest.mark.parametrize("kind", [tuple, torch.tensor])
@torch.no_grad()
def test_learned_and_given_gains_are_multiplied(kind):
    learned, given = with_gains((0.5, -0.25)), fresh(torch.float64)
    found = learned(TOKENS, loops=3, gains=kind((1.0, 0.5, 0.25)))
    torch.testing.assert_close(found, given(TOKENS, loops=3, gains=(1, 0.25, -0.0625)), **FLOAT64)


@torch.no_grad()
def test_fewer_passes_take_the_first_gains():
    short, long = with_gains((0.5,)), with_gains((0.5, -0.25, 1.5))
    assert torch.equal(short(TOKENS, loops=2), long(TOKENS, loops=2))


@pytest.mark.parametrize(("gains", "passes"), [((1.0, 0.0, 0, 0.5), 2), (torch.tensor([1.0, 0.0, 0.0, 0.5]), 4), (None, 4)])
@torch.no_grad()
def test_only_a_given_number_zero_skips_a_pass(gains, passes):
    model, calls = fresh(learned_gains=4), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    model(TOKENS, loops=4, gains=gains)
    assert len(calls) == passes


@pytest.mark.parametrize("loops", [4, 9])
def test_more_passes_than_learned_gains_are_refused(loops):
    with pytest.raises(BadInputError, match=rf"loops: given {loops}, expected at most the 3 passes .* \(model\.learned_gains\)"):
        fresh(learned_gains=3)(TOKENS, loops=loops)


def test_learned_gains_begin_at_zero_one_for_every_pass_but_the_first():
    assert torch.equal(fresh(learned_gains=4).pass_gains, torch.zeros(3))


def test_learned_gains_do_not_decay():
    model = fresh(learned_gains=4)
    groups = make_optimizer(OptimizerConfig(weight_decay=0.1), model).param_groups
    assert [g["weight_decay"] for g in groups if any(p is model.pass_gains for p in g["params"])] == [0.0]


@every_family
def test_the_fields_change_no_other_initial_weight(family):
    plain, found = (fresh(**(family | more)).state_dict() for more in ({}, ALL))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert set(found) - set(plain) <= {"pass_gains", "loop_norm.weight", "loop_norm.bias"}


@every_family
@torch.no_grad()
def test_after_every_pass_the_state_is_normal(family):
    model, states = fresh(torch.float64, loop_norm=True, **family), []
    model.final_norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    for loops in (1, 2, 8):
        model(TOKENS, loops=loops)
    for state in states:
        torch.testing.assert_close(state.mean(-1), torch.zeros(2, 5).double(), **FLOAT64)
        torch.testing.assert_close(state.std(-1, correction=0), torch.ones(2, 5).double(), rtol=0.1, atol=0)  # its epsilon


@torch.no_grad()
def test_without_a_norm_the_state_grows_with_the_loops():
    model, sizes = fresh(torch.float64), []
    model.final_norm.register_forward_pre_hook(lambda _, given: sizes.append(given[0].std()))
    for loops in (1, 2, 8):
        model(TOKENS, loops=loops)
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3 * sizes[0]


@every_family
@pytest.mark.parametrize("residual_loops", [3, 16])
@pytest.mark.parametrize("loops", [1, 2, 5])
@torch.no_grad()
def test_scaled_branches_are_those_of_smaller_weights_whatever_the_loops(family, residual_loops, loops):
    scaled, plain = fresh(torch.float64, residual_loops=residual_loops, **family), fresh(torch.float64, **family)
    for block in plain.blocks:
        last = (block.attention.output, block.down) if family["block"] == "gpt" else (block.attention.value,)
        for parameter in itertools.chain.from_iterable(layer.parameters() for layer in last):
            parameter /= residual_loops**0.5
    torch.testing.assert_close(scaled(TOKENS, loops=loops), plain(TOKENS, loops=loops), **FLOAT64)


def test_compiled_once_for_all_values_of_the_gains():
    model = fresh(**ALL)
    model.pass_gains.data = torch.tensor([0.5, -0.25, 1.5])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(copy.deepcopy(model), backend=counter, fullgraph=True, dynamic=False)
    for gains in (torch.ones(T), torch.tensor([1.0, 0.3, 0.0, 0.7])):
        found, expected = compiled(TOKENS, loops=T, gains=gains), model(TOKENS, loops=T, gains=gains)
        torch.testing.assert_close(found, expected)
        grads = [
            torch.autograd.grad(out.square().sum(), m.pass_gains)[0] for out, m in ((found, compiled._orig_mod), (expected, model))
        ]
        torch.testing.assert_close(*grads)
    assert counter.frame_count == 1


@functools.cache
def curved(zero, **config):
    """Loss, stirred model with all three fields, and its dense Hessian."""
    case = language(3, **(ALL | {"residual_loops": 3} | config))
    if zero:
        case.model.pass_gains.data.zero_()
    return case, dense_hessian(*case.given, dtype=torch.float64)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("config", [{}, {"attention": "linear", "norm": "none"}, {"block": "gpt", "injection": True}], ids=str)
def test_the_dense_hessian_is_the_difference_of_the_gradient(zero, config):
    case, dense = curved(zero, **config)
    names = dict(case.model.named_parameters())
    first = list(names).index("pass_gains")
    offset = sum(p.numel() for p in list(names.values())[:first])
    of_gains = torch.eye(len(dense.matrix), dtype=torch.float64)[offset : offset + T - 1]
    for direction in (case.direction(0), case.direction(1), *of_gains[:2]):  # 3 loops of 4: the last gain does not enter
        assert apart(dense.matrix @ direction, case.product(direction)) < 1e-7
    assert not dense.matrix[offset + T - 2].any()
