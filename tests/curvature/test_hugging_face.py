"""Curvature of Hugging Face's language models, built from tiny configurations, against differences of plain gradients in float64.

These models cast to float32 by hand (their norms, softmax and loss), so the reference keeps float64 by a mode of its own.
``python tests/curvature/test_hugging_face.py`` prints the table of relative errors.
"""

import copy
import functools
import importlib.util
import sys
import warnings
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script

import pytest
import torch
from tests.curvature.cases import normal, stirred, whole
from tests.curvature.oracle import Gradient, Verdict, error, verdict
from tests.curvature.oracle import whole as entries
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import thalweg as tw

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-7}
"""Largest relative error; in float32 that of Gemma3, whose many norms amplify rounding to 1e-4 of one matrix's curvature."""
STEP, ALONG = 2e-4, 5e-5
"""Of the differences, for one weight and for a direction over all: short, as Gemma3 with its many norms bends within 1e-3."""
SHAPE = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@functools.cache
def hugging_face() -> Any:
    """The library, imported when it is first used: that takes seconds."""
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


class KeepFloat64(TorchFunctionMode):
    """What a model casts to float32 by hand stays in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        longer = lambda given: torch.float64 if given is torch.float32 else given  # noqa: E731
        return func(*map(longer, args), **{key: longer(value) for key, value in (kwargs or {}).items()})


def llama(**more: Any) -> nn.Module:
    return hugging_face().LlamaForCausalLM(hugging_face().LlamaConfig(**SHAPE, **more))


def qwen3(**more: Any) -> nn.Module:
    return hugging_face().Qwen3ForCausalLM(hugging_face().Qwen3Config(**SHAPE, head_dim=4, **more))


def gemma3(**more: Any) -> nn.Module:
    """One layer that sees three tokens back, and one that sees all."""
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "head_dim": 4}
    return hugging_face().Gemma3ForCausalLM(hugging_face().Gemma3TextConfig(**{**SHAPE, **layers}, **more))


def gpt2(**more: Any) -> nn.Module:
    names = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_inner": 8, "n_layer": 1, "n_head": 2}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
    return hugging_face().GPT2LMHeadModel(hugging_face().GPT2Config(**names, **quiet, **more))


def mixtral(**more: Any) -> nn.Module:
    return hugging_face().MixtralForCausalLM(
        hugging_face().MixtralConfig(**SHAPE, num_local_experts=3, num_experts_per_tok=2, experts_implementation="eager", **more)
    )


MODELS = {"Llama": llama, "Qwen3": qwen3, "Gemma3": gemma3, "GPT-2": gpt2, "Mixtral": mixtral}
MATRIX = dict.fromkeys(MODELS, "model.layers.0.self_attn.k_proj.weight") | {"GPT-2": "transformer.h.0.mlp.c_proj.weight"}
"""The matrix that is looked at whole: 32 weights, 64 of GPT-2's."""
INNER = dict.fromkeys(MODELS, "model.layers.0.self_attn.q_proj") | {"GPT-2": "transformer.h.0.attn.c_attn"}
"""Where the low-rank layer is put."""


