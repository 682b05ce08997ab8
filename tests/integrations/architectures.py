"""Tiny models of many architectures, and the checks that fill the table in docs/architectures.md.

``python tests/integrations/architectures.py`` makes the table again with the installed version of transformers.
"""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import BadInputError

BASE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
MODELS: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bloom": {},
    "codegen": {"rotary_dim": 4, "num_attention_heads": 4},
    "cohere": {},
    "cohere2": WINDOW,
    "deepseek_v3": {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 8,
        "num_key_value_heads": 2,
        "n_shared_experts": 1,
    },
    "ernie4_5": {},
    "exaone4": WINDOW,
    "falcon": {"head_dim": None},
    "gemma": {},
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "glm": {},
    "glm4": {},
    "gpt2": {},
    "gpt_bigcode": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4},
    "gpt_neox": {},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW},
    "gptj": {"rotary_dim": 4},
    "granite": {},
    "helium": {},
    "lfm2": {},
    "llama": {},
    "ministral": WINDOW,
    "mistral": WINDOW,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": WINDOW,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 16, "word_embed_proj_dim": 16, "dropout": 0.0},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 8},
    "qwen3": {},
    "qwen3 with sliding windows": {"use_sliding_window": True, "max_window_layers": 2, **WINDOW},
    "qwen3_moe": EXPERTS,
    "qwen3_next": {
        **EXPERTS,
        "shared_expert_intermediate_size": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}
"""Architecture -> what its tiny configuration needs beside `BASE`."""
FIRST, LAST, LOOPS = 1, 3, 3
ORDER = [0, 1, 2, 1, 2, 1, 2, 3]
"""Layers of the plain model that computes the same as three loops."""
PROMPT = torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(1))
YES, NO = "yes", "no"
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def quiet() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def made(name: str, **more: Any) -> Any:
    """A model with fixed random weights, large enough that every layer matters."""
    transformers = quiet()
    torch.manual_seed(0)
    options = {key: value for key, value in {**BASE, **MODELS.get(name, {}), **more}.items() if value is not None}
    config = transformers.AutoConfig.for_model(name.split()[0], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(4.0)
    return model.eval()


def repeated(name: str, model: Any) -> Any:
    """The plain model whose layers are those of ``model`` in the order `ORDER`."""
    from thalweg.integrations.find_layers import layers_of

    more: dict[str, Any] = {"num_hidden_layers": len(ORDER)}
    for key in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        kinds = getattr(model.config, key, None)
        if kinds is not None:
            more[key] = [kinds[index] for index in ORDER]
    if name == "gpt_neo":
        more |= {"num_layers": len(ORDER), "attention_types": [[["global", "local"], len(ORDER) // 2]]}
    longer = made(name, **more)
    layers = layers_of(model)[1]
    prefix = next(key for key, module in model.named_modules() if module is layers) + "."
    weights = model.state_dict()

    def source(key: str) -> str:
        if not key.startswith(prefix):
            return key
        index, _, rest = key.removeprefix(prefix).partition(".")
        return f"{prefix}{ORDER[int(index)]}.{rest}"

    longer.load_state_dict({key: weights[source(key)] for key in longer.state_dict()})
    return longer


@torch.no_grad()
def logits(model: Any, **more: Any) -> Tensor:
    return model(PROMPT, **more).logits


def generated(model: Any, **more: Any) -> Tensor:
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "use_cache": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(PROMPT, **options | more)


def gradients(model: Any, checkpointing: bool) -> dict[str, Tensor]:
    """Gradients in training mode without dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(PROMPT, labels=PROMPT, use_cache=False).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_disable()
    model.eval()
    return found


def same_gradients(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


def reloads(model: Any, plain: Tensor) -> bool:
    """Whether plain transformers loads what the looped model saves, with every key."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded, report = quiet().AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    keys_fit = not report["missing_keys"] and not report["unexpected_keys"]
    return keys_fit and torch.equal(logits(loaded.eval()), plain)


def checks(name: str) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The columns of the table, each with the function that decides it."""
    from thalweg.integrations.huggingface import loop

    model = made(name)
    plain, keys = logits(model), list(model.state_dict())
    looped = loop(model, FIRST, LAST)
    yield "one loop", lambda: torch.equal(logits(model), plain)
    looped.set(LOOPS, (1, 0, 0))
    yield "gain 0", lambda: torch.equal(logits(model), plain) and torch.equal(logits(model, use_cache=False), plain)
    looped.set(LOOPS)
    three = logits(model, use_cache=False)
    yield (
        "three loops",
        lambda: not torch.equal(three, plain) and torch.equal(three, logits(repeated(name, model), use_cache=False)),
    )
    without = generated(model, use_cache=False)
    yield "cache", lambda: torch.equal(generated(model), without)
    mask = torch.ones_like(PROMPT)
    mask[0, :3] = 0
    yield (
        "padding",
        lambda: torch.equal(generated(model, attention_mask=mask), generated(model, attention_mask=mask, use_cache=False)),
    )
    beams = {"num_beams": 2}
    yield "beams", lambda: torch.equal(generated(model, **beams), generated(model, **beams, use_cache=False))
    static = {"cache_implementation": "static"}
    yield "static cache", lambda: torch.equal(generated(model, **static), without)
    yield "same keys", lambda: keys == list(model.state_dict())
    yield "reload", lambda: reloads(model, plain)
    yield "checkpointing", lambda: same_gradients(gradients(model, False), gradients(model, True))
    yield "remove", lambda: removed(looped, model, plain)


def removed(looped: Any, model: Any, plain: Tensor) -> bool:
    looped.remove()
    return torch.equal(logits(model), plain) and not any("_thalweg" in layer.__dict__ for layer in looped.layers)


def row(name: str) -> dict[str, str]:
    """Column -> "yes", "no" or "refused"."""
    found: dict[str, str] = {}
    for column, check in checks(name):
        try:
            found[column] = YES if check() else NO
        except BadInputError:
            found[column] = "refused"
        except NotImplementedError:  # from_pretrained of plain transformers 5.0 for apertus
            found[column] = NO
    return found


def sections() -> dict[str, tuple[int, int]]:
    """Version of transformers -> where its table lies in the page."""
    text = PAGE.read_text()
    return {
        found[1]: (found.end(), text.index(f"<!-- end {found[1]} -->"))
        for found in re.finditer(r"<!-- table transformers (\S+) -->\n", text)
    }


def documented() -> dict[str, dict[str, str]]:
    """Architecture -> column -> cell, of the installed version of transformers; of the newest documented one for any other."""
    versions = sections()
    installed = quiet().__version__
    begin, end = versions.get(installed, next(iter(versions.values())))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text()[begin:end].strip().splitlines()]
    return {cells[0]: dict(zip(lines[0][1:], cells[1:], strict=True)) for cells in lines[2:]}


def table(rows: dict[str, dict[str, str]]) -> str:
    columns = ["architecture", *next(iter(rows.values()))]
    lines = [[name, *cells.values()] for name, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in [columns, ["---"] * len(columns), *lines])


def main() -> None:
    """Write the table of the installed version into the page."""
    version, rows = quiet().__version__, {}
    for name in MODELS:
        rows[name] = row(name)
        print(name, {column: cell for column, cell in rows[name].items() if cell != YES} or "all yes", flush=True)
    begin, end = sections()[version]
    text = PAGE.read_text()
    PAGE.write_text(text[:begin] + table(rows) + text[end:])


if __name__ == "__main__":
    main()
