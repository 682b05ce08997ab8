"""A Hessian-vector product of a GPT costs as much as 2.5 gradients.

Model: 4 blocks, 4 heads, width 128, tied head, 1,071,872 parameters, 16 x 128 tokens of 2,048, float32, next-token cross-entropy.
The unit is one gradient by plain autograd with PyTorch's default attention kernel. The candidates take turns on one vector: thalweg
recorded (the replay; the recording is timed separately), thalweg rebuilt (double backward in every call), double backward with the
gradient's graph kept, hessian-eigenthings, and curvlinops. Errors are relative to thalweg rebuilt in float64, whose own check
compares it with central differences of the gradient.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import rivals
import timing  # before torch
import torch
from torch import Tensor, nn

from thalweg.curvature.hessian import Hessian
from thalweg.models.cost import parameters
from thalweg.models.looped import LoopedTransformer


def graph_kept(model: nn.Module, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """Double backward through one gradient whose graph is kept."""
    weights = list(model.parameters())
    with rivals.attention_by_products():
        first = torch.autograd.grad(rivals.mean_loss(model, tokens), weights, create_graph=True)
    flat = torch.cat([part.reshape(-1) for part in first])

    def product(vector: Tensor) -> Tensor:
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(flat, weights, vector, retain_graph=True)])

    return product


def candidates(model: nn.Module, tokens: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Build every available product; return them by name."""
    recorded: list[Hessian] = []
    recording = timing.seconds(lambda: recorded.append(Hessian(rivals.total_and_count, model, [tokens], check=False)))
    print(f"{recorded[0].explain()}; recorded in {recording:.2f} s")
    rebuilt = Hessian(rivals.total_and_count, model, [tokens], method="rebuilt", check=False)
    products = {"thalweg, recorded": recorded[0].__matmul__, "thalweg, rebuilt": rebuilt.__matmul__}
    products["double backward, graph kept"] = graph_kept(model, tokens)
    if rivals.installed("hessian_eigenthings"):
        products["hessian-eigenthings"] = rivals.inside(rivals.eigenthings(model, tokens))
    if rivals.installed("curvlinops"):
        with rivals.attention_by_products():
            products["curvlinops"] = rivals.inside(rivals.curvlinops(model, tokens))
    return products


def main() -> None:
    parser = timing.arguments(__doc__, rounds=10)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the script")
    options = parser.parse_args()
    torch.manual_seed(0)
    config, batch = (rivals.SMALL, 4) if options.quick else (rivals.GPT, 16)
    model = LoopedTransformer(config)
    tokens = torch.randint(config.vocabulary, (batch, config.length + 1))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {parameters(model):,} parameters, {batch} x {config.length}"
    )
    products = candidates(model, tokens)
    vector = torch.randn(parameters(model))
    truth = rivals.exact(model, tokens) @ vector.double()
    errors = {name: rivals.relative_error(product(vector).detach(), truth) for name, product in products.items()}
    weights = list(model.parameters())
    calls: dict[str, Callable[[], object]] = {"gradient": lambda: torch.autograd.grad(rivals.mean_loss(model, tokens), weights)}
    calls |= {name: lambda product=product: product(vector) for name, product in products.items()}
    times = timing.interleaved(calls, options.rounds, calls=3, warmup=1)
    rows = [
        [
            name,
            timing.spread(times[name]),
            f"{timing.ratio(times, name, 'gradient'):.2f}",
            f"{errors[name]:.0e}" if name in errors else "",
        ]
        for name in calls
    ]
    timing.print_table(["product", "ms [lowest, highest]", "gradients", "relative error"], rows)
    others = [name for name in products if not name.startswith("thalweg") and errors[name] < 1e-4]
    rival = timing.fastest(times, others)
    print(
        f"\nthalweg, recorded: {timing.ratio(times, 'thalweg, recorded', 'gradient'):.2f} gradients (claim: 2.5); "
        f"{timing.ratio(times, rival, 'thalweg, recorded'):.2f} times as fast as {rival}, the fastest right one that is not ours "
        f"({statistics.median(times[rival]):.3f} s)"
    )


if __name__ == "__main__":
    main()
