import pytest
import torch

from thalweg.errors import BadInputError, ShapeMismatchError, UnstableDirectionError
from thalweg.theory.looped_attention import attention, gradients
from thalweg.theory.scaling import gauss_newton, rescaled_single, spectrum_ratios


def drawn(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(scale=0.3):
    return attention(*(drawn(i, *shape, scale=scale) for i, shape in enumerate(((2, 3), (2, 3), (3, 3), (4, 3)))))


def test_the_gauss_newton_matrix_is_the_mean_outer_product_over_classes():
    """``sum_y p_y g_y g_y^T`` with the gradient of every class's loss: Fisher's form of the same matrix."""
    model, tokens = weights(), drawn(9, 5, 3, 4)
    last = tokens
    for _ in range(2):
        last = last + model.value @ last @ last.mT @ model.key.T @ model.query @ last
    p, expected = (last[:, :, -1] @ model.head.T).softmax(-1), 0
    for label in range(4):
        parts = gradients(model, tokens, torch.full((5,), label), 2).parts().values()
        rows = torch.cat([part.flatten(1) for part in parts], 1)
        expected = expected + torch.einsum("s,sp,sq->pq", p[:, label], rows, rows) / 5
    assert torch.allclose(gauss_newton(model, tokens, 2), expected, rtol=1e-9, atol=1e-12)


def test_the_control_takes_the_square_under_descent_and_the_loops_under_adam():
    model = weights()
    assert rescaled_single(model, 3, 0.1).value_rate == pytest.approx(0.9)
    assert rescaled_single(model, 3, 0.1, adam=True).value_rate == pytest.approx(0.3)
    assert torch.equal(rescaled_single(model, 3, 0.1).weights.value, 3 * model.value)


def test_one_loop_changes_nothing():
    found = rescaled_single(weights(), 1, 0.1)
    assert found.value_rate == found.rate
    assert torch.equal(found.weights.value, weights().value)


def test_planted_ratios_are_found():
    single = torch.tensor([1.0, 2.0, 0.0])
    found = spectrum_ratios(torch.tensor([4.0, 4.0, 0.0]), single, 2)
    assert found.values.tolist() == [4.0, 2.0]
    assert found.steeper == 1
    assert all(condition.held for condition in found.conditions)


def test_ratios_outside_of_the_law_say_so():
    held = [condition.held for condition in spectrum_ratios(torch.tensor([0.5, 20.0]), torch.tensor([1.0, 2.0]), 2).conditions]
    assert held == [False, False]


def test_what_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"^spectra: 1 and 2 eigenvalues, expected the same number$"):
        spectrum_ratios(torch.ones(1), torch.ones(2), 2)
    with pytest.raises(UnstableDirectionError, match=r"^single: smallest eigenvalue -1, expected none below 0$"):
        spectrum_ratios(torch.ones(2), torch.tensor([-1.0, 1.0]), 2)
    with pytest.raises(BadInputError, match=r"^loops: given 0, expected a whole number of at least 1$"):
        rescaled_single(weights(), 0, 0.1)
