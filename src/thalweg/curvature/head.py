"""Cross-entropy of a linear head in pieces, so that no tensor over all positions and all classes is kept.

At a vocabulary of 50,000 the logits of a batch, and what their derivatives keep, are larger than the rest of a language model. Here
the head and the cross-entropy are one operation: ``L = sum_n m_n (logsumexp(z_n) - z_n[y_n])`` with logits ``z_n = W h_n + b`` and
m_n 1 where target y_n counts. It keeps h, W and b, and computes logits again in pieces (`PIECE`) for

* the gradient: ``dz = c m (p - y)``, ``dh = dz W``, ``dW = dz^T h``, ``db = sum dz``, with p the softmax and c the factor of L;
* the derivative of the gradient along (h', W', b'), symmetric, so that it serves forward and reverse mode: with
  ``z' = W h' + W' h + b'`` and ``q = c m (p z' - p (p . z'))`` it is ``(q W + dz W', q^T h + dz^T h', sum q)``;
* the Gauss-Newton product: the same without the terms of dz.

A model is not changed for it: `HeadInPieces` watches for a large ``linear`` and delays it (`HeadLogits`) until it is known what
becomes of the logits. Cross-entropy is then computed in pieces; for anything else the logits are made as usual.

Shape letters: N positions, D width, V classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

PIECE = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Entries of the logits that are computed at once, by device: 16 and 256 MiB in float32. Smaller logits are not cut.

A GPU multiplies small pieces slowly: reading the weight of the head takes longer than the arithmetic of 80 positions. A product
holds about four tensors of this size at a time.
"""
_WIDER = 4
"""V / D above which a linear layer may be a head; hidden layers widen by up to 4."""


def piece(device: torch.device) -> int:
    """Entries of one piece on a device, see `PIECE`."""
    return PIECE.get(device.type, PIECE["cpu"])


