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


def product_seconds(operator: Operator) -> tuple[float, bool]:
    """Time of one Hessian-vector product in seconds, and whether one CPU thread is to be taken for it, see `fastest`."""
    count = 1 if operator.device.type == "cpu" else min(TOGETHER, operator.dim)
    vectors = rademacher(operator, 0, 0).unsqueeze(1).repeat(1, count)
    # A product is shared out between ranks, so all of them make as many.
    seconds, alone = fastest(lambda: operator @ vectors, times=4, try_alone=ranks.same(has_threads(operator.device)))
    return seconds / count, alone


def has_threads(device: torch.device) -> bool:
    """Whether operations of a device may be divided between threads."""
    return device.type == "cpu" and torch.get_num_threads() > 1


def fastest(call: Callable[[], Tensor], times: int, try_alone: bool) -> tuple[float, bool]:
    """Time of the fastest of some calls in seconds, and whether that is with one thread, which must be twice as fast as several.

    On cores that other work uses too, threads wait for each other (measured: 30 ms for a product that takes one thread 1 ms).

    Args:
        call: what is timed.
        times: number of calls, and as many again with one thread.
        try_alone: whether one thread is tried as well.
    """

    def timed() -> float:
        started = time.perf_counter()
        float(call().sum())  # `float` waits for the device
        return time.perf_counter() - started

    together = min(timed() for _ in range(times))
    if not try_alone:
        return together, False
    with threads(1):
        alone = min(timed() for _ in range(times))
    return (alone, True) if alone < together / 2 else (together, False)


def eigen_seconds(dim: int, device: torch.device, noise: bool) -> tuple[float, bool]:
    """Expected time of all eigenvalues in seconds, proportional to ``P^3``, and whether one CPU thread is to be taken for them.

    With ``noise`` the time includes that of the noise floor.
    """
    rate, alone = _eigen_rate(device)
    return rate * dim**3 * (_NOISE_EIGEN if noise else 1), alone


@functools.cache
def _eigen_rate(device: torch.device) -> tuple[float, bool]:
    """Seconds divided by P^3, from one small problem, and the threads; larger ones were measured to be up to a third cheaper."""
    drawn = torch.from_numpy(stream(0, "probes").standard_normal((SMALL, SMALL))).to(device)
    matrix = drawn + drawn.T
    seconds, alone = fastest(lambda: torch.linalg.eigvalsh(matrix), times=2, try_alone=has_threads(device))
    return seconds / SMALL**3, alone
