"""A dense Hessian of 3,216 parameters is there 3 times sooner, compiled, than by ``vmap(vjp(grad))``.

One layer of attention with LayerNorms (vocabulary 14, length 32, width 24), 256 sequences of 33 tokens, float32, loss as a sum and
a count.
Two threads by default. The candidates take turns:

vmap(vjp(grad)), chunks of 16 directions over the whole batch: 6 chunks a round, scaled to all columns; first pass once.
The same in pieces of 32 sequences with chunks of 32: one piece and 6 chunks a round, scaled to all columns and all pieces.
hessian-eigenthings, one product with a unit vector a column: 6 columns a round, scaled.
Ours replayed and ours compiled: the whole matrix, with its comparison against an independent product. What the first compiled call
took beyond the later ones is shown apart: it is paid once for all weights and data of these shapes.

Errors are relative (Frobenius) over 8 columns drawn at random, against differences of the float64 gradient.
The floor is 1.05 TFLOP of matrix products at the machine's speed on a 1500 x 1500 product; symmetry could halve it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import rivals
import timing  # before torch
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from thalweg.curvature.dense import DenseHessian, dense_hessian
from thalweg.curvature.hessian import Hessian
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.vectors import layout

CONFIG = ModelConfig(vocabulary=14, length=32, width=24)
SEQUENCES, FLOOR = 256, 1.05e12
TAKEN = 6
"""Chunks or columns a round of the candidates that are scaled."""
Columns = Callable[[Tensor], Tensor]
"""Unit vectors ``(k, P)`` to columns ``(k, P)``."""


def by_vmap(model: nn.Module, tokens: Tensor) -> Columns:
    """``vmap(vjp(grad))``, its first pass done."""
    places = layout(dict(model.named_parameters()))
    point = places.join(weight.detach() for weight in model.parameters())

    def loss(flat: Tensor) -> Tensor:
        return rivals.mean_loss(lambda inputs: functional_call(model, places.split(flat), (inputs,)), tokens)

    with rivals.attention_by_products():
        pull = vjp(grad(loss), point)[1]
    return lambda units: vmap(pull)(units)[0]


def chunked(model: nn.Module, tokens: Tensor, chunk: int, pieces: int) -> Callable[[], float]:
    """Seconds of the whole matrix by `by_vmap`, from some chunks of one of the pieces."""

    def run() -> float:
        dim = sum(weight.numel() for weight in model.parameters())
        started = time.perf_counter()
        columns = by_vmap(model, tokens[: len(tokens) // pieces])
        built = time.perf_counter()
        for first in range(0, TAKEN * chunk, chunk):
            columns(torch.eye(chunk, dim).roll(first, dims=1))
        taken = time.perf_counter() - built
        return pieces * (built - started + taken * dim / (TAKEN * chunk))

    return run


def one_by_one(model: nn.Module, tokens: Tensor) -> Callable[[], float]:
    """Seconds of the whole matrix by hessian-eigenthings, from some columns."""

    def run() -> float:
        dim = sum(weight.numel() for weight in model.parameters())
        with rivals.attention_by_products():
            operator = rivals.eigenthings(model, tokens)
            started = time.perf_counter()
            for unit in torch.eye(TAKEN, dim):
                operator @ unit
        return (time.perf_counter() - started) * dim / TAKEN

    return run


def main() -> None:
    parser = timing.arguments(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="64 sequences")
    parser.add_argument("--threads", type=int, default=2, help="of every candidate")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = LoopedTransformer(CONFIG)
    tokens = torch.randint(CONFIG.vocabulary, (64 if options.quick else SEQUENCES, CONFIG.length + 1))
    found: dict[str, DenseHessian] = {}

    def ours(name: str, compile: str) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            found[name] = dense_hessian(rivals.total_and_count, model, [tokens], compile=compile)
            return time.perf_counter() - started

        return run

    pieces = len(tokens) // 32
    calls = {
        "vmap(vjp(grad)), chunks of 16": chunked(model, tokens, 16, 1),
        f"vmap(vjp(grad)), {pieces} pieces, chunks of 32": chunked(model, tokens, 32, pieces),
        "thalweg, replayed": ours("thalweg, replayed", "never"),
        "thalweg, compiled": ours("thalweg, compiled", "always"),
    }
    if rivals.installed("hessian_eigenthings"):
        calls["hessian-eigenthings, column by column"] = one_by_one(model, tokens)
    first = calls["thalweg, compiled"]()
    times: timing.Times = {name: [] for name in calls}
    names = list(calls)
    for number in range(options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(calls[name]())

    exact = Hessian(rivals.total_and_count, model, [tokens], dtype=torch.float64, method="differences", check=False)
    chosen = torch.randperm(exact.dim)[:8]
    units = torch.eye(exact.dim)[chosen]
    truth = (exact @ units.T.double()).T
    errors = {name: rivals.apart(dense.matrix[chosen], truth) for name, dense in found.items()}
    errors[names[0]] = rivals.apart(by_vmap(model, tokens)(units), truth)
    split = sum(by_vmap(model, piece)(units) for piece in tokens.split(32)) / pieces
    errors[names[1]] = rivals.apart(split, truth)
    if len(names) > 4:
        with rivals.attention_by_products():
            operator = rivals.eigenthings(model, tokens)
            errors[names[4]] = rivals.apart(torch.stack([operator @ unit for unit in units]), truth)

    peak = rivals.gemm_peak()
    floor = FLOOR * len(tokens) / SEQUENCES / peak
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {exact.dim:,} parameters, {len(tokens)} x {CONFIG.length}"
    )
    rows = [
        [
            name,
            timing.spread(times[name], unit=1),
            f"{timing.ratio(times, name, 'thalweg, compiled'):.2f}",
            f"{statistics.median(times[name]) / floor:.1f}",
            f"{errors[name]:.1e}",
        ]
        for name in calls
    ]
    timing.print_table(["dense Hessian", "s [lowest, highest]", "it / compiled", "it / floor", "relative error"], rows)
    for name, dense in found.items():
        print(f"{name}: {dense.how}; symmetry {dense.symmetry_residual:.0e}, against a product {dense.product_residual:.0e}")
    print(f"first compiled call: {first - statistics.median(times['thalweg, compiled']):.1f} s more than the later ones")
    print(f"floor {floor:.1f} s at {peak / 1e9:.0f} GFLOP/s; {floor / 2:.1f} s with symmetry")
    rival = timing.fastest(times, [name for name in names if not name.startswith("thalweg")])
    print(
        f"\nvmap(vjp(grad)) in chunks of 16 over ours: replayed {timing.ratio(times, names[0], 'thalweg, replayed'):.2f}, "
        f"compiled {timing.ratio(times, names[0], 'thalweg, compiled'):.2f} (claim: 3); "
        f"fastest rival ({rival}) over compiled {timing.ratio(times, rival, 'thalweg, compiled'):.2f}"
    )


if __name__ == "__main__":
    main()
