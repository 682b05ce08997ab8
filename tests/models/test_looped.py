import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.errors import BadInputError
from thalweg.models.attention import rotation_table
from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost
from thalweg.models.looped import LoopedTransformer

FLOAT64 = {"rtol": 1e-11, "atol": 1e-12}
TABLE = {"rtol": 1e-6, "atol": 1e-6}  # float64 arithmetic with a rotary table that is kept in float32
STEP = 1e-5  # of central differences in float64: error of order STEP^2 and 1e-16 / STEP
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-8}
STANDARD_ERRORS = 5
V, L, D = 7, 5, 8
TOKENS = torch.tensor([[0, 3, 6, 1, 2], [5, 5, 4, 0, 1]])

FAMILIES = [
    {"block": block, "attention": attention, "norm": norm}
    for block, attention, norm in itertools.product(("attention", "gpt"), ("softmax", "linear"), ("pre", "none"))
]
MORE = [
    {"positions": "rotary"},
    {"positions": "none"},
    {"injection": True},
    {"layers": 2},
    {"tied": True},
    {"learned_gains": 4},
    {"loop_norm": True},
    {"residual_loops": 3},
    {"learned_gains": 5, "loop_norm": True, "residual_loops": 4, "injection": True, "norm": "none", "attention": "linear"},
    {"learned_gains": 4, "loop_norm": True, "residual_loops": 2, "block": "gpt", "layers": 2},
    {"block": "gpt", "layers": 2, "injection": True, "positions": "rotary", "tied": True},
    {"block": "gpt", "prelude": 1, "coda": 2, "injection": True, "residual_loops": 3},
    {"prelude": 1, "coda": 1, "positions": "rotary"},
]
EVERY = [*FAMILIES, *MORE]


def built(seed=0, dtype=torch.float64, noise=0.3, **variant):
    """A model whose every parameter, biases and norms too, has moved away from where it began."""
    variant = {"vocabulary": V, "length": L, "width": D, "heads": 2} | variant
    model = LoopedTransformer(ModelConfig(**variant), torch.Generator().manual_seed(seed)).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model


def name_of(variant):
    return "-".join(f"{value}" if isinstance(value, str) else f"{key}={value}" for key, value in variant.items())


every_model = pytest.mark.parametrize("variant", EVERY, ids=name_of)


