import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.models.cost import Cost, cost, parameters
from thalweg.models.looped import LoopedTransformer

BATCH, LENGTH = 3, 5
VARIANTS = [
    {"block": block, "attention": attention, "layers": layers, "tied": tied, "heads": heads}
    for block, attention, layers, tied, heads in itertools.product(
        ("attention", "gpt"), ("softmax", "linear"), (1, 2), (False, True), (1, 2)
    )
]
every_model = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))


def config_of(**variant):
    return ModelConfig(**({"vocabulary": 11, "length": 7, "width": 8, "expansion": 3} | variant))


def counted(config, loops):
    """What PyTorch counts in a forward and a backward call.

    The attention kernel is the plain one: fused kernels are counted with what they compute again. The plain kernel works on
    the full square, like our count, so no term has to be adjusted; the embeddings need a gradient, so that even the first
    product of the forward pass has both of its products in the backward pass.
    """
    model, tokens = LoopedTransformer(config), torch.zeros(BATCH, LENGTH, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits = model(tokens, loops=loops)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@every_model
@pytest.mark.parametrize("loops", [1, 3])
def test_the_forward_operations_are_those_that_pytorch_counts(variant, loops):
    config = config_of(**variant)
    assert cost(config, BATCH, LENGTH, loops).forward == counted(config, loops)[0]


@every_model
@pytest.mark.parametrize("loops", [1, 3])
def test_the_operations_of_a_training_step_are_those_that_pytorch_counts(variant, loops):
    config = config_of(**variant)
    assert cost(config, BATCH, LENGTH, loops).training_step == sum(counted(config, loops))


@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
@pytest.mark.parametrize("norm", ["pre", "none"])
def test_positions_and_norms_cost_no_counted_operation(positions, norm):
    config = config_of(positions=positions, norm=norm, injection=True)
    assert cost(config, BATCH, LENGTH, 2).forward == counted(config, 2)[0]


@pytest.mark.parametrize("block", ["attention", "gpt"])
def test_what_keeps_many_loops_stable_costs_no_counted_operation(block):
    config = config_of(block=block, learned_gains=3, loop_norm=True, residual_loops=3)
    forward, backward = counted(config, 3)
    assert (cost(config, BATCH, LENGTH, 3).forward, cost(config, BATCH, LENGTH, 3).training_step) == (forward, forward + backward)


@pytest.mark.parametrize(("block", "norms"), [("attention", 8), ("gpt", 16)])
def test_the_parameters_for_many_loops_are_a_norm_and_a_gain_for_every_pass_but_the_first(block, norms):
    many = config_of(block=block, learned_gains=5, loop_norm=True, residual_loops=3)
    plain, found = (parameters(LoopedTransformer(config)) for config in (config_of(block=block), many))
    assert found - plain == norms + 4


def test_a_loop_costs_a_pass_and_no_head():
    one, four = (cost(config_of(), BATCH, LENGTH, loops) for loops in (1, 4))
    assert four.forward - one.forward == 3 * one.per_pass


@pytest.mark.parametrize("block", ["attention", "gpt"])
def test_prelude_and_coda_are_counted_once(block):
    config = config_of(block=block, prelude=2, coda=1, layers=2)
    forward, backward = counted(config, 3)
    assert (cost(config, BATCH, LENGTH, 3).forward, cost(config, BATCH, LENGTH, 3).training_step) == (forward, forward + backward)


def test_a_training_step_costs_three_forward_calls():
    assert Cost(per_pass=5.0, head=2.0, loops=3).training_step == 3 * 17


def test_less_than_one_loop_is_refused():
    with pytest.raises(BadInputError, match="loops: given 0, expected at least 1"):
        cost(config_of(), BATCH, LENGTH, loops=0)


@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_more_tokens_than_learned_positions_are_refused(positions):
    config = ModelConfig(length=8, positions=positions)
    assert cost(config, batch=1, length=8).forward > 0
    if positions != "learned":
        assert cost(config, batch=1, length=9).forward > 0
        return
    with pytest.raises(BadInputError, match=r"^length: given 9, expected at most 8 tokens, .* \(model.length\)$"):
        cost(config, batch=1, length=9)


def test_the_parameters_of_the_papers_model_are_known_by_hand():
    model = LoopedTransformer(config_of())  # embedding, positions, query key value, two norms without bias, head
    assert parameters(model) == 11 * 8 + 7 * 8 + 3 * 8 * 8 + 2 * 8 + 11 * 8


def test_the_parameters_of_a_gpt_block_are_known_by_hand():
    one, two = (parameters(LoopedTransformer(config_of(block="gpt", layers=layers))) for layers in (1, 2))
    assert two - one == 4 * (64 + 8) + (8 * 24 + 24) + (24 * 8 + 8) + 2 * 16


def test_tied_weights_count_once():
    plain, tied = (parameters(LoopedTransformer(config_of(tied=tied))) for tied in (False, True))
    assert plain - tied == 11 * 8


def test_frozen_weights_do_not_count():
    model = LoopedTransformer(config_of())
    model.embedding.requires_grad_(False)
    assert parameters(model) == parameters(LoopedTransformer(config_of())) - 11 * 8
