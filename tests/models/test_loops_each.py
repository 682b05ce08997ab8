"""Loops for each sequence of a batch."""

import pytest
import torch

from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer

CONFIGS = {
    "attention": ModelConfig(vocabulary=7, length=9, width=8),
    "gpt": ModelConfig(vocabulary=7, length=9, width=8, heads=2, block="gpt", layers=2, positions="none", injection=True),
    "stable": ModelConfig(vocabulary=7, length=9, width=8, block="gpt", positions="rotary").for_loops(6),
}
LOOPS = torch.tensor([3, 1, 6, 3, 2, 6])


@pytest.fixture(params=CONFIGS)
def model(request) -> LoopedTransformer:
    made = LoopedTransformer(CONFIGS[request.param], torch.Generator().manual_seed(0)).double()
    if made.pass_gains is not None:
        torch.nn.init.uniform_(made.pass_gains, 0.3, 0.9, generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(7, (6, 9), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("gains", [None, (1.0, 1.0, 0.5, 0.5, 0.25, 0.0)])
def test_every_sequence_has_the_logits_of_its_own_number_of_passes(model, tokens, gains):
    found = model(tokens, loops=LOOPS, gains=gains)
    for row, loops in enumerate(LOOPS.tolist()):
        alone = model(tokens[row : row + 1], loops=loops, gains=None if gains is None else gains[:loops])
        torch.testing.assert_close(found[row : row + 1], alone)


def test_the_gradient_is_the_sum_of_those_of_the_sequences_alone(model, tokens):
    names = [name for name, _ in model.named_parameters()]
    together = torch.autograd.grad(model(tokens, loops=LOOPS).square().sum(), list(model.parameters()))
    alone = sum(model(tokens[row : row + 1], loops=loops).square().sum() for row, loops in enumerate(LOOPS.tolist()))
    for name, one, other in zip(names, together, torch.autograd.grad(alone, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_equal_numbers_are_one_number(model, tokens):
    torch.testing.assert_close(model(tokens, loops=torch.full((6,), 4)), model(tokens, loops=4))


def test_no_pass_is_computed_for_a_sequence_that_has_had_its_own(model, tokens):
    rows = []
    model.stack()[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    model(tokens, loops=LOOPS)
    assert rows == [6, 5, 4, 2, 2, 2]
    assert sum(rows) == LOOPS.sum()


def test_the_logits_after_each_pass_are_those_of_a_call_with_as_many(model, tokens):
    for loops, logits in enumerate(model.unrolled(tokens, 6), start=1):
        torch.testing.assert_close(logits, model(tokens, loops=loops), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("loops", "message"),
    [
        (torch.tensor([1, 2, 3]), r"loops: given \(3,\), expected one number for each of 6 sequences"),
        (torch.tensor([1, 2, 3, 0, 1, 1]), "loops: given 0, expected a whole number of at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_in_one_line(model, tokens, loops, message):
    with pytest.raises(BadInputError, match=message):
        model(tokens, loops=loops)


@pytest.mark.parametrize("gains", [None, (1.0, 1.0, 0.5, 0.5, 0.25, 0.0), torch.tensor([1.0, 1.0, 0.5, 0.5, 0.25, 0.0])])
def test_masks_give_what_passes_for_each_give(model, tokens, gains):
    names = [name for name, _ in model.named_parameters()]
    found = [model(tokens, loops=LOOPS, gains=gains), model.forward_masked(tokens, LOOPS, 6, gains)]
    torch.testing.assert_close(found[1], found[0])
    gradients = [torch.autograd.grad(one.square().sum(), list(model.parameters())) for one in found]
    for name, one, other in zip(names, *gradients, strict=True):
        torch.testing.assert_close(other, one, msg=name)


def test_more_passes_than_any_sequence_has_change_nothing_under_a_mask(model, tokens):
    if model.config.learned_gains:
        pytest.skip("a model with learned gains has no more passes")
    torch.testing.assert_close(model.forward_masked(tokens, LOOPS, 9), model(tokens, loops=LOOPS))


def test_further_passes_without_sequences_change_no_bit_and_give_every_weight_a_gradient(model, tokens):
    rows = []
    model.stack()[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    found = model(tokens, loops=LOOPS.clamp(max=4), passes=6)
    assert rows == [6, 5, 4, 2, 0, 0]
    assert torch.equal(found, model(tokens, loops=LOOPS.clamp(max=4)))
    found.sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_fewer_passes_than_a_sequence_has_and_passes_of_one_number_are_refused(model, tokens):
    with pytest.raises(BadInputError, match="passes: given 5, expected at least 6, the largest of loops"):
        model(tokens, loops=LOOPS, passes=5)
    with pytest.raises(BadInputError, match="passes: given 2, expected None with one number of loops for all sequences"):
        model(tokens, loops=2, passes=2)


def test_weights_that_are_not_joined_give_the_same(model, tokens):
    joined = model(tokens, loops=LOOPS)
    model.joins_weights = False
    torch.testing.assert_close(model(tokens, loops=LOOPS), joined)
