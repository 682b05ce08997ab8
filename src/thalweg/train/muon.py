"""Muon for the matrices of a model, and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.errors import BadInputError


class MuonWithAdamW(torch.optim.Optimizer):
    """PyTorch's Muon on the groups with ``"muon": True``, PyTorch's AdamW on the others.

    Muon replaces the running mean of a matrix's gradient by the nearest matrix whose singular values are about 1. Its steps are
    scaled to the size of AdamW's (``match_rms_adamw``), so that both take the same learning rate.

    Args:
        groups: parameter groups, each with the key "muon"; the parameters of a Muon group have two dimensions.
        lr: learning rate.
        betas: decay factors of AdamW; Muon keeps PyTorch's momentum of 0.95.
    Raises:
        BadInputError: this version of PyTorch has no Muon.
    Source:
        K. Jordan et al., 2024, "Muon: an optimizer for hidden layers"; the scale is from arXiv 2502.16982.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise BadInputError(f'optimizer.name: given "muon", expected "adamw": PyTorch {torch.__version__} has no Muon')
        super().__init__(groups, {"lr": lr})
        self._muon = self._part(True, lambda own: torch.optim.Muon(own, lr=lr, adjust_lr_fn="match_rms_adamw"))
        self._adamw = self._part(False, lambda own: torch.optim.AdamW(own, lr=lr, betas=betas, fused=True))

    def _part(self, muon: bool, build: Any) -> torch.optim.Optimizer | None:
        """The optimizer of one kind of groups, which it shares with this one; None if there are none."""
        own = [group for group in self.param_groups if group["muon"] is muon]
        return build(own) if own else None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters; both parts work on this optimizer's groups and state, which a loaded checkpoint replaces."""
        assert closure is None
        for muon, part in ((True, self._muon), (False, self._adamw)):
            if part is not None:
                part.param_groups = [group for group in self.param_groups if group["muon"] is muon]
                part.state = self.state
                part.step()


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is meant for a parameter: the matrices of the blocks, not embeddings, positions, head, norms or gains."""
    return parameter.dim() == 2 and any(part in name.split(".") for part in ("prelude", "blocks", "coda"))
