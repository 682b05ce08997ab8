"""Query and key weights in one standard form: the same function, and a spectrum that can be compared.

Shape letters: m width of a head, h heads, d width, r heads times m.

``W_K -> G^-T W_K``, ``W_Q -> G W_Q`` leaves every score ``(W_K y + b_K).(W_Q x + b_Q)`` as it is (``b_K -> G^-T b_K``,
``b_Q -> G b_Q``), so also the loss, but not its Hessian. With rotary positions only a factor for each pair of coordinates is
left of G. Not for weights followed by a norm of queries or keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from thalweg.errors import GaugeWarning, ShapeMismatchError, require, unknown
from thalweg.theory.inputs import finite

_UNBALANCED = 2.0
"""Factor between query and key from which on spectra should not be compared."""

T = TypeVar("T")


class Pair(NamedTuple):
    """Names of the weights, and biases if any, that belong together."""

    key: str
    query: str
    key_bias: str | None = None
    query_bias: str | None = None


@dataclass(frozen=True)
class Imbalance:
    """How far query and key are from balance, of each head."""

    norms: Tensor
    """``||W_Q||_F / ||W_K||_F``, ``(h,)``; 1 in balance. Blind to factors that differ between directions."""
    directions: Tensor
    """``(h,)``, at least 1: the largest factor by which one outweighs the other in a direction of the head."""

    @property
    def worst(self) -> float:
        """Over heads."""
        return float(self.directions.max())


@dataclass(frozen=True)
class Balanced:
    """Weights with ``W_K W_K^T = W_Q W_Q^T`` in every head, float64."""

    key: Tensor
    """``(r, d)``."""
    query: Tensor
    """``(r, d)``."""
    key_bias: Tensor | None
    query_bias: Tensor | None
    """``(r,)`` each, if given."""
    before: Imbalance


@dataclass(frozen=True)
class Transform:
    """What balances each head: ``W_Q -> G W_Q``, ``W_K -> G^-T W_K``."""

    query: Tensor
    """G, ``(h, m, m)``; without inverse where ``W_K^T W_Q`` has a rank below m."""
    key: Tensor
    """``G^-T``, likewise."""
    full: bool
    """Whether the rank is m in every head."""


def _stacked(name: str, weight: Tensor, heads: int) -> Tensor:
    """``(h, m, d)``, or ``(h, m, 1)`` of a bias."""
    require(heads >= 1 and len(weight) % heads == 0, "heads", heads, f"a divisor of the {len(weight)} rows of {name}")
    return finite(name, weight).reshape(heads, len(weight) // heads, -1)


def _pair_of(key: Tensor, query: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Both as heads."""
    if key.dim() != 2 or key.shape != query.shape or not key.numel():
        raise ShapeMismatchError(
            f"key and query: given shapes {tuple(key.shape)} and {tuple(query.shape)}, expected (m, d) for both"
        )
    return _stacked("key", key, heads), _stacked("query", query, heads)


def _inverse_root(values: Tensor) -> Tensor:
    """``1 / sqrt(s)``, 0 for a singular value that is rounding."""
    kept = values > values.amax(-1, keepdim=True) * values.shape[-1] * torch.finfo(values.dtype).eps
    return torch.where(kept, values, torch.ones_like(values)).rsqrt() * kept


def _transform(key: Tensor, query: Tensor) -> Transform:
    """G of each head from ``W_K^T W_Q = U S V^T``: ``W_K' = sqrt(S) U^T``, ``W_Q' = sqrt(S) V^T``.

    By ``W_K^T = O_K R_K``, ``W_Q^T = O_Q R_Q`` and the SVD of the small ``R_K R_Q^T``: ``G = S^(-1/2) U^T R_K``,
    ``G^-T = S^(-1/2) V^T R_Q``. Then ``G R_Q^T = sqrt(S) V^T``.
    """
    (_, lower_key), (_, lower_query) = torch.linalg.qr(key.mT), torch.linalg.qr(query.mT)
    u, s, vt = torch.linalg.svd(lower_key @ lower_query.mT)
    root = _inverse_root(s).unsqueeze(-1)
    found = root * (u.mT @ lower_key), root * (vt @ lower_query)
    full = bool((root > 0).all()) and found[0].shape[1] == key.shape[1]
    missing = key.shape[1] - found[0].shape[1]  # more rows than columns: the rest of the rows is zero
    g, inverse = (torch.nn.functional.pad(part, (0, 0, 0, missing)) for part in found)
    return Transform(g, inverse, full)


