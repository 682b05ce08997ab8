"""Replays of a recorded product as one CUDA graph, so that a small model does not wait for Python to launch its kernels.

A recorded product of a small looped model is a thousand kernels of some microseconds each, and Python needs up to 100 microseconds
to launch one. A graph launches all of them at once. Large models gain nothing, and would keep the memory of a replay for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.curvature.linear import Program, is_same

LARGEST = 64 << 20
"""Bytes of the largest value of a replay up to which launching takes longer than computing."""
USES = 3
"""Products of a batch that are made without a graph first: a capture costs about as much as these."""
_NEVER_WAIT = """
add sub mul div neg addcmul addmm mm bmm matmul mv dot linear sum mean cumsum where exp tanh sigmoid sqrt rsqrt pow
reshape view _unsafe_view expand permute transpose t unsqueeze squeeze select slice clone cat stack split unbind flip roll tril triu
_to_copy detach alias as_strided unfold constant_pad_nd zeros_like ones_like new_zeros fill copy
select_backward slice_backward embedding embedding_dense_backward index_select gather scatter_add
softmax _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data native_layer_norm native_layer_norm_backward
relu gelu silu threshold_backward gelu_backward silu_backward tanh_backward sigmoid_backward
convolution convolution_backward avg_pool2d avg_pool2d_backward
"""
_CAPTURED = frozenset(_NEVER_WAIT.split())
"""Operations that never wait for the GPU. A capture that fails can leave PyTorch's generators in a state that draws no numbers."""


def can_be_captured(program: Program) -> bool:
    """Whether a program is small, and made of operations that a graph can hold for sure."""
    return program.largest() <= LARGEST and all(_name(step.function) in _CAPTURED for step in program.steps)


def _name(function: Any) -> str:
    """The name of an operation of PyTorch without its overload; empty for any other function."""
    schema = getattr(function, "_schema", None)
    namespace, _, name = schema.name.partition("::") if schema is not None else ("", "", "")
    return name if namespace in ("aten", "prims") else ""


def as_graph(product: Callable[[Tensor], Tensor], example: Tensor, pool: Any) -> Callable[[Tensor], Tensor] | None:
    """The same product as a CUDA graph; None where it cannot be captured, or its graph gives something else.

    Threads and streams may use it at once: each call waits for the one before.

    Args:
        product: ``(P,) -> (P,)`` on a GPU, of fixed shapes; of operations of `can_be_captured`.
        example: a random vector ``(P,)``, for the first calls and the comparison.
        pool: memory pool of the graphs of one operator, from ``torch.cuda.graph_pool_handle()``.
    """
    with torch.cuda.device(example.device):
        given = example.flip(0)  # captured on one vector, and compared on another
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            product(given)  # libraries choose kernels and allocate memory
            expected = product(example)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                result = product(given)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return None
        lock, done = threading.Lock(), torch.cuda.Event()
        done.record()

    def replay(vector: Tensor) -> Tensor:
        with lock, torch.cuda.device(vector.device):
            torch.cuda.current_stream().wait_event(done)
            given.copy_(vector)
            graph.replay()
            copy = result.clone()
            done.record()
        return copy

    return replay if is_same(replay(example), expected) else None
