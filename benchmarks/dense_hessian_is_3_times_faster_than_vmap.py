"""A compiled dense Hessian of 3,216 parameters is computed 3 times faster than by ``vmap(vjp(grad))``.

Model: one layer of attention with LayerNorms (vocabulary 14, length 32, width 24); data: 256 sequences of 33 tokens, float32; the
loss is a sum and a count. Two threads by default. The candidates take turns:

* ``vmap(vjp(grad))`` with chunks of 16 directions over the whole batch: 6 chunks in each round, scaled to all columns; the first
  pass is counted once.
* The same in pieces of 32 sequences with chunks of 32: one piece and 6 chunks in each round, scaled to all columns and pieces.
* hessian-eigenthings, one product with a unit vector for each column: 6 columns in each round, scaled.
* thalweg replayed and thalweg compiled: the whole matrix, including its comparison with an independent product. The additional time
  of the first compiled call is printed separately: it is spent once for all weights and data of these shapes.

Errors are relative (Frobenius norm) over 8 random columns, against differences of the float64 gradient. The floor is the time of
1.05 TFLOP of matrix products at the machine's speed on a 1500 x 1500 product; symmetry could halve it.
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
SAMPLED = 6
"""Number of chunks or columns in each round, for the candidates whose time is scaled."""
Columns = Callable[[Tensor], Tensor]
"""Function from unit vectors ``(k, P)`` to columns of the Hessian ``(k, P)``."""


def by_vmap(model: nn.Module, tokens: Tensor) -> Columns:
    """Build ``vmap(vjp(grad))`` and run its first pass."""
    places = layout(dict(model.named_parameters()))
    point = places.join(weight.detach() for weight in model.parameters())

    def loss(flat: Tensor) -> Tensor:
        return rivals.mean_loss(lambda inputs: functional_call(model, places.split(flat), (inputs,)), tokens)

    with rivals.attention_by_products():
        pull = vjp(grad(loss), point)[1]
    return lambda units: vmap(pull)(units)[0]


def chunked(model: nn.Module, tokens: Tensor, chunk: int, pieces: int) -> Callable[[], float]:
    """Measure the seconds of the whole matrix by `by_vmap`, scaled from some chunks of one piece."""

    def run() -> float:
        dim = sum(weight.numel() for weight in model.parameters())
        started = time.perf_counter()
        columns = by_vmap(model, tokens[: len(tokens) // pieces])
        built = time.perf_counter()
        for first in range(0, SAMPLED * chunk, chunk):
            columns(torch.eye(chunk, dim).roll(first, dims=1))
        chunk_seconds = time.perf_counter() - built
        return pieces * (built - started + chunk_seconds * dim / (SAMPLED * chunk))

    return run


def one_by_one(model: nn.Module, tokens: Tensor) -> Callable[[], float]:
    """Measure the seconds of the whole matrix by hessian-eigenthings, scaled from some columns."""

    def run() -> float:
        dim = sum(weight.numel() for weight in model.parameters())
        with rivals.attention_by_products():
            operator = rivals.eigenthings(model, tokens)
            started = time.perf_counter()
            for unit in torch.eye(SAMPLED, dim):
                operator @ unit
        return (time.perf_counter() - started) * dim / SAMPLED

    return run


def main() -> None:
    parser = timing.arguments(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="64 sequences")
    parser.add_argument("--threads", type=int, default=2, help="threads of every candidate")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    model = LoopedTransformer(CONFIG)
    tokens = torch.randint(CONFIG.vocabulary, (64 if options.quick else SEQUENCES, CONFIG.length + 1))
    matrices: dict[str, DenseHessian] = {}

    def ours(name: str, compile: str) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            matrices[name] = dense_hessian(rivals.total_and_count, model, [tokens], compile=compile)
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

    # Errors over 8 random columns against an independent float64 product.
    exact = Hessian(rivals.total_and_count, model, [tokens], dtype=torch.float64, method="differences", check=False)
    chosen = torch.randperm(exact.dim)[:8]
    units = torch.eye(exact.dim)[chosen]
    truth = (exact @ units.T.double()).T
    errors = {name: rivals.relative_error(dense.matrix[chosen], truth) for name, dense in matrices.items()}
    errors[names[0]] = rivals.relative_error(by_vmap(model, tokens)(units), truth)
    split = sum(by_vmap(model, piece)(units) for piece in tokens.split(32)) / pieces
    errors[names[1]] = rivals.relative_error(split, truth)
    if len(names) > 4:
        with rivals.attention_by_products():
            operator = rivals.eigenthings(model, tokens)
            errors[names[4]] = rivals.relative_error(torch.stack([operator @ unit for unit in units]), truth)

    # The floor: the necessary operations at the speed of a large matrix product.
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
    for name, dense in matrices.items():
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