def by_hand(model, tokens, loops):
    """The logits from the weights alone, written from the formulas."""
    config, w = model.config, model.state_dict()

    def normed(x, name):
        if config.norm == "none" and name != "loop_norm":
            return x
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0)

    def affine(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def attended(x, name):
        length = x.shape[1]
        split = [affine(x, f"{name}.{part}").view(len(x), length, config.heads, -1) for part in ("query", "key", "value")]
        if config.positions == "rotary":
            half = split[0].shape[-1] // 2
            rates = 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
            phase = torch.polar(torch.ones(length, half).double(), torch.arange(length).double()[:, None] * rates)[:, None]
            turned = [torch.complex(y[..., :half], y[..., half:]) * phase for y in split[:2]]
            split[:2] = [torch.cat([y.real, y.imag], -1) for y in turned]
        scores = torch.einsum("bihk,bjhk->bhij", split[0], split[1]) / math.sqrt(D // config.heads)
        past = torch.ones(length, length).tril().bool()
        if config.attention == "softmax":
            weights = scores.masked_fill(~past, -torch.inf).softmax(-1)
        else:
            weights = scores.masked_fill(~past, 0) / past.sum(-1, keepdim=True)
        mixed = torch.einsum("bhij,bjhk->bihk", weights, split[2]).flatten(2)
        return affine(mixed, f"{name}.output") if config.block == "gpt" else mixed

    embedded = w["embedding.weight"][tokens]
    if config.positions == "learned":
        embedded = embedded + w["positions.weight"][: tokens.shape[1]]

    def stacked(x, part, layers, share=1.0):
        for layer in range(layers):
            name = f"{part}.{layer}"
            x = x + share * attended(normed(x, f"{name}.attention_norm"), f"{name}.attention")
            if config.block == "gpt":
                y = affine(normed(x, f"{name}.mlp_norm"), f"{name}.up")
                y = y / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
                x = x + share * affine(y, f"{name}.down")
        return x

    states = embedded = stacked(embedded, "prelude", config.prelude)
    for index in range(loops):
        before = states
        if config.injection and index > 0:
            states = states + embedded
        states = stacked(states, "blocks", config.layers, config.residual_loops**-0.5)
        if config.loop_norm:
            states = normed(states, "loop_norm")
        if config.learned_gains and index > 0:
            states = before + w["pass_gains"][index - 1] * (states - before)
    return normed(stacked(states, "coda", config.coda), "final_norm") @ w["head.weight"].T


def loss_of(model, weights, loops=2):
    """Mean cross-entropy at other weights."""
    logits = functional_call(model, weights, (TOKENS,), {"loops": loops})
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def gradient(model, weights, create_graph=False):
    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.autograd.grad(loss_of(model, weights), list(weights.values()), create_graph=create_graph)
    return weights, dict(zip(weights, found, strict=True))


def direction(weights, seed):
    """A random direction of length one."""
    generator = torch.Generator().manual_seed(seed)
    along = {name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in weights.items()}
    length = torch.cat([part.flatten() for part in along.values()]).norm()
    return {name: part / length for name, part in along.items()}


def moved(weights, along, step):
    return {name: value + step * along[name] for name, value in weights.items()}


@every_model
@pytest.mark.parametrize("loops", [1, 2, 4])
@torch.no_grad()
def test_the_logits_are_what_the_formulas_say(variant, loops):
    model = built(**variant)
    tolerance = TABLE if variant.get("positions") == "rotary" else FLOAT64
    torch.testing.assert_close(model(TOKENS, loops=loops), by_hand(model, TOKENS, loops), **tolerance)


@every_model
@torch.no_grad()
def test_loops_apply_the_same_stack_again_and_again(variant):
    model = built(**variant)
    rotation = rotation_table(L, D // 2) if variant.get("positions") == "rotary" else None
    states = embedded = model.embed(TOKENS)
    for index in range(3):
        before = states
        if variant.get("injection") and index:
            states = states + embedded
        for block in model.blocks:
            states = block(states, block.attention.fused(), rotation)
        states = model.loop_norm(states) if variant.get("loop_norm") else states
        states = before.lerp(states, model.pass_gains[index - 1]) if variant.get("learned_gains") and index else states
    assert torch.equal(model(TOKENS, loops=3), model.read(states))


@every_model
@torch.no_grad()
def test_another_loop_gives_other_logits(variant):
    model = built(**variant)
    assert not torch.allclose(model(TOKENS, loops=2), model(TOKENS, loops=3), **TABLE)


@every_model
@torch.no_grad()
def test_one_loop_is_the_default(variant):
    model = built(**variant)
    assert torch.equal(model(TOKENS), model(TOKENS, loops=1))


@every_model
@pytest.mark.parametrize("kind", [tuple, torch.tensor])
@pytest.mark.parametrize(("before", "loops"), [(1, 3), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_passes_at_gain_zero_are_not_there_to_the_last_bit(variant, kind, before, loops, dtype):
    model = built(dtype=dtype, **variant)
    gains = kind((1.0,) * before + (0.0,) * (loops - before))
    assert torch.equal(model(TOKENS, loops=loops, gains=gains), model(TOKENS, loops=before))


@every_model
@pytest.mark.parametrize("kind", [tuple, torch.tensor])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_passes_at_gain_one_are_plain_passes_to_the_last_bit(variant, kind, dtype):
    model = built(dtype=dtype, **variant)
    assert torch.equal(model(TOKENS, loops=3, gains=kind((1.0, 1.0, 1.0))), model(TOKENS, loops=3))


@pytest.mark.parametrize("kind", [tuple, torch.tensor])
@pytest.mark.parametrize("block", ["attention", "gpt"])
@pytest.mark.parametrize("gain", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_a_gain_between_moves_the_logits_in_proportion(kind, block, gain):
    model = built(norm="none", block=block)  # without the last norm the logits are linear in the state
    one, two = model(TOKENS, loops=1), model(TOKENS, loops=2)
    gains = kind((1.0, gain)) if kind is tuple else torch.tensor((1.0, gain), dtype=torch.float64)
    torch.testing.assert_close(model(TOKENS, loops=2, gains=gains), one + gain * (two - one), **FLOAT64)


@torch.no_grad()
def test_a_gain_as_number_and_as_tensor_agree():
    model, gains = built(), (1.0, 0.3, 0.7)
    as_tensor = model(TOKENS, loops=3, gains=torch.tensor(gains, dtype=torch.float64))
    torch.testing.assert_close(model(TOKENS, loops=3, gains=gains), as_tensor, **FLOAT64)


def test_a_pass_at_gain_zero_receives_no_gradient_of_its_own():
    model = built()
    with_pass = torch.autograd.grad(
        model(TOKENS, loops=2, gains=torch.tensor([1.0, 0.0])).square().sum(), model.blocks.parameters()
    )
    without = torch.autograd.grad(model(TOKENS, loops=1).square().sum(), model.blocks.parameters())
    assert all(torch.equal(a, b) for a, b in zip(with_pass, without, strict=True))


@pytest.mark.parametrize("variant", FAMILIES, ids=name_of)
@torch.no_grad()
def test_injection_does_nothing_to_one_loop(variant):
    plain, injected = built(**variant), built(injection=True, **variant)
    assert torch.equal(injected(TOKENS), plain(TOKENS))


@torch.no_grad()
def test_injection_changes_two_loops():
    assert not torch.allclose(built(injection=True)(TOKENS, loops=2), built()(TOKENS, loops=2), **TABLE)


def test_a_tied_head_is_the_embedding():
    model = built(tied=True)
    assert model.head.weight is model.embedding.weight


def test_a_head_is_not_the_embedding_unless_tied():
    model = built()
    assert model.head.weight is not model.embedding.weight


@torch.no_grad()
def test_learned_positions_serve_shorter_sequences():
    model = built()
    torch.testing.assert_close(model(TOKENS[:, :3], loops=2), model(TOKENS, loops=2)[:, :3], **FLOAT64)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_other_positions_serve_longer_sequences(positions):
    assert built(positions=positions)(TOKENS.repeat(1, 3)).shape == (2, 3 * L, V)


def test_a_sequence_longer_than_the_learned_positions_is_refused():
    with pytest.raises(BadInputError, match=r"sequence: given 6, expected at most 5 tokens \(model\.length\)"):
        built()(torch.zeros(1, 6, dtype=torch.long))


@pytest.mark.parametrize("gains", [(), (1.0,), (1.0, 1.0, 1.0), torch.ones(4)], ids=len)
def test_gains_of_another_length_than_the_loops_are_refused(gains):
    with pytest.raises(BadInputError, match=r"gains: given .*, expected one number for each of the 2 passes"):
        built()(TOKENS, loops=2, gains=gains)


@pytest.mark.parametrize("loops", [0, -1])
def test_less_than_one_loop_is_refused(loops):
    with pytest.raises(BadInputError, match=f"loops: given {loops}, expected a whole number of at least 1"):
        built()(TOKENS, loops=loops)


@every_model
def test_the_same_generator_gives_the_same_weights(variant):
    first, second = (built(seed=3, noise=0, **variant).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_generator_gives_other_weights():
    assert not torch.equal(built(seed=3, noise=0).head.weight, built(seed=4, noise=0).head.weight)


def test_a_given_generator_makes_the_weights_independent_of_the_global_one():
    torch.manual_seed(1)
    first = built(noise=0).head.weight
    torch.manual_seed(2)
    assert torch.equal(built(noise=0).head.weight, first)


@pytest.mark.parametrize("block", ["attention", "gpt"])
def test_a_given_deviation_takes_the_place_of_the_blocks_own(block):
    own = 0.02 if block == "gpt" else 1 / math.sqrt(64)
    plain, given = (built(noise=0, block=block, width=64, layers=2, deviation=size).state_dict() for size in (0.0, 3 * own))
    for name, value in plain.items():
        factor = 3 if value.dim() >= 2 else 1
        torch.testing.assert_close(given[name], factor * value, msg=name)
    assert given["embedding.weight"].std().item() == pytest.approx(3 * own, rel=0.1)


@pytest.mark.parametrize("block", ["attention", "gpt"])
def test_the_value_scale_multiplies_the_value_weights_and_nothing_else(block):
    plain, scaled = (built(noise=0, block=block, layers=2, value_scale=scale).state_dict() for scale in (1.0, 4.0))
    factors = {name: 4.0 if name.endswith("value.weight") else 1.0 for name in plain}
    assert all(torch.equal(scaled[name], factor * plain[name]) for name, factor in factors.items())


def spread(weight):
    """Standard deviation of normal numbers, and how far it may be from the truth."""
    deviation = weight.detach().std().item()
    return deviation, STANDARD_ERRORS * deviation / math.sqrt(2 * weight.numel())


def test_matrices_of_the_papers_model_begin_with_one_by_the_root_of_the_width():
    model = built(noise=0, width=64, vocabulary=64)
    for weight in (model.blocks[0].attention.query.weight, model.head.weight, model.embedding.weight):
        deviation, error = spread(weight)
        assert abs(deviation - 1 / 8) < error


def test_matrices_of_gpt_begin_with_002_and_residual_projections_with_less():
    model = built(noise=0, block="gpt", layers=2, width=64)
    block = model.blocks[1]
    expected = {block.up: 0.02, block.attention.key: 0.02, block.down: 0.01, block.attention.output: 0.01}
    for layer, truth in expected.items():
        deviation, error = spread(layer.weight)
        assert abs(deviation - truth) < error


@pytest.mark.parametrize("block", ["attention", "gpt"])
def test_norms_begin_at_one_and_biases_at_zero(block):
    vectors = {n: p for n, p in built(noise=0, block=block).named_parameters() if p.dim() == 1}
    assert all((p == (1.0 if n.endswith("norm.weight") else 0.0)).all() for n, p in vectors.items())


@every_model
def test_the_gradient_is_that_of_central_differences(variant):
    model = built(**variant)
    weights, found = gradient(model, dict(model.named_parameters()))
    for name in weights:
        along = {n: torch.zeros_like(w) for n, w in weights.items()} | direction({name: weights[name]}, seed=5)
        with torch.no_grad():
            ends = [loss_of(model, moved(weights, along, sign * STEP)) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * STEP)
        torch.testing.assert_close((found[name] * along[name]).sum(), slope, **DIFFERENCES)


@every_model
def test_the_product_of_hessian_and_vector_is_that_of_central_differences(variant):
    model = built(**variant)
    weights, first = gradient(model, dict(model.named_parameters()), create_graph=True)
    along = direction(weights, seed=6)
    product = torch.autograd.grad(sum((first[n] * along[n]).sum() for n in first), list(weights.values()))
    ends = [gradient(model, moved(weights, along, sign * STEP))[1] for sign in (1, -1)]
    for found, name in zip(product, weights, strict=True):
        torch.testing.assert_close(found, (ends[0][name] - ends[1][name]) / (2 * STEP), **DIFFERENCES)


@pytest.mark.parametrize(
    ("tokens", "given"),
    [
        (torch.tensor([[3, 16]]), "given 16, expected whole numbers from 0 to 15 (model.vocabulary is 16)"),
        (torch.tensor([[-1]]), "given -1, expected whole numbers from 0 to 15"),
        (torch.tensor([[1.0]]), "given float32 of shape (1, 1), expected a tensor of int64 or int32, shape (B, L)"),
        (torch.tensor([[True]]), "given bool of shape (1, 1), expected a tensor of int64 or int32"),
        (torch.tensor([1, 2]), "given int64 of shape (2,), expected a tensor of int64 or int32, shape (B, L)"),
        (torch.zeros(2, 3, 4, dtype=torch.long), "given int64 of shape (2, 3, 4)"),
        ([[1, 2]], "given [[1, 2]], expected a tensor"),
    ],
)
def test_what_is_no_batch_of_tokens_is_refused_in_one_line(tokens: Any, given: str) -> None:
    model = LoopedTransformer(ModelConfig())
    for call in (lambda: model(tokens), lambda: model(tokens, loops=torch.tensor([2])), lambda: next(model.unrolled(tokens, 2))):
        with pytest.raises(BadInputError, match=re.escape(f"tokens: {given}")):
            call()


def test_tokens_of_32_bits_are_those_of_64() -> None:
    model, tokens = LoopedTransformer(ModelConfig()), torch.tensor([[1, 2, 15]])
    assert torch.equal(model(tokens.int(), loops=2), model(tokens, loops=2))


def test_a_config_of_another_kind_is_refused() -> None:
    for call in (lambda: LoopedTransformer({"width": 8}), lambda: cost({"width": 8}, 1, 2)):  # type: ignore[arg-type]
        with pytest.raises(BadInputError, match=r"config: given .*, expected a ModelConfig"):
            call()
