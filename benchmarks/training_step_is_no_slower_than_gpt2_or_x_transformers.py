"""One training step is no slower than Hugging Face GPT-2's or x-transformers' at the same shape.

A step is zero_grad, forward, next-token loss, backward, clip at norm 1, fused AdamW, and the loss as a Python number.
Ours is `thalweg.train.step.train_step`, which also reads the gradient's norm and checks both; the rivals get a plain loop.
All are in float32 on the CPU with PyTorch's own number of threads, dropout 0, untied heads, the same random tokens.

GPT shape: 4 blocks, 4 heads, width 128, 12 x 64 tokens, 256 of them distinct, learned positions, weight decay 0.1.
  GPT-2 comes twice: as shipped, with a GELU of many small kernels, and with `gelu_pytorch_tanh`, the same function in one
  kernel. x-transformers has no biases in attention and norms, and the erf form of GELU: a little less work than ours.
Attention shape: one layer of attention with one head, width 64, 128 x 11 tokens, 16 of them distinct, no weight decay.
  x-transformers builds the very same model (`custom_layers=("a",)`; with one head it has no output projection either).
  GPT-2 has no block without an MLP; with an MLP of width 1 it would still do more than we do, so it is left out.

The ratio is the median over rounds of ours / rival within a round, for the rival with the smallest median.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable

import timing  # before torch
import torch
import transformers
import x_transformers
from torch import Tensor, nn
from torch.nn import functional

from thalweg.models.config import ModelConfig
from thalweg.models.cost import cost, parameters
from thalweg.models.looped import LoopedTransformer
from thalweg.train.config import OptimizerConfig
from thalweg.train.step import make_optimizer, train_step

RATE, CLIP = 1e-3, 1.0
GPT = ModelConfig(vocabulary=256, length=64, width=128, layers=4, heads=4, block="gpt")
ATTENTION = ModelConfig(vocabulary=16, length=11, width=64, layers=1, heads=1, block="attention", norm="pre")
SHAPES = {"GPT 12 x 64": (GPT, 12, 0.1), "attention 128 x 11": (ATTENTION, 128, 0.0)}

# Prefixes of the names of profiler events; an event counts for the first kind that matches.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product",),
    "GELU": ("aten::gelu",),
    "norms": ("aten::native_layer_norm",),
    "optimizer and clip": ("aten::_fused_adamw", "Optimizer.", "aten::_foreach", "aten::linalg_vector_norm"),
    "softmax and loss": ("aten::_log_softmax", "aten::nll_loss"),
    "copies, joins, zeros": ("aten::copy_", "aten::cat", "aten::fill_"),
    "sums, products, look-up": ("aten::add", "aten::sum", "aten::mul", "aten::index_select", "aten::embedding_dense"),
}


class GPT2(nn.Module):
    """Hugging Face GPT-2 as a module ``tokens -> logits``."""

    def __init__(self, config: ModelConfig, activation: str) -> None:
        super().__init__()
        settings = transformers.GPT2Config(
            vocab_size=config.vocabulary,
            n_positions=config.length,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            activation_function=activation,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
            use_cache=False,
        )
        self.model = transformers.GPT2LMHeadModel(settings)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, L, V)`` of ``(B, L)``."""
        return self.model(input_ids=tokens, use_cache=False).logits


def x_transformer(config: ModelConfig) -> nn.Module:
    depth = {"depth": config.layers} if config.block == "gpt" else {"custom_layers": ("a",) * config.layers}
    layers = x_transformers.Decoder(
        dim=config.width, heads=config.heads, attn_dim_head=config.width // config.heads, attn_flash=True, **depth
    )
    return x_transformers.TransformerWrapper(num_tokens=config.vocabulary, max_seq_len=config.length, attn_layers=layers)


def our_step(model: nn.Module, tokens: Tensor, decay: float) -> Callable[[], object]:
    optimizer = make_optimizer(OptimizerConfig(rate=RATE, weight_decay=decay), model)
    return lambda: train_step(model, optimizer, tokens, loops=1, gains=None, rate=RATE, clip=CLIP)


def plain_step(model: nn.Module, tokens: Tensor, decay: float) -> Callable[[], object]:
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=decay, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        return loss.item()

    return step


def compare(config: ModelConfig, batch: int, decay: float, rounds: int) -> tuple[timing.Times, float, str]:
    """Time one shape; return the times, the ratio of thalweg to the fastest rival, and its name."""
    tokens = torch.randint(config.vocabulary, (batch, config.length + 1))
    models: dict[str, nn.Module] = {"thalweg": LoopedTransformer(config), "x-transformers": x_transformer(config)}
    if config.block == "gpt":
        models["GPT-2"] = GPT2(config, "gelu_new")
        models["GPT-2, fused GELU"] = GPT2(config, "gelu_pytorch_tanh")
    steps = {name: (our_step if name == "thalweg" else plain_step)(model.train(), tokens, decay) for name, model in models.items()}
    times = timing.interleaved(steps, rounds)
    timing.print_table(
        ["model", "parameters", "ms a step [lowest, highest]", "thalweg / it"],
        [
            [name, str(parameters(models[name])), timing.spread(times[name]), f"{timing.ratio(times, 'thalweg', name):.3f}"]
            for name in models
        ],
    )
    rival = timing.fastest(times, [name for name in models if name != "thalweg"])
    return times, timing.ratio(times, "thalweg", rival), rival


def profile(config: ModelConfig, batch: int, decay: float, step_seconds: float) -> None:
    """Print the shares of our step's time by kind of operation, and its speed relative to a large matrix product."""
    tokens = torch.randint(config.vocabulary, (batch, config.length + 1))
    step = our_step(LoopedTransformer(config), tokens, decay)
    for _ in range(5):
        step()
    count = 20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            step()
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other, dispatch")
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    shares = ", ".join(f"{kind} {value / total:.0%}" for kind, value in sorted(spent.items(), key=lambda pair: -pair[1]))
    flops = cost(config, batch, config.length).training_step
    peak = gemm_peak()
    print(f"  our time: {shares}")
    print(
        f"  {flops / 1e9:.3f} GFLOP a step at {flops / step_seconds / 1e9:.1f} GFLOP/s, "
        f"{flops / step_seconds / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s of a 1536 x 1536 product"
    )


def gemm_peak(size: int = 1536) -> float:
    """Return the operations per second of the fastest of ten large float32 products."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(timing.seconds(lambda: torch.mm(left, right)) for _ in range(10))


def main() -> None:
    parser = timing.arguments(__doc__, rounds=40)
    parser.add_argument("--profile", action="store_true", help="also print the shares of our time by kind of operation")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    claims = []
    for name, (config, batch, decay) in SHAPES.items():
        print(f"\n{name}, width {config.width}, {config.layers} layer(s), {config.heads} head(s)")
        times, ratio, rival = compare(config, batch, decay, options.rounds)
        if options.profile:
            profile(config, batch, decay, statistics.median(times["thalweg"]))
        claims.append(f"{ratio:.2f} ({name}, {rival})")
    print(f"\nratio ours/fastest rival: {', '.join(claims)} (claim: at most 1.0, goal 0.9)")


if __name__ == "__main__":
    main()
