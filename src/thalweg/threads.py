"""PyTorch's number of CPU threads, changed for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """Set the number of threads for a ``with`` block; None leaves it to the block. It is restored afterwards."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
