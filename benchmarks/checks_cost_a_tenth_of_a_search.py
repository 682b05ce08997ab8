"""The checks of a Hessian cost at most a tenth of a search for ten eigenpairs, and a twentieth of a dense matrix.

Search: the ten largest eigenvalues of a GPT of 1,071,872 parameters (4 blocks, 4 heads, width 128) on 4 x 128 tokens, float32.
Operators are built with and without the checks in turn; the difference is the cost of the checks.
Dense matrix: one block of width 16 on 256 sequences of 32 tokens, float32. During its computation the time of every check is added
up: determinism, pieces against the whole, and the matrix against differences of the gradient.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import rivals
import timing  # before torch
import torch

from thalweg.curvature import dense
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.models.config import ModelConfig
from thalweg.models.cost import parameters
from thalweg.models.looped import LoopedTransformer

ATTENTION = ModelConfig(vocabulary=64, length=32, width=16, layers=1, heads=2)
CHECKS = ("repeated", "microbatches", "differing")
"""Functions of `curvature.dense` that only check."""


def search(config: ModelConfig, rounds: int) -> float:
    """Return the cost of the checks over the cost of the search, from medians."""
    model = LoopedTransformer(config)
    tokens = torch.randint(config.vocabulary, (4, config.length + 1))
    make = lambda check: Hessian(rivals.total_and_count, model, [tokens], check=check)  # noqa: E731
    times = timing.interleaved({"checked": lambda: make(True), "unchecked": lambda: make(False)}, rounds, calls=1, warmup=1)
    operator = make(False)
    searching = {"search": lambda: eigenpairs(operator, 10, strict=False)}
    search_times = timing.interleaved(searching, max(1, rounds // 2), calls=1, warmup=0)
    check = statistics.median(a - b for a, b in zip(times["checked"], times["unchecked"], strict=True))
    whole = statistics.median(search_times["search"])
    print(f"{parameters(model):,} parameters: checks {check:.3f} s, search {whole:.2f} s: {100 * check / whole:.1f} % (claim: 10)")
    return check / whole


def matrix(config: ModelConfig, batch: int, rounds: int) -> float:
    """Return the share of the checks in the time of a dense Hessian, median over rounds."""
    model = LoopedTransformer(config)
    tokens = torch.randint(config.vocabulary, (batch, config.length + 1))
    shares = []
    for _ in range(rounds):
        spent: list[float] = []
        with TimedChecks(spent):
            whole = timing.seconds(lambda: dense.dense_hessian(rivals.total_and_count, model, [tokens], compile="never"))
        shares.append(sum(spent) / whole)
        print(f"  dense: checks {sum(spent):.2f} s of {whole:.1f} s")
    share = statistics.median(shares)
    print(f"{parameters(model):,} parameters, dense: {100 * share:.1f} % of the matrix (claim: 5)")
    return share


class TimedChecks:
    """Context in which the seconds of every check are appended to a list."""

    def __init__(self, spent: list[float]) -> None:
        self.spent, self.before = spent, {name: getattr(dense, name) for name in CHECKS}

    def __enter__(self) -> None:
        for name, function in self.before.items():
            setattr(dense, name, self.watched(function))

    def __exit__(self, *_: object) -> None:
        for name, function in self.before.items():
            setattr(dense, name, function)

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time is recorded."""

        def inside(*arguments: Any) -> Any:
            results: list[Any] = []
            self.spent.append(timing.seconds(lambda: results.append(function(*arguments))))
            return results[0]

        return inside


def main() -> None:
    parser = timing.arguments(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="tiny models, to try the script")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    search(rivals.SMALL if options.quick else rivals.GPT, options.rounds)
    matrix(*((rivals.SMALL, 8, 1) if options.quick else (ATTENTION, 256, min(3, options.rounds))))


if __name__ == "__main__":
    main()
