import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as attend

from thalweg.errors import BadInputError, GaugeWarning, NonFiniteError, ShapeMismatchError
from thalweg.landscape.gauge import Pair, balance, balance_weights, gauge_sweep, imbalance, scaled

PAIR = Pair("key.weight", "query.weight", "key.bias", "query.bias")


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores(key, query, heads, key_bias=None, query_bias=None, turn=None):
    """Every head's scores of 7 tokens, from the definition."""
    tokens = drawn(99, 7, key.shape[1])
    k, q = tokens @ key.T, tokens @ query.T
    k, q = (x if b is None else x + b for x, b in ((k, key_bias), (q, query_bias)))
    k, q = (x.view(7, heads, -1).transpose(0, 1) for x in (k, q))
    if turn is not None:
        k, q = turn(k), turn(q)
    return q @ k.mT


def rotary(states):
    """Pairs (i, i + m/2) turned by position, as complex numbers."""
    half = states.shape[-1] // 2
    angles = torch.arange(7.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.1, 0.01])[:half]
    turned = torch.complex(states[..., :half], states[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_balance_keeps_every_score_and_equalises(seed, heads, width, model):
    key, query = drawn(seed, heads * width, model), drawn(seed + 1, heads * width, model) * 5
    found = balance(key, query, heads=heads)
    assert torch.allclose(scores(found.key, found.query, heads), scores(key, query, heads), atol=1e-9)
    for k, q in zip(found.key.view(heads, width, -1), found.query.view(heads, width, -1), strict=True):
        assert torch.allclose(k @ k.T, q @ q.T, atol=1e-9)


def test_balance_is_that_of_the_svd_of_the_product():
    key, query = drawn(0, 3, 5), drawn(1, 3, 5)
    singular = torch.linalg.svdvals(key.T @ query)[:3]
    assert torch.allclose((balance(key, query).key @ balance(key, query).key.T), torch.diag(singular), atol=1e-12)


def test_biases_move_along():
    key, query, biases = drawn(0, 6, 5), 4 * drawn(1, 6, 5), (drawn(2, 6), drawn(3, 6))
    found = balance(key, query, *biases, heads=2)
    after = scores(found.key, found.query, 2, found.key_bias, found.query_bias)
    assert torch.allclose(after, scores(key, query, 2, *biases), atol=1e-10)


def test_one_bias_alone_moves_along_too():
    key, query, bias = drawn(0, 3, 5), 4 * drawn(1, 3, 5), drawn(2, 3)
    found = balance(key, query, query_bias=bias)
    assert found.key_bias is None
    after = scores(found.key, found.query, 1, None, found.query_bias)
    assert torch.allclose(after, scores(key, query, 1, None, bias), atol=1e-10)


def test_rotary_positions_leave_one_factor_for_each_pair():
    key, query, biases = drawn(0, 12, 5), 7 * drawn(1, 12, 5), (drawn(2, 12), drawn(3, 12))
    found = balance(key, query, *biases, heads=2, rotary=True)
    before = scores(key, query, 2, *biases, turn=rotary)
    after = scores(found.key, found.query, 2, found.key_bias, found.query_bias, turn=rotary)
    assert torch.allclose(after, before, atol=1e-10)
    assert imbalance(found.key, found.query, heads=2, rotary=True).worst == pytest.approx(1)


def test_the_general_balance_would_change_a_rotary_model():
    key, query = drawn(0, 6, 5), 7 * drawn(1, 6, 5)
    found = balance(key, query)
    before, after = (scores(k, q, 1, turn=rotary) for k, q in ((key, query), (found.key, found.query)))
    assert (after - before).abs().max() > 0.1


def test_balance_again_changes_nothing_that_a_spectrum_sees():
    once = balance(drawn(0, 3, 5), 9 * drawn(1, 3, 5))
    twice = balance(once.key, once.query)
    assert torch.allclose(twice.key.T @ twice.key, once.key.T @ once.key, atol=1e-12)
    assert twice.before.worst == pytest.approx(1)


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_all_gauges_balance_to_the_same(factor):
    key, query, mix = drawn(0, 3, 5), drawn(1, 3, 5), factor * (torch.eye(3).double() + 0.3 * drawn(2, 3, 3))
    one, two = balance(key, query), balance(torch.linalg.solve(mix.T, key), mix @ query)
    assert torch.allclose(one.key.T @ one.key, two.key.T @ two.key, atol=1e-10)


def test_balance_has_the_smallest_weights_of_all_gauges():
    found = balance(drawn(0, 3, 5), drawn(1, 3, 5))
    least = found.key.square().sum() + found.query.square().sum()
    for seed in range(20):
        mix = torch.eye(3).double() + 0.2 * drawn(seed, 3, 3)
        assert torch.linalg.solve(mix.T, found.key).square().sum() + (mix @ found.query).square().sum() >= least


def test_heads_without_rank_are_balanced_by_zeros():
    key, query = torch.zeros(2, 3), torch.ones(2, 3)
    assert not balance(key, query).key.any()
    assert not balance(key, query).query.any()


def test_a_factor_between_query_and_key_is_measured_and_warned_of():
    base = balance(drawn(0, 3, 5), drawn(1, 3, 5))
    with pytest.warns(
        GaugeWarning,
        match=r"^query and key: one is larger than the other by a factor of 9, expected at most 2; balance the weights",
    ):
        found = imbalance(base.key / 3, 3 * base.query)
    assert found.norms.tolist() == pytest.approx([9.0])


def test_factors_that_cancel_in_the_norm_are_seen_in_directions():
    with pytest.warns(GaugeWarning, match="larger than the other by a factor of 4"):
        found = imbalance(torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([4.0, 1.0])))
    assert found.norms.tolist() == pytest.approx([1.0])


def test_one_head_out_of_balance_is_enough():
    with pytest.warns(GaugeWarning, match="larger than the other by a factor of 5"):
        imbalance(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [5.0]]), heads=2)


