"""Gradients, growth and alignment of linear looped attention; more cases are in tests/verify."""

import pytest
import torch

from thalweg.errors import BadInputError, GrowthWarning, NonFiniteError, ShapeMismatchError
from thalweg.theory.alignment import alignment, certificate, kernel_condition, kernels, transfer_rate
from thalweg.theory.looped_attention import attention, gradients, growth, states


def drawn(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(scale):
    return attention(*(drawn(i, *shape, scale=scale) for i, shape in enumerate(((3, 4), (3, 4), (4, 4), (5, 4)))))


def loss(model, tokens, label, loops):
    """One sample, token by token."""
    for _ in range(loops):
        pull = sum(torch.outer(column, column) for column in tokens.T)
        tokens = tokens + model.value @ pull @ model.key.T @ model.query @ tokens
    return -(model.head @ tokens[:, -1]).log_softmax(0)[label]


@pytest.mark.parametrize("loops", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["key", "query", "value", "head"])
def test_each_gradient_is_its_central_difference(loops, name):
    tokens, classes, step = drawn(9, 1, 4, 6, scale=0.3), torch.tensor([2]), 1e-5
    model = weights(0.3)
    direction = drawn(11, *model.parts()[name].shape)
    moved = [attention(**{**model.parts(), name: model.parts()[name] + sign * step * direction}) for sign in (1, -1)]
    difference = float(loss(moved[0], tokens[0], 2, loops) - loss(moved[1], tokens[0], 2, loops)) / (2 * step)
    found = float((gradients(model, tokens, classes, loops).parts()[name][0] * direction).sum())
    assert found == pytest.approx(difference, rel=1e-7, abs=1e-10)


def test_samples_do_not_mix():
    tokens, classes, model = drawn(9, 3, 4, 6, scale=0.5), torch.tensor([2, 0, 1]), weights(0.3)
    together = gradients(model, tokens, classes, 3)
    for i in range(3):
        alone = gradients(model, tokens[i : i + 1], classes[i : i + 1], 3)
        assert torch.allclose(together.value[i], alone.value[0], rtol=1e-12)


def test_the_head_aligns_as_its_own_formula_says():
    tokens, model = drawn(9, 1, 4, 6, scale=0.5), weights(0.3)
    looped, single = (gradients(model, tokens, torch.tensor([1]), loops) for loops in (3, 1))
    residuals = []
    for loops in (3, 1):
        u = (model.head @ states(model, tokens, loops)[-1][0, :, -1]).softmax(0)
        u[1] -= 1
        residuals.append(u)
    last = [states(model, tokens, loops)[-1][0, :, -1] for loops in (3, 1)]
    exact = float(residuals[0] @ residuals[1]) * float(last[0] @ last[1])
    assert alignment(looped, single)["head"].product == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("name", ["value", "key", "query"])
def test_the_kernels_predict_the_inner_product_for_small_weights(name):
    tokens, classes = drawn(9, 1, 4, 6), torch.tensor([1])
    parts = weights(1.0).parts()
    model = attention(*(1e-3 * parts[part] for part in ("key", "query", "value")), parts["head"])
    found = alignment(gradients(model, tokens, classes, 4), gradients(model, tokens, classes, 1))[name].product
    u = (model.head @ tokens[0, :, -1]).softmax(0)
    u[1] -= 1
    pulled = kernels(model, tokens[0])[name]
    last = tokens[0, :, -1]
    gram = tokens[0] @ tokens[0].T
    side = {"value": gram @ model.key.T @ model.query @ last, "key": model.query @ last, "query": last}[name]
    assert found == pytest.approx(4 * float(side @ side) * float(u @ pulled @ u), rel=1e-3)


def test_a_certificate_is_kept():
    found = certificate(weights(0.05), drawn(9, 4, 6, scale=0.5), 1, 3)
    assert all(condition.held for condition in found.conditions)
    assert 0.9 < found.bound <= found.cosine


def test_without_its_condition_there_is_no_certificate():
    with pytest.warns(
        GrowthWarning, match=r"^loops: 2 a T is .*, expected below 1 for bounds; use smaller weights or fewer loops$"
    ):
        found = certificate(weights(1.0), drawn(9, 4, 6, scale=0.3), 1, 3)
    assert found.bound != found.bound


def test_growth_of_a_scalar_model_stays_below_its_bound_and_near_it():
    model = attention(torch.ones(1, 1), torch.ones(1, 1), 0.01 * torch.ones(1, 1), torch.ones(2, 1))
    token = torch.ones(1, 1, 1)
    last, bound = float(states(model, token, 20)[-1]), growth(model, token, 20).states
    assert 0.97 * bound < last <= bound


def test_a_diagonally_dominant_kernel_holds_and_a_skewed_one_does_not():
    assert kernel_condition(torch.eye(4), 2).held
    assert not kernel_condition(torch.tensor([[1.0, 2.0, 0.0], [2.0, 5.0, 0.0], [0.0, 0.0, 1.0]]), 0).held


def test_two_classes_always_hold():
    root = drawn(0, 2, 2)
    assert kernel_condition(root @ root.T, 1).held


def test_no_rate_transfers_between_opposed_gradients():
    assert transfer_rate(-1.0, 1.0, 2.0) == 0
    assert transfer_rate(1.0, 2.0, 0.5) == 1


def test_what_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"^weights: given shapes \(3, 4\), \(3, 4\), \(4, 4\), \(5, 3\), expected"):
        attention(torch.ones(3, 4), torch.ones(3, 4), torch.ones(4, 4), torch.ones(5, 3))
    with pytest.raises(ShapeMismatchError, match=r"^tokens: given shape \(4, 6\), expected \(S, 4, n\)$"):
        states(weights(0.1), torch.ones(4, 6), 2)
    with pytest.raises(BadInputError, match=r"^loops: given 0, expected a whole number of at least 1$"):
        states(weights(0.1), torch.ones(1, 4, 6), 0)
    with pytest.raises(NonFiniteError, match=r"^states: grow beyond float64 within 12 loops; use smaller weights or fewer loops$"):
        states(weights(3.0), torch.ones(1, 4, 6), 12)
    nan = attention(*(part.clone() for part in weights(0.1).parts().values()))
    nan.key.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"^gradients: hold NaN or infinity"):
        alignment(nan, nan)
