"""Models whose parameters are sharded over ranks by ``torch.distributed.fsdp.fully_shard`` (FSDP2).

Every rank holds a part of each parameter, and hooks gather the whole parameters around each forward pass. Hessian-vector products
cannot go through these hooks, which write the gathered parameters over those that a function is differentiated for. So the whole
parameters are gathered once, when an operator is built, and the model is called with them as a function, without the hooks.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch import distributed as dist

from thalweg import ranks
from thalweg.errors import BadInputError


def units(model: nn.Module) -> list[nn.Module]:
    """The parts of a module that were given to ``fully_shard``, itself first."""
    return [module for module in model.modules() if any(base.__name__ == "FSDPModule" for base in type(module).__mro__)]


def is_sharded(model: nn.Module) -> bool:
    """Whether a module or a part of it was given to ``fully_shard``."""
    return bool(units(model))


def refuse_other_shards(model: nn.Module) -> None:
    """Refuse a model whose parameters are sharded in another way than by ``fully_shard``, or over ranks that are not asked.

    Raises:
        BadInputError: FSDP of the first version, tensor parallelism, or a sharded model in a block ``with thalweg.alone()``.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise BadInputError(
            "model: its parameters are sharded by FullyShardedDataParallel, expected fully_shard (FSDP2); gather the full state "
            "dict into an unwrapped copy and give that"
        )
    own = {id(part) for unit in units(model) for part in _managed(unit)}
    foreign = [name for name, part in model.named_parameters() if hasattr(part, "full_tensor") and id(part) not in own]
    if foreign:
        raise BadInputError(
            f"model: {foreign[0]} is sharded by tensor parallelism, expected fully_shard (FSDP2) alone; gather the full state dict "
            "into an unwrapped copy and give that"
        )
    if is_sharded(model) and dist.get_world_size() > 1 and not ranks.active():
        raise BadInputError(
            "model: its parameters are sharded over ranks, and this rank alone has only a part of them; build the operator on all "
            "ranks, outside of `with thalweg.alone():`"
        )


def _managed(module: Any) -> list[Tensor]:
    """The sharded parameters that one call of ``fully_shard`` manages, except those that were sharded before."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]  # several groups since PyTorch 2.10
    params = [param for group in groups if group is not None for param in group.fsdp_params]
    return [param.sharded_param for param in params if not param.is_dtensor]


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a model by name, detached and whole; every rank has to call it if the model is sharded.

    Args:
        model: any module. A sharded one is left with its shards, as it is between two updates.
    """
    for unit in units(model):
        unit.reshard()  # type: ignore[operator]  # else the gathered parameters, perhaps rounded, could still be in place
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with ranks.reaching() if is_sharded(model) else contextlib.nullcontext():
        return {name: whole(value.detach()) for name, value in values.items()}


def whole(value: Any) -> Tensor:
    """The whole tensor of a sharded one, which every rank has to ask for; any other tensor as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


@contextlib.contextmanager
def without_gathering(model: nn.Module) -> Iterator[None]:
    """Inside, the hooks of ``fully_shard`` are off, so that a forward pass uses the parameters that it is given."""
    off = []
    for module in model.modules():
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = module.__dict__[kind]
            kept = OrderedDict((key, hook) for key, hook in hooks.items() if not _gathers(hook))
            if len(kept) < len(hooks):
                off.append((module, kind, hooks))
                module.__dict__[kind] = kept
    try:
        yield
    finally:
        for module, kind, hooks in off:
            module.__dict__[kind] = hooks


def _gathers(hook: Any) -> bool:
    """Whether a hook is one of ``fully_shard``: a method of its state, or a function in its module for a list of modules."""
    owner = type(getattr(hook, "__self__", None)).__module__
    return "_fully_shard" in owner or "_fully_shard" in getattr(hook, "__module__", "")
