"""Data parallelism: every rank has a part of the batch, and loss and gradients are those of the whole batch.

The whole batch is drawn on every rank from the same random stream, and rank r of W takes its samples r, r + W, r + 2 W, ... So the
batches of a run do not depend on the number of ranks. The mean over the whole batch is

    L = sum_r s_r L_r,    s_r = (targets of rank r) / (targets of all ranks),

where L_r is the mean loss over the targets of rank r; the same holds for the gradient. A mean of means would be another loss where
ranks have different numbers of targets.

Shape letters: P all parameters, K parameter tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thalweg import ranks


def average(loss: Tensor, parameters: Sequence[nn.Parameter], share: float) -> Tensor:
    """Replace gradients by those of the whole batch, in place, and return its loss; equal to the last bit on all ranks.

    One sum over ranks of P + K + 1 numbers, after the backward pass. It is independent of hooks on the parameters, so that passes
    may come and go, and ranks may use different parameters. A parameter that no rank used keeps no gradient: an optimizer would
    otherwise decay it and count the update.

    Args:
        loss: mean loss over the targets of this rank.
        parameters: the K parameters, in the same order on every rank.
        share: s_r, this rank's share of all targets.
    Raises:
        LostRankError: another rank cannot be reached.
    """
    used = [parameter.grad is not None for parameter in parameters]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(part.reshape(-1) for part in parts), loss.detach().reshape(1)]).mul_(share)
    flags = torch.tensor(used, dtype=flat.dtype, device=flat.device)
    flat = ranks.total(torch.cat((flat, flags)))
    somewhere = flat[-len(parts) :].tolist()
    offset = 0
    for parameter, part, anywhere in zip(parameters, parts, somewhere, strict=True):
        if anywhere:
            total = flat[offset : offset + part.numel()].view_as(part)
            if parameter.grad is None:
                parameter.grad = total.clone()
            else:
                parameter.grad.copy_(total)
        offset += part.numel()
    return flat[offset]
