import itertools
import math

import pytest
import torch

from thalweg.models.attention import Attention, linear_attention, rotate, rotation_table
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer

FLOAT64 = {"rtol": 1e-12, "atol": 1e-13}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
TABLE = {"rtol": 1e-6, "atol": 1e-6}  # float64 arithmetic with a rotary table that is kept in float32

VARIANTS = [
    {"block": block, "attention": attention, "norm": norm, "positions": positions, "injection": injection}
    for block, attention, norm, positions, injection in itertools.product(
        ("attention", "gpt"), ("softmax", "linear"), ("pre", "none"), ("learned", "rotary", "none"), (False, True)
    )
]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_mix(query, key, value, kind):
    """One head ``(L, K)``, one position and one earlier position at a time."""
    length, width = query.shape
    rows = []
    for i in range(length):
        scores = [sum(float(query[i, c]) * float(key[j, c]) for c in range(width)) / math.sqrt(width) for j in range(i + 1)]
        if kind == "softmax":
            exponentials = [math.exp(score) for score in scores]
            weights = [e / sum(exponentials) for e in exponentials]
        else:
            weights = [score / (i + 1) for score in scores]
        rows.append([sum(w * float(value[j, c]) for j, w in enumerate(weights)) for c in range(width)])
    return torch.tensor(rows, dtype=torch.float64)


def turned(states):
    """Rotary positions of one head ``(L, K)``, pair by pair as complex numbers."""
    length, width = states.shape
    out = states.clone()
    for position, i in itertools.product(range(length), range(width // 2)):
        angle = position * 10000 ** (-2 * i / width)
        number = complex(states[position, i], states[position, i + width // 2]) * complex(math.cos(angle), math.sin(angle))
        out[position, i], out[position, i + width // 2] = number.real, number.imag
    return out


def naive_attention(layer, states, rotary):
    """The whole sublayer, sequence by sequence and head by head."""
    query, key, value = (part(states) for part in (layer.query, layer.key, layer.value))
    width = states.shape[-1] // layer.heads
    mixed = torch.zeros_like(states)
    for b, h in itertools.product(range(len(states)), range(layer.heads)):
        columns = slice(h * width, (h + 1) * width)
        q, k, v = query[b, :, columns], key[b, :, columns], value[b, :, columns]
        q, k = (turned(q), turned(k)) if rotary else (q, k)
        mixed[b, :, columns] = naive_mix(q, k, v, layer.kind)
    return mixed if layer.output is None else layer.output(mixed)


def built(**arguments):
    """An attention layer in float64 whose biases are not zero."""
    layer = Attention(ModelConfig(width=8, **arguments)).double()
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=number)
    return layer


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("block", ["attention", "gpt"])
@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.no_grad()
def test_attention_is_what_naive_loops_compute(kind, block, heads):
    layer, states = built(attention=kind, block=block, heads=heads), normal(2, 5, 8, seed=9)
    torch.testing.assert_close(layer(states, layer.fused()), naive_attention(layer, states, rotary=False), **FLOAT64)


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_attention_with_rotary_positions_is_what_naive_loops_compute(kind, heads):
    layer, states = built(attention=kind, heads=heads), normal(2, 5, 8, seed=9) / 4
    out = layer(states, layer.fused(), rotation_table(5, 8 // heads))
    torch.testing.assert_close(out, naive_attention(layer, states, rotary=True), **TABLE)


def test_linear_attention_is_what_naive_loops_compute():
    query, key, value = (normal(6, 3, seed=seed) for seed in (1, 2, 3))
    found = linear_attention(query[None, None], key[None, None], value[None, None])[0, 0]
    torch.testing.assert_close(found, naive_mix(query, key, value, "linear"), **FLOAT64)


def test_linear_attention_of_equal_keys_is_the_scaled_mean_of_the_prefix():
    ones, value = torch.ones(1, 1, 4, 4, dtype=torch.float64), normal(1, 1, 4, 4)
    means = value.cumsum(2) / torch.arange(1, 5).view(4, 1)
    torch.testing.assert_close(linear_attention(ones, ones, value), 2 * means, **FLOAT64)  # q . k / sqrt(4) = 2


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@torch.no_grad()
def test_the_first_position_sees_only_itself(kind):
    layer, states = built(attention=kind), normal(1, 5, 8, seed=9)
    first = layer(states, layer.fused())[:, 0]
    torch.testing.assert_close(first, naive_attention(layer, states[:, :1], rotary=False)[:, 0], **FLOAT64)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logits(variant):
    model = LoopedTransformer(ModelConfig(vocabulary=7, length=6, width=8, heads=2, **variant), torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    for place in range(1, 6):
        changed = tokens.clone()
        changed[0, place] = 0
        torch.testing.assert_close(model(changed, loops=3)[:, :place], model(tokens, loops=3)[:, :place], **FLOAT32)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@torch.no_grad()
def test_an_earlier_token_changes_all_later_logits(variant):
    model = LoopedTransformer(ModelConfig(vocabulary=7, length=6, width=8, heads=2, **variant), torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter += 0.3 * normal(*parameter.shape, dtype=torch.float32)  # GPT's first weights are too small to see much
    before, after = (model(torch.tensor([[first, 2, 3, 4, 5, 6]]), loops=3)[0] for first in (1, 0))
    assert ((before - after).abs().amax(-1) > FLOAT32["atol"]).all()


@pytest.mark.parametrize("width", [2, 4, 8])
def test_a_rotation_keeps_the_norm(width):
    states = normal(2, 3, 7, width)
    norms = rotate(states, *rotation_table(7, width)).norm(dim=-1)
    torch.testing.assert_close(norms, states.norm(dim=-1), **TABLE)


def test_the_first_position_is_not_turned():
    states = normal(1, 1, 4, 8)
    assert torch.equal(rotate(states, *rotation_table(4, 8))[:, :, 0], states[:, :, 0])


def test_the_product_of_turned_vectors_depends_on_their_distance_alone():
    query, key = normal(8, seed=1).expand(1, 1, 9, 8), normal(8, seed=2).expand(1, 1, 9, 8)
    table = rotation_table(9, 8)
    products = (rotate(query, *table) @ rotate(key, *table).mT)[0, 0]
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), **TABLE)


def test_the_product_of_turned_vectors_changes_with_their_distance():
    query, key = normal(8, seed=1).expand(1, 1, 9, 8), normal(8, seed=2).expand(1, 1, 9, 8)
    table = rotation_table(9, 8)
    first = (rotate(query, *table) @ rotate(key, *table).mT)[0, 0, 0]
    assert (first.diff().abs() > 10 * TABLE["atol"]).all()


def test_a_rotation_keeps_the_dtype():
    assert rotate(normal(1, 1, 3, 4).bfloat16(), *rotation_table(3, 4)).dtype == torch.bfloat16


def test_the_fused_weight_stacks_query_key_and_value():
    layer = built()
    assert torch.equal(layer.fused()[0], torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))


@pytest.mark.parametrize(("block", "sizes"), [("attention", 3 * 64), ("gpt", 4 * (64 + 8))])
def test_the_papers_attention_has_neither_biases_nor_an_output_projection(block, sizes):
    assert sum(p.numel() for p in built(block=block).parameters()) == sizes