def _pieces(states: Tensor, classes: int) -> Iterator[slice]:
    """Slices of positions whose logits have at most one piece's entries."""
    step = max(1, piece(states.device) // classes)
    return (slice(start, start + step) for start in range(0, len(states), step))


def _residual(shares: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """``m (p - y)`` for the positions of one piece, ``(n, V)``; overwrites the shares."""
    counts = targets != ignore
    places = torch.where(counts, targets, 0).unsqueeze(1)
    return shares.scatter_add_(1, places, -torch.ones_like(places, dtype=shares.dtype)).mul_(counts.unsqueeze(1))


@torch.library.custom_op("thalweg::head_loss", mutates_args=())
def head_loss(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """The cross-entropy L summed over the targets that count, in nats."""
    total = states.new_zeros(())
    for rows in _pieces(states, len(weight)):
        logits = torch.addmm(bias, states[rows], weight.T)
        total += functional.cross_entropy(logits, targets[rows], reduction="sum", ignore_index=ignore)
    return total


@torch.library.custom_op("thalweg::head_gradient", mutates_args=())
def head_gradient(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, factor: Tensor, ignore: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``c`` times the derivatives of L with respect to states ``(N, D)``, weight ``(V, D)`` and bias ``(V,)``."""
    of_states, of_weight, of_bias = torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias)
    for rows in _pieces(states, len(weight)):
        shares = torch.addmm(bias, states[rows], weight.T).softmax(1)
        residual = _residual(shares, targets[rows], ignore).mul_(factor)
        of_states[rows] = residual @ weight
        of_weight.addmm_(residual.T, states[rows])
        of_bias += residual.sum(0)
    return of_states, of_weight, of_bias


@torch.library.custom_op("thalweg::head_product", mutates_args=())
def head_product(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    factor: Tensor,
    along_states: Tensor,
    along_weight: Tensor,
    along_bias: Tensor,
    ignore: int,
    newton: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The second derivative of ``c L`` applied to a change of states, weight and bias; last, the derivative of L along the change.

    With ``newton`` it is the part in which the logits are linear, and the last result is zero.
    """
    of_states, of_weight, of_bias = torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias)
    slope, weight_moves = states.new_zeros(()), bool(along_weight.any())
    for rows in _pieces(states, len(weight)):
        here, here_along = states[rows], along_states[rows]
        shares = torch.addmm(bias, here, weight.T).softmax(1)
        change = torch.addmm(along_bias, here_along, weight.T)
        if weight_moves:
            change.addmm_(here, along_weight.T)
        # q = c m (p z' - p (p . z')).
        mean = (shares * change).sum(1, keepdim=True)
        counts = (targets[rows] != ignore).unsqueeze(1) * factor
        curved = (change - mean).mul_(shares).mul_(counts)
        of_states[rows] = curved @ weight
        of_weight.addmm_(curved.T, here)
        of_bias += curved.sum(0)
        if newton:
            continue
        residual = _residual(shares, targets[rows], ignore)
        slope += (residual * change).sum()
        residual = residual.mul_(factor)
        of_weight.addmm_(residual.T, here_along)
        if weight_moves:
            of_states[rows] += residual @ along_weight
    return of_states, of_weight, of_bias, slope


@head_product.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> Any:
    """One vector after the other: each already fills the matrix products."""
    pick = lambda value, dim, i: value if dim is None else value.select(dim, i)  # noqa: E731
    results = [
        head_product(*(pick(value, dim, i) for value, dim in zip(arguments, in_dims, strict=True))) for i in range(info.batch_size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0, 0, 0, 0)


class HeadLoss(torch.autograd.Function):
    """`head_loss` with its first derivatives."""

    @staticmethod
    def forward(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, ignore: int) -> Tensor:
        return head_loss(states, weight, bias, targets, ignore)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.ignore = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (factor,) = grad_outputs
        return *HeadGradient.apply(*ctx.saved_tensors, factor, ctx.ignore), None, None

    @staticmethod
    def jvp(ctx: Any, *along: Any) -> Tensor:
        states, *others = ctx.saved_tensors
        parts = head_gradient(states, *others, states.new_ones(()), ctx.ignore)
        moving = [(part * change).sum() for part, change in zip(parts, along, strict=False) if change is not None]
        return torch.stack([states.new_zeros(()), *moving]).sum()


class HeadGradient(torch.autograd.Function):
    """`head_gradient` with its first derivatives, which are the second ones of the loss."""

    @staticmethod
    def forward(
        states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, factor: Tensor, ignore: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return head_gradient(states, weight, bias, targets, factor, ignore)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.ignore = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        *given, factor = ctx.saved_tensors
        of_states, of_weight, of_bias, slope = head_product(*given, factor, *_filled(grad_outputs, given), ctx.ignore, False)
        return of_states, of_weight, of_bias, None, slope, None

    @staticmethod
    def jvp(ctx: Any, *along: Any) -> Any:
        *given, factor = ctx.saved_tensors
        parts = head_product(*given, factor, *_filled(along[:3], given), ctx.ignore, False)[:3]
        if along[4] is None:
            return parts
        extra = head_gradient(*given, along[4], ctx.ignore)  # the gradient is linear in its factor
        return tuple(part + more for part, more in zip(parts, extra, strict=True))


def _filled(along: Any, given: Any) -> list[Tensor]:
    """Changes of states, weight and bias, zeros for those that do not change."""
    pairs = zip(along, given[:3], strict=True)
    return [torch.zeros_like(value) if change is None else change.contiguous() for change, value in pairs]


_DEFAULTS = {"weight": None, "size_average": None, "reduce": None, "label_smoothing": 0.0}
"""Arguments of ``cross_entropy`` that must have these values for a computation in pieces."""


class HeadLogits:
    """Logits ``states @ weight.T + bias`` that are not computed yet.

    Casts that change nothing, reshapes and selections of positions are carried out on the states. Every other use computes the
    logits, once. Where these are then changed in place, also through a view, they are what everything sees.
    """

    _is_param = False  # nn.Module asks it of everything that counts as a tensor

    def __init__(self, states: Tensor, weight: Tensor, bias: Tensor | None, mode: HeadInPieces) -> None:
        self.states, self.weight, self.bias, self.mode = states, weight, bias, mode
        self.parent: HeadLogits | None = None
        self.operation: Callable[[Tensor], Tensor] | None = None
        self.made: Tensor | None = None
        self.made_version: int | None = None
        self.gradients, self.version = torch.is_grad_enabled(), _version(states)
        with _plainly():
            self.twin = torch.empty(self.shape, device="meta")  # tells which operations give a view

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A tensor, for ``isinstance``: a loss that looks for one must find it."""
        return Tensor

    @property
    def shape(self) -> torch.Size:
        """``(..., V)``."""
        return torch.Size((*self.states.shape[:-1], len(self.weight)))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.states.dim()

    @property
    def dtype(self) -> torch.dtype:
        """That of the states."""
        return self.states.dtype

    @property
    def device(self) -> torch.device:
        """That of the states."""
        return self.states.device

    @property
    def requires_grad(self) -> bool:
        """Whether they are part of a graph."""
        parts = (self.states, self.weight, self.bias)
        return torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)

    @property
    def layout(self) -> torch.layout:
        """Strided."""
        return torch.strided

    @property
    def is_cuda(self) -> bool:
        """Whether they are on a GPU."""
        return self.states.is_cuda

    def is_floating_point(self) -> bool:
        """They are."""
        return True

    def is_complex(self) -> bool:
        """They are not."""
        return False

    def dim(self) -> int:
        """Number of dimensions."""
        return self.states.dim()

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one of its entries."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    def whole(self) -> Tensor:
        """The logits, computed at the first call; as a view where they are one of others."""
        if self.made is None:
            with torch._C.DisableTorchFunction(), torch.set_grad_enabled(self.gradients):
                if self.parent is not None and self.operation is not None:
                    self.made = self.operation(self.parent.whole())
                else:
                    self.made = functional.linear(self.unchanged_states(), self.weight, self.bias)
            self.made_version = _version(self.made)
        return self.made

    @property
    def changed(self) -> bool:
        """Whether these logits, or others that they are a view of, have been computed and then changed, or may have been."""
        if self.made is not None and (self.made_version is None or _version(self.made) != self.made_version):
            return True
        return self.parent is not None and self.parent.changed

    def unchanged_states(self) -> Tensor:
        """The states, after a check that nothing has written into them since the head was called.

        Raises:
            RuntimeError: something has; the loss has to be evaluated without a delayed head.
        """
        if _version(self.states) != self.version:
            raise RuntimeError("the states of a delayed head were changed in place after it was called")
        return self.states

    def moved(self, operation: Callable[[Tensor], Tensor]) -> Any:
        """The logits after an operation on their positions, which leaves the last dimension as it is.

        Args:
            operation: for tensors of any last dimension.
        """
        if self.changed:
            return operation(self.whole())
        logits = HeadLogits(operation(self.unchanged_states()), self.weight, self.bias, self.mode)
        with _plainly():
            twin = operation(self.twin)
        if twin.untyped_storage()._cdata == self.twin.untyped_storage()._cdata:  # a view: what happens to one happens to both
            logits.parent, logits.operation, logits.twin = self, operation, twin
        return logits

    def float(self) -> HeadLogits:
        """The same: the arithmetic is float32 or float64, and casts to a lower one are left out, see `KeepPrecision`."""
        return self

    def contiguous(self) -> Any:
        """The same, or a copy of a part."""
        return self if self.twin.is_contiguous() else self.moved(lambda tensor: tensor.contiguous())

    def view(self, *shape: Any) -> Any:
        """As `reshape`."""
        return self.reshape(*shape)

    def reshape(self, *shape: Any) -> Any:
        """The logits in another shape of the positions."""
        given = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list | torch.Size) else shape
        if given[-1] != len(self.weight):
            return self.whole().reshape(*given)
        return self.moved(lambda tensor: tensor.reshape(*given[:-1], tensor.shape[-1]))

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        """The logits with dimensions of positions joined."""
        last = end_dim % self.dim() == self.dim() - 1
        return self.whole().flatten(start_dim, end_dim) if last else self.moved(lambda tensor: tensor.flatten(start_dim, end_dim))

    def index_select(self, dim: int, index: Tensor) -> Any:
        """The logits of some positions."""
        last = dim % self.dim() == self.dim() - 1
        return self.whole().index_select(dim, index) if last else self.moved(lambda tensor: _at(tensor, index, dim))

    def __getitem__(self, index: Any) -> Any:
        return self.moved(lambda tensor: _at(tensor, index)) if self._selects_positions(index) else self.whole()[index]

    def _selects_positions(self, index: Any) -> bool:
        """Whether an index leaves the classes as they are."""
        if isinstance(index, Tensor):
            return (index.dim() if index.dtype == torch.bool else 1) < self.dim()
        parts = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(part, int | slice) or part is Ellipsis for part in parts):
            return False
        if Ellipsis in parts:
            return parts[-1] is Ellipsis or parts[-1] == slice(None)
        return len(parts) < self.dim() or parts[-1] == slice(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)

    def cross_entropy(self, targets: Tensor, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """The cross-entropy of positions ``(N,)`` in pieces."""
        self.mode.classes = len(self.weight)
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        with torch._C.DisableTorchFunction():  # what happens inside is no business of modes that watch the model
            total = HeadLoss.apply(self.unchanged_states(), self.weight, bias, targets, ignore_index)
        return total if reduction == "sum" else total / (targets != ignore_index).sum()

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.cross_entropy:
            given = dict(zip(("input", "target"), args, strict=False)) | kwargs
            logits, targets = given.pop("input", None), given.pop("target", None)
            given = {name: value for name, value in given.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
            plain = type(logits) is HeadLogits and isinstance(targets, Tensor) and targets.dtype == torch.long
            plain = plain and not logits.changed  # else they are what was made of them
            plain = plain and logits.dim() == 2 and len(args) <= 2 and set(given) <= {"ignore_index", "reduction"}
            if plain and given.get("reduction", "mean") in ("mean", "sum"):
                return logits.cross_entropy(targets, **given)
        args, kwargs = pytree.tree_map(lambda leaf: leaf.whole() if type(leaf) is HeadLogits else leaf, (args, kwargs))
        return func(*args, **kwargs)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Compute outside of modes and of transforms such as ``vmap``, whose tensors have no storage to compare."""
    with torch._C._DisableFuncTorch(), torch._C.DisableTorchFunction():
        yield


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None for one that does not count it."""
    try:
        return tensor._version
    except Exception:  # an inference tensor, or one of a transform
        return None


def _at(tensor: Tensor, index: Any, dim: int | None = None) -> Tensor:
    """Entries of a tensor at an index, or at indices along a dimension; of a stand-in without entries only where that is a view."""
    if tensor.is_meta and (dim is not None or isinstance(index, Tensor)):
        return torch.empty(0, device="meta")  # a copy
    return tensor[index] if dim is None else tensor.index_select(dim, index)


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
_OPERATORS = (
    *_BINARY, *(f"r{name}" for name in _BINARY), *(f"i{name}" for name in _BINARY if name != "matmul"),
    "neg", "pos", "abs", "invert", "bool", "float", "int", "index", "len", "iter", "contains", "setitem",
    "eq", "ne", "lt", "le", "gt", "ge",
)  # fmt: skip
for _name in _OPERATORS:
    if hasattr(Tensor, f"__{_name}__"):
        # Python looks for operators on the class, not by `__getattr__`.
        setattr(HeadLogits, f"__{_name}__", lambda self, *others, _n=f"__{_name}__": getattr(self.whole(), _n)(*others))
HeadLogits.__hash__ = object.__hash__  # type: ignore[method-assign]  # which `__eq__` has taken away


class HeadInPieces(TorchFunctionMode):
    """A mode in which a large ``linear`` that looks like a head is delayed, see `HeadLogits`.

    Attributes:
        classes: V of the last head whose cross-entropy was computed in pieces; 0 where there was none.
        delayed: whether there was a head.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classes = 0
        self.delayed = False

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear and len(args) + len(kwargs) in (2, 3):
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if _is_head(given.get("input"), given.get("weight")):
                self.delayed = True
                return HeadLogits(given["input"], given["weight"], given.get("bias"), self)
        return func(*args, **kwargs)


def could_be_head(weight: Tensor) -> bool:
    """Whether a matrix has so many more rows than columns that it may be the weight ``(V, D)`` of a head."""
    return weight.dim() == 2 and len(weight) > _WIDER * weight.shape[1]


def _is_head(states: Any, weight: Any) -> bool:
    """Whether a linear layer is a head with logits of more than one piece."""
    if not (isinstance(states, Tensor) and isinstance(weight, Tensor)) or states.dtype != weight.dtype:
        return False
    if HeadLogits in (type(states), type(weight)):
        return False
    return could_be_head(weight) and states.numel() // max(1, weight.shape[1]) * len(weight) > piece(states.device)