class LowRank(nn.Module):
    """A frozen layer and a trained product of two thin matrices beside it."""

    def __init__(self, inner: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner, self.lora_A, self.lora_B = inner, nn.Linear(inputs, 1, bias=False), nn.Linear(1, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.lora_B(self.lora_A(x))


def with_low_rank(name: str) -> nn.Module:
    """The model with all its weights frozen, and a low-rank layer."""
    model = MODELS[name]().requires_grad_(False)
    inner = model.get_submodule(INNER[name])
    outputs = inner(torch.zeros(1, 8)).shape[-1]
    model.set_submodule(INNER[name], LowRank(inner, 8, outputs))
    return model


def checkpointed(name: str) -> nn.Module:
    """The model computes its layers a second time in the backward pass, where it is in training mode."""
    model = MODELS[name]()
    model.gradient_checkpointing_enable()
    return model.train()


VARIANTS: dict[str, Callable[[str], nn.Module]] = {
    "sdpa": lambda name: MODELS[name](),
    "eager attention": lambda name: MODELS[name](attn_implementation="eager"),
    "tied head": lambda name: MODELS[name](tie_word_embeddings=True),
    "bfloat16 weights": lambda name: MODELS[name]().bfloat16(),
    "low-rank layer": with_low_rank,
    "checkpointed": checkpointed,
    "checkpointed in training": checkpointed,
    "compiled": lambda name: MODELS[name](),
}
MODE = {"checkpointed in training": "train"}
ALIKE = {"checkpointed": ("Llama", "GPT-2"), "compiled": ("Llama", "GPT-2")}
"""Variants in which the models do not differ: the tests take two of them, the table all."""


@functools.cache
def model_of(name: str, variant: str = "sdpa") -> nn.Module:
    """The model with weights drawn anew, in their dtype."""
    made = VARIANTS[variant](name)
    return stirred(made)


def batches(kind: Callable[[dict[str, Tensor]], Any] = dict) -> list[Any]:
    """Two batches of three sequences of up to six tokens; padding neither is seen nor counts."""
    made = []
    for seed in (1, 2):
        ids, mask = 3 + whole(8, 3, 6, seed=seed), torch.ones(3, 6, dtype=torch.long)
        mask[1, 4:], mask[2, 5:] = 0, 0
        ids = ids * mask
        made.append(kind({"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}))
    return made


CONTAINERS = {"dict": dict, "UserDict": UserDict, "BatchEncoding": lambda given: hugging_face().BatchEncoding(given)}


def loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).loss


def outputs(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """What `GaussNewton` asks for: each token's logits and the next token."""
    return model(**batch).logits[:, :-1], batch["labels"][:, 1:]


def gradient_of(name: str, variant: str, only: str | None = None) -> Gradient:
    model = copy.deepcopy(model_of(name, variant))
    model.gradient_checkpointing_disable()  # what is computed again in a backward pass escapes from the mode
    chosen = (lambda given: given == only) if only else (lambda given: True)
    return Gradient(loss, model, batches(), chosen, train=MODE.get(variant) == "train")


@functools.cache
def truth_along(name: str, variant: str) -> tuple[Tensor, Tensor]:
    """A random direction over all that train, and its product."""
    with KeepFloat64():
        gradient = gradient_of(name, variant)
        direction = normal(len(gradient.point), seed=5).double()
        return direction, gradient.product(direction, ALONG)


@functools.cache
def truth_of_matrix(name: str) -> Tensor:
    """The Hessian of one matrix."""
    with KeepFloat64():
        gradient = gradient_of(name, "sdpa", MATRIX[name])
        return torch.stack([gradient.product(one, STEP) for one in torch.eye(len(gradient.point), dtype=torch.float64)])


@functools.cache
def truth_of_gauss_newton(name: str) -> Tensor:
    """Of one matrix, the logits' Jacobian by differences: mean over what counts of ``J^T (diag(p) - p p^T) J``."""
    with KeepFloat64():
        model = copy.deepcopy(model_of(name)).double().eval()
        weight = model.get_parameter(MATRIX[name])
        start, counted, total = weight.detach().clone(), 0, torch.zeros(weight.numel(), weight.numel(), dtype=torch.float64)

        def logits(batch: Any, shift: Tensor) -> Tensor:
            weight.data.copy_(start + shift.view_as(start))
            given, targets = outputs(model, batch)
            return given.detach()[targets != -100]

        for batch in batches():
            ones = STEP * torch.eye(weight.numel(), dtype=torch.float64)
            near = [logits(batch, one) - logits(batch, -one) for one in ones]
            far = [logits(batch, 2 * one) - logits(batch, -2 * one) for one in ones]
            jacobian = torch.stack([(8 * a - b) / (12 * STEP) for a, b in zip(near, far, strict=True)], -1)
            shares = logits(batch, torch.zeros_like(start)).softmax(-1)
            bent = torch.diag_embed(shares) - shares.unsqueeze(2) * shares.unsqueeze(1)
            total += torch.einsum("ncp,ncd,ndq->pq", jacobian, bent, jacobian)
            counted += len(shares)
        return total / counted


def product(name: str, variant: str, dtype: torch.dtype, container: str = "dict") -> Verdict:
    """`Hessian` along a random direction against the truth."""
    direction, truth = truth_along(name, variant)
    options = {"mode": MODE[variant]} if variant in MODE else {}
    model = torch.compile(model_of(name, variant)) if variant == "compiled" else model_of(name, variant)

    def attempt() -> Tensor:
        return tw.Hessian(loss, model, batches(CONTAINERS[container]), dtype=dtype, **options) @ direction

    return verdict(attempt, truth, TOLERANCE[dtype])


def dense(name: str, dtype: torch.dtype) -> Verdict:
    """`dense_hessian` of one matrix."""
    attempt = lambda: tw.dense_hessian(loss, model_of(name), batches(), MATRIX[name], dtype).matrix  # noqa: E731
    return verdict(attempt, truth_of_matrix(name), TOLERANCE[dtype])


def gauss_newton(name: str, dtype: torch.dtype) -> Verdict:
    """`GaussNewton` of one matrix."""
    attempt = lambda: entries(tw.GaussNewton(outputs, model_of(name), batches(), MATRIX[name], dtype))  # noqa: E731
    return verdict(attempt, truth_of_gauss_newton(name), TOLERANCE[dtype])


def largest(name: str, dtype: torch.dtype) -> Verdict:
    """The three largest eigenvalues of one matrix's Hessian, by `eigenpairs`."""
    attempt = lambda: tw.eigenpairs(tw.Hessian(loss, model_of(name), batches(), MATRIX[name], dtype), 3, "largest").values  # noqa: E731
    truth = torch.linalg.eigvalsh(truth_of_matrix(name)).flip(0)[:3]
    return verdict(attempt, truth, TOLERANCE[dtype])


def probed(name: str, dtype: torch.dtype) -> Verdict:
    """Trace and largest eigenvalue, as `LandscapeProbe` sees them."""
    truth = truth_of_matrix(name)

    def attempt() -> Tensor:
        record = tw.LandscapeProbe(top=1, forms=0, dtype=dtype).measure(loss, model_of(name), batches(), params=MATRIX[name])
        return torch.tensor([record.trace.value, record.largest[0]])

    return verdict(attempt, torch.stack([truth.trace(), torch.linalg.eigvalsh(truth)[-1]]), TOLERANCE[dtype])


WAYS = {
    "dense_hessian of a matrix": dense,
    "GaussNewton of a matrix": gauss_newton,
    "eigenpairs": largest,
    "LandscapeProbe": probed,
}
every_model = pytest.mark.parametrize("name", MODELS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None, reason="transformers is not installed (the extra 'bench')"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@every_dtype
@pytest.mark.parametrize(
    ("variant", "name"),
    [(variant, name) for variant in VARIANTS for name in MODELS if variant not in ALIKE or name in ALIKE[variant]],
)
def test_a_product_is_the_difference_of_gradients_that_stay_in_float64(variant, name, dtype):
    found = product(name, variant, dtype)
    assert found.word == "right", found


@every_dtype
@pytest.mark.parametrize("container", CONTAINERS)
def test_batches_may_be_what_a_tokeniser_returns(container, dtype):
    found = product("Llama", "sdpa", dtype, container)
    assert found.word == "right", found


@every_dtype
@every_model
@pytest.mark.parametrize("way", WAYS)
def test_one_matrix_is_seen_alike_in_every_way(way, name, dtype):
    found = WAYS[way](name, dtype)
    assert found.word == "right", found


def test_experts_that_only_compute_in_float32_are_right_or_refused():
    model, _ = model_of("Mixtral", "sdpa"), truth_along("Mixtral", "sdpa")
    model.set_experts_implementation("grouped_mm")
    try:
        found = product("Mixtral", "sdpa", torch.float32)
    finally:
        model.set_experts_implementation("eager")
    assert found.is_as("right | refused: "), found


@every_model
def test_the_reference_does_not_cast_to_float32(name):
    with KeepFloat64():
        model = copy.deepcopy(model_of(name)).double().eval()
        value = loss(model, batches()[0])
    assert value.dtype == torch.float64
    assert 0 < error(loss(model, batches()[0]).detach(), value.detach()) < 1e-6


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{'relative error':28}{'':9}" + "".join(f"{name:>12}" for name in MODELS))
    rows: dict[str, Callable[..., Verdict]] = {
        **{f"product, {variant}": functools.partial(product, variant=variant) for variant in VARIANTS},
        **{f"product, {kind}": functools.partial(product, variant="sdpa", container=kind) for kind in CONTAINERS},
        **WAYS,
    }
    for row, way in rows.items():
        for dtype in DTYPES:
            found = [way(name, dtype=dtype) for name in MODELS]
            print(
                f"{row:38} {str(dtype)[-2:]}" + "".join(f"{one.detail if one.word == 'right' else one.word:>12}" for one in found)
            )
            for message in dict.fromkeys(one.detail for one in found if one.word != "right"):
                print(f"      {message[:200]}")


if __name__ == "__main__":
    main()