def _rotary_transform(key: Tensor, query: Tensor) -> Transform:
    """One factor for each pair (i, i + m/2), which equalises the Frobenius norms of its two rows in query and key."""
    heads, width, _ = key.shape
    require(width % 2 == 0, "width of a head", width, "an even number for rotary positions")
    norms = [part.square().sum(-1).view(heads, 2, width // 2).sum(1).sqrt() for part in (key, query)]
    full = bool((norms[0] > 0).all() and (norms[1] > 0).all())
    factor = torch.where((norms[0] > 0) & (norms[1] > 0), (norms[0] / norms[1]), torch.ones_like(norms[0])).sqrt().repeat(1, 2)
    return Transform(torch.diag_embed(factor), torch.diag_embed(1 / factor), full)


def measured(key: Tensor, query: Tensor, found: Transform) -> Imbalance:
    """Singular values of G say how far each direction is from balance: query outweighs key by their inverse square."""
    norms = query.square().sum((1, 2)).sqrt() / key.square().sum((1, 2)).sqrt()
    sizes = [torch.linalg.svdvals(part).square().amax(-1) for part in (found.query, found.key)]
    return Imbalance(norms, torch.maximum(*sizes).clamp_min(1.0))


def imbalance(key: Tensor, query: Tensor, heads: int = 1, rotary: bool = False) -> Imbalance:
    """How far from ``W_K W_K^T = W_Q W_Q^T``; with `GaugeWarning` above a factor of 2.

    Args:
        key, query: ``(r, d)``, heads stacked along the rows, as in `torch.nn.Linear`.
        rotary: whether rotary positions follow; then only the balance of each pair is looked at.
    Example:
        >>> round(imbalance(torch.eye(2), 1.5 * torch.eye(2)).worst, 6)  # the ratio of the two
        1.5
    """
    pair = _pair_of(key, query, heads)
    found = measured(*pair, _rotary_transform(*pair) if rotary else _transform(*pair))
    if found.worst > _UNBALANCED:
        warnings.warn(
            f"query and key: one outweighs the other by {found.worst:.3g}, expected at most {_UNBALANCED:g}; balance the weights "
            "before comparing spectra",
            GaugeWarning,
            stacklevel=2,
        )
    return found


def balance(
    key: Tensor,
    query: Tensor,
    key_bias: Tensor | None = None,
    query_bias: Tensor | None = None,
    heads: int = 1,
    rotary: bool = False,
) -> Balanced:
    """The pair with ``W_K W_K^T = W_Q W_Q^T`` and the same ``W_K^T W_Q`` in every head: one spectrum for all gauges.

    It is unique up to one orthogonal G for each head, which no spectrum sees: it also has the smallest
    ``||W_K||_F^2 + ||W_Q||_F^2``. With rotary positions each pair of rows gets equal norms instead.

    Args:
        key, query: ``(r, d)``, heads stacked along the rows.
        key_bias, query_bias: ``(r,)``, transformed along.
        heads: h, a divisor of r.
        rotary: whether positions turn pairs (i, i + m/2) of queries and keys after these weights.
    Raises:
        BadInputError: biases of a head with ``W_K^T W_Q`` of a rank below m: no invertible G balances it.
    Source:
        Ours.
    Example:
        >>> found = balance(torch.tensor([[0.5]]), torch.tensor([[8.0]]))
        >>> found.key.abs().tolist(), found.query.abs().tolist()
        ([[2.0]], [[2.0]])
    """
    keys, queries = _pair_of(key, query, heads)
    found = _rotary_transform(keys, queries) if rotary else _transform(keys, queries)
    biases: list[Tensor | None] = [None, None]
    for place, (name, bias, map_) in enumerate((("key bias", key_bias, found.key), ("query bias", query_bias, found.query))):
        if bias is not None:
            require(
                found.full, "key and query", "a head of lower rank", "full rank where there are biases; leave this pair as it is"
            )
            if bias.shape != key.shape[:1]:
                raise ShapeMismatchError(f"{name}: given shape {tuple(bias.shape)}, expected ({len(key)},)")
            biases[place] = (map_ @ _stacked(name, bias, heads)).flatten()
    return Balanced(
        (found.key @ keys).flatten(0, 1),
        (found.query @ queries).flatten(0, 1),
        biases[0],
        biases[1],
        measured(keys, queries, found),
    )


def named(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor of the dictionary.

    Raises:
        BadInputError: there is none of this name.
    """
    if name not in tensors:
        raise unknown("tensor", name, tensors)
    return tensors[name]


def balance_weights(
    tensors: Mapping[str, Tensor], pairs: Sequence[Pair], heads: int = 1, rotary: bool = False
) -> dict[str, Tensor]:
    """All pairs of a model balanced; a new dictionary in the old dtypes, everything else as it was.

    Args:
        tensors: by name, for instance ``model.state_dict()``; the result goes into ``model.load_state_dict``.
        pairs: names, see `Pair`.
        heads, rotary: of every pair, see `balance`.
    Example:
        >>> weights = {"k": torch.tensor([[0.5]]), "q": torch.tensor([[8.0]]), "v": torch.ones(1)}
        >>> balance_weights(weights, [Pair("k", "q")])["q"].abs()
        tensor([[2.]])
    """
    result = dict(tensors)
    for pair in pairs:
        given = [None if name is None else named(tensors, name) for name in Pair(*pair)]
        found = balance(named(tensors, pair[0]), named(tensors, pair[1]), given[2], given[3], heads, rotary)
        for name, value in zip(Pair(*pair), (found.key, found.query, found.key_bias, found.query_bias), strict=True):
            if name is not None and value is not None:
                result[name] = value.to(tensors[name].dtype)
    return result


def scaled(tensors: Mapping[str, Tensor], pairs: Sequence[Pair], factor: float) -> dict[str, Tensor]:
    """The scalar gauge ``G = s I``: queries times s, keys over s, biases along; a new dictionary."""
    require(0 < factor < float("inf"), "factor", factor, "a positive number")
    result = dict(tensors)
    for pair in pairs:
        for name, times in zip(Pair(*pair), (1 / factor, factor, 1 / factor, factor), strict=True):
            if name is not None:
                result[name] = named(tensors, name) * times
    return result


def gauge_sweep(
    measure: Callable[[dict[str, Tensor]], T],
    tensors: Mapping[str, Tensor],
    pairs: Sequence[Pair],
    factors: Sequence[float] = (1 / 3, 1.0, 3.0),
) -> dict[float, T]:
    """A measure of the weights at several scalar gauges: how much of it is a matter of gauge.

    Args:
        measure: what to look at, such as the largest eigenvalue at these weights.
    Example:
        >>> weights = {"k": torch.ones(1, 1), "q": torch.ones(1, 1)}
        >>> gauge_sweep(lambda found: float(found["q"]), weights, [Pair("k", "q")], (1.0, 2.0))
        {1.0: 1.0, 2.0: 2.0}
    """
    return {factor: measure(scaled(tensors, pairs, factor)) for factor in factors}
