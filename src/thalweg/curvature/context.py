"""The context in which a loss is evaluated: module modes, gradients, kernels with second derivatives, random state."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.errors import require, unknown

P = ParamSpec("P")
_R = TypeVar("_R")
Mode = Literal["eval", "train", "as-is"]
"""In which mode a module's parts are: all in evaluation, all in training, or each as the caller left it."""


def checked_mode(mode: Mode) -> Mode:
    """The mode itself, after a check that it is a `Mode`.

    Raises:
        BadInputError: an unknown mode; the message lists the known ones.
    """
    if mode not in get_args(Mode):
        raise unknown("mode", str(mode), get_args(Mode))
    return mode


@contextlib.contextmanager
def quiet(model: nn.Module, mode: Mode = "eval") -> Iterator[None]:
    """Evaluate a model without the shortcuts and settings that change or hide its second derivative.

    Inside, every module is in ``mode``; attention is computed by matrix products, as its fused kernels have no second derivative;
    gradients are on, whatever ``no_grad`` or ``inference_mode`` stands around; autocast of the surroundings and compiled code are
    off. Afterwards everything is as it was. The modes are set as attributes: a module's own ``train`` and ``eval`` methods are not
    called, as some of them merge or move weights.
    """
    with contextlib.ExitStack() as stack:
        if mode != "as-is":
            stack.enter_context(_modes(model, mode == "train"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_no_fast_path())
        stack.enter_context(_dense_gradients(model))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its recurrent kernels have no second derivative
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        outer = _OUTER.get()
        if outer is not None:
            stack.enter_context(outer)
        _leave_autocast(stack, {parameter.device.type for parameter in model.parameters()} - {"meta"} | {"cpu"})
        if "torch._dynamo" in sys.modules:  # only then can anything have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


_OUTER: contextvars.ContextVar[torch.device | None] = contextvars.ContextVar("outer default device", default=None)
"""The default device of the caller, where `undisturbed` has changed it."""


def undisturbed(function: Callable[P, _R]) -> Callable[P, _R]:
    """Decorator: the function runs outside of ``inference_mode``, ``autocast`` and default device that are active at the call."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> _R:
        with contextlib.ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            _leave_autocast(stack, ("cpu", "cuda"))
            if torch.get_default_device().type != "cpu":  # we make small tensors on the CPU; `quiet` restores it for the loss
                stack.callback(_OUTER.reset, _OUTER.set(torch.get_default_device()))
                stack.enter_context(torch.device("cpu"))
            return function(*args, **kwargs)

    return inside


def _leave_autocast(stack: contextlib.ExitStack, devices: Iterable[str]) -> None:
    """Turn autocast off for the devices for which it is on."""
    for device in devices:
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, the global generators of PyTorch, numpy and Python start from ``seed``; afterwards they are as they were.

    None leaves them alone.
    """
    if seed is None:
        yield
        return
    require(0 <= seed < 2**32, "seed", seed, "a whole number from 0 to 2**32 - 1, or None")
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 the global one is what a loss may use
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(int(seed))  # which takes no numpy integer
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def random_state() -> tuple[bytes, ...]:
    """A fingerprint of the global generators; if it changes, random numbers were drawn."""
    states = [torch.get_rng_state().numpy().tobytes()]
    states += [repr(state).encode() for state in (random.getstate(), np.random.get_state(legacy=True)[1:3])]  # type: ignore[index]  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return tuple(states)


@contextlib.contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Restore afterwards what a forward pass sets on its modules: attributes, lists, dicts and sets among them, new buffers.

    A tensor or an array in an attribute that is changed in place stays changed: it is not copied.
    """
    before = [(module, dict(module.__dict__), _containers(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, containers in before:
            kept = module.__dict__
            for name in [name for name in kept if name not in attributes]:
                del kept[name]
            kept.update(attributes)
            for container, contents in containers:
                _refill(container, contents)


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """Lists, dicts and sets among a module's attributes, PyTorch's registries too, with copies of their contents; no hooks."""
    return [
        (value, type(value)(value))
        for name, value in module.__dict__.items()
        if type(value) in (list, dict, set, OrderedDict) and not name.endswith("hooks")
    ]


def _refill(container: Any, contents: Any) -> None:
    """Give a list, dict or set its former contents if they changed; compared by identity, as tensors cannot be compared."""
    pairs = zip(*(list(kept.items()) if isinstance(kept, dict) else list(kept) for kept in (container, contents)), strict=False)
    same = all(a is b or (isinstance(a, tuple) and a[0] is b[0] and a[1] is b[1]) for a, b in pairs)
    if len(container) == len(contents) and same:
        return
    container.clear()
    container.extend(contents) if isinstance(container, list) else container.update(contents)


@contextlib.contextmanager
def _modes(model: nn.Module, training: bool) -> Iterator[None]:
    """Set all modules to training or evaluation mode inside; restore each module's own mode afterwards."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = training
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextlib.contextmanager
def _dense_gradients(model: nn.Module) -> Iterator[None]:
    """Let embeddings with sparse gradients give dense ones inside: the same numbers, which can be differentiated again."""
    kinds = (nn.Embedding, nn.EmbeddingBag)  # a module of the user's own may mean something else by "sparse"
    sparse = [module for module in model.modules() if isinstance(module, kinds) and module.sparse]
    try:
        for module in sparse:
            module.sparse = False  # type: ignore[assignment]
        yield
    finally:
        for module in sparse:
            module.sparse = True  # type: ignore[assignment]


@contextlib.contextmanager
def _no_fast_path() -> Iterator[None]:
    """Let PyTorch's transformer layers take the path that they are trained on, even without gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