def test_balanced_weights_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert imbalance(torch.eye(3), 1.9 * torch.eye(3)).worst == pytest.approx(1.9)


def test_a_model_computes_the_same_with_balanced_weights():
    model = torch.nn.ModuleDict({name: torch.nn.Linear(6, 6) for name in ("key", "query", "value")}).double()
    tokens = drawn(5, 2, 4, 6)

    def run():
        k, q, v = (model[name](tokens).view(2, 4, 2, 3).transpose(1, 2) for name in ("key", "query", "value"))
        return attend(q, k, v, is_causal=True).detach()

    model.load_state_dict(scaled(model.state_dict(), [PAIR], 4.0))
    before, weights = run(), model.state_dict()
    kept = {name: value.clone() for name, value in weights.items()}
    changed = balance_weights(weights, [PAIR], heads=2)
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    assert not torch.allclose(changed["query.weight"], weights["query.weight"])
    model.load_state_dict(changed)
    assert torch.allclose(run(), before, atol=1e-12)


def test_names_without_biases_and_dtypes_are_kept():
    weights = {"k": drawn(0, 2, 3).float(), "q": drawn(1, 2, 3).float()}
    found = balance_weights(weights, [Pair("k", "q")])
    assert list(found) == ["k", "q"]
    assert found["k"].dtype == torch.float32


def test_a_sweep_keeps_scores_and_moves_the_rest():
    weights = {"k": drawn(0, 2, 3), "q": drawn(1, 2, 3)}
    found = gauge_sweep(lambda w: (w["k"].T @ w["q"], float(w["q"].norm())), weights, [Pair("k", "q")])
    assert list(found) == [1 / 3, 1.0, 3.0]
    assert torch.allclose(found[3.0][0], found[1 / 3][0])
    assert found[3.0][1] == pytest.approx(9 * found[1 / 3][1])


def test_what_is_refused():
    with pytest.raises(
        ShapeMismatchError, match=r"^key and query: given shapes \(2, 3\) and \(2, 4\), expected \(m, d\) for both$"
    ):
        balance(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(BadInputError, match=r"^heads: given 2, expected a divisor of the 3 rows of key$"):
        balance(torch.ones(3, 3), torch.ones(3, 3), heads=2)
    with pytest.raises(NonFiniteError, match=r"^key: holds NaN or infinity"):
        balance(torch.full((1, 1), float("nan")), torch.ones(1, 1))
    with pytest.raises(
        BadInputError, match=r"^key and query: given a head of lower rank, expected full rank where there are biases"
    ):
        balance(drawn(0, 4, 2), drawn(1, 4, 2), query_bias=torch.ones(4))
    with pytest.raises(ShapeMismatchError, match=r"^query bias: given shape \(3,\), expected \(2,\)$"):
        balance(torch.eye(2), torch.eye(2), query_bias=torch.ones(3))
    with pytest.raises(BadInputError, match=r"^width of a head: given 3, expected an even number for rotary positions$"):
        balance(torch.eye(3), torch.eye(3), rotary=True)
    with pytest.raises(BadInputError, match=r"^unknown tensor 'kee'; did you mean 'key'\? Known: key, query$"):
        balance_weights({"key": torch.eye(2), "query": torch.eye(2)}, [Pair("kee", "query")])
    with pytest.raises(BadInputError, match=r"^factor: given 0, expected a positive number$"):
        scaled({}, [], 0)
