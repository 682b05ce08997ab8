"""Replays of a recorded product as one CUDA graph, so that a small model does not wait for Python to launch its kernels.

A recorded product of a small looped model is a thousand kernels of some microseconds each, launched one by one from Python in 50
microseconds each. A graph launches all of them at once. Large models gain nothing, and would keep the memory of a replay twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LARGEST = 64 << 20
"""Bytes of the largest value of a replay up to which launching takes longer than computing."""
_SAME = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Largest relative distance of a product by a graph from the same product without."""


def as_graph(product: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """The same product as a CUDA graph; the product itself where it cannot be captured, or its graph gives something else.

    Args:
        product: ``(P,) -> (P,)`` on a GPU, of fixed shapes.
        example: a random vector ``(P,)``, for the first calls and the comparison.
    """
    with torch.cuda.device(example.device):
        given = example.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            product(given)  # libraries choose kernels and allocate memory
            expected = product(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                result = product(given)
            graph.replay()
            torch.cuda.synchronize()
        except RuntimeError:  # an operation that a graph cannot hold: one that waits for the GPU, for example
            return product
    if not float((result - expected).norm()) <= _SAME[given.dtype] * float(expected.norm()):
        return product

    def replay(vector: Tensor) -> Tensor:
        given.copy_(vector)
        graph.replay()
        return result.clone()

    return replay
