"""The cost of a spectrum, exact or matrix-free: products, seconds and bytes.

Shape letters: P number of parameters.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from thalweg import ranks
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import rademacher
from thalweg.streams import stream
from thalweg.threads import threads

Progress = Callable[[int, int], None]
"""Called with the columns or products so far, and the number expected."""
COLUMN = 0.7
"""Time of a dense Hessian over that of P single products (measured on one core: 0.40 to 0.87 at P = 336 to 4,016)."""
TOGETHER = 64
"""Number of products in the timed call where the device is not a CPU."""
SMALL = 800
"""Size of the problem on which the eigenvalue solver is timed, once for each process and device."""
_MATRIX_BYTES = 32
"""Bytes for each entry at the peak: this point's matrix and the last one's, and three in float64 while one is symmetrised."""
_NOISE_BYTES, _NOISE_EIGEN = (256, 40), 60
"""Cost of the noise floor: bytes for each entry, and for each entry and batch; and number of eigenvalue problems of size P."""


class Counted(Operator):
    """An operator that counts its products and reports them as progress."""

    def __init__(self, inner: Hessian, spent: int, expected: int, progress: Progress | None) -> None:
        self.inner, self.dim, self.dtype, self.device = inner, inner.dim, inner.dtype, inner.device
        self.products, self.expected, self.progress = spent, expected, progress

    def rows(self, vectors: Tensor) -> Tensor:
        self.products += len(vectors)
        if self.progress is not None:
            self.progress(self.products, max(self.products, self.expected))
        return self.inner.rows(vectors)


def matrix_bytes(dim: int, batches: int) -> int:
    """Memory of an exact point in bytes; ``batches`` is 0 where the noise of the batches is not measured."""
    return (_MATRIX_BYTES + (_NOISE_BYTES[0] + _NOISE_BYTES[1] * batches if batches else 0)) * dim**2


def product_seconds(operator: Operator) -> tuple[float, int]:
    """Time of one Hessian-vector product in seconds, and the number of CPU threads that it takes, see `fastest`."""
    count = 1 if operator.device.type == "cpu" else min(TOGETHER, operator.dim)
    vectors = rademacher(operator, 0, 0).unsqueeze(1).repeat(1, count)
    # A product is shared out between ranks, so all of them make as many.
    alone = ranks.same(_has_threads(operator.device))
    seconds, number = fastest(lambda: operator @ vectors, times=4, alone=alone)
    return seconds / count, number


def _has_threads(device: torch.device) -> bool:
    """Whether operations of a device may be divided between threads."""
    return device.type == "cpu" and torch.get_num_threads() > 1


def fastest(call: Callable[[], Tensor], times: int, alone: bool) -> tuple[float, int]:
    """Time of the fastest of some calls in seconds, and PyTorch's number of threads, or 1 where one thread is twice as fast.

    On cores that other work uses too, threads wait for each other (measured: 30 ms for a product that takes one thread 1 ms).

    Args:
        call: what is timed.
        times: number of calls, and as many again with one thread.
        alone: whether one thread is tried as well.
    """

    def timed() -> float:
        started = time.perf_counter()
        float(call().sum())  # `float` waits for the device
        return time.perf_counter() - started

    number, together = torch.get_num_threads(), min(timed() for _ in range(times))
    if not alone:
        return together, number
    with threads(1):
        single = min(timed() for _ in range(times))
    return (single, 1) if single < together / 2 else (together, number)


def eigen_seconds(dim: int, device: torch.device, noise: bool) -> float:
    """Expected time of all eigenvalues in seconds, proportional to ``P^3``; with ``noise``, including those for the noise floor."""
    return _eigen_rate(device) * dim**3 * (_NOISE_EIGEN if noise else 1)


@functools.cache
def _eigen_rate(device: torch.device) -> float:
    """Seconds divided by P^3, from one small problem; larger problems were measured to be up to a third cheaper."""
    drawn = torch.from_numpy(stream(0, "probes").standard_normal((SMALL, SMALL))).to(device)
    matrix = drawn + drawn.T
    return fastest(lambda: torch.linalg.eigvalsh(matrix), times=2, alone=_has_threads(device))[0] / SMALL**3
