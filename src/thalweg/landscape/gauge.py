"""Query and key weights in a standard form: the same function, and a spectrum that can be compared between models.

For any invertible G, ``W_K -> G^-T W_K``, ``W_Q -> G W_Q`` (with ``b_K -> G^-T b_K``, ``b_Q -> G b_Q``) leaves every score
``(W_K y + b_K).(W_Q x + b_Q)`` as it is, and so the loss, but not its Hessian. Choosing G is choosing a gauge. The standard gauge
here is the balanced one, ``W_K W_K^T = W_Q W_Q^T``. With rotary positions G is restricted to one factor for each pair of
coordinates. Not applicable to weights that a normalisation of queries or keys follows.

Shape letters: m width of a head, h heads, d width of the model, r = h m rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from thalweg.errors import GaugeWarning, Phrase, ShapeMismatchError, require, unknown, warn
from thalweg.reprs import short_repr
from thalweg.theory.inputs import finite

_UNBALANCED = 2.0
"""Factor between query and key above which spectra should not be compared."""

T = TypeVar("T")


class Pair(NamedTuple):
    """Names of the key and query weights, and of their biases if any, that belong to the same heads."""

    key: str
    query: str
    key_bias: str | None = None
    query_bias: str | None = None


@short_repr
@dataclass(frozen=True)
class Imbalance:
    """How far the query and key weights of each head are from balance."""

    norms: Tensor
    """``||W_Q||_F / ||W_K||_F``, ``(h,)``; 1 in balance. Does not show factors that differ between directions."""
    directions: Tensor
    """``(h,)``, at least 1: the largest factor between query and key in any direction of the head."""

    @property
    def worst(self) -> float:
        """The largest factor over all heads and directions."""
        return float(self.directions.max())


@short_repr
@dataclass(frozen=True)
class Balanced:
    """Balanced weights, ``W_K W_K^T = W_Q W_Q^T`` in every head, in float64."""

    key: Tensor
    """``(r, d)``."""
    query: Tensor
    """``(r, d)``."""
    key_bias: Tensor | None
    """``(r,)``; None where none was given."""
    query_bias: Tensor | None
    """``(r,)``; None where none was given."""
    before: Imbalance
    """Imbalance of the weights before."""


@short_repr
@dataclass(frozen=True)
class Transform:
    """The matrices that balance each head: ``W_Q -> G W_Q``, ``W_K -> G^-T W_K``."""

    query: Tensor
    """G, ``(h, m, m)``; not invertible where ``W_K^T W_Q`` has a rank below m."""
    key: Tensor
    """``G^-T``, ``(h, m, m)``; a pseudo-inverse where the rank is below m."""
    full: bool
    """Whether the rank is m in every head."""


def _stacked(name: str, weight: Tensor, heads: int) -> Tensor:
    """A weight ``(r, d)`` as heads ``(h, m, d)``, or a bias ``(r,)`` as ``(h, m, 1)``, in float64."""
    require(heads >= 1 and len(weight) % heads == 0, "heads", heads, f"a divisor of the {len(weight)} rows of {name}")
    return finite(name, weight).reshape(heads, len(weight) // heads, -1)


def _pair_of(key: Tensor, query: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Key and query weights as heads ``(h, m, d)``, after a check of their shapes."""
    if key.dim() != 2 or key.shape != query.shape or not key.numel():
        raise ShapeMismatchError(
            f"key and query: given shapes {tuple(key.shape)} and {tuple(query.shape)}, expected (m, d) for both"
        )
    return _stacked("key", key, heads), _stacked("query", query, heads)


def _inverse_root(values: Tensor) -> Tensor:
    """``1 / sqrt(s)`` of singular values, and 0 for those that are rounding: below ``m u`` times the largest."""
    kept = values > values.amax(-1, keepdim=True) * values.shape[-1] * torch.finfo(values.dtype).eps
    return torch.where(kept, values, torch.ones_like(values)).rsqrt() * kept


def _transform(key: Tensor, query: Tensor) -> Transform:
    """G of each head from ``W_K^T W_Q = U S V^T``: ``W_K' = sqrt(S) U^T``, ``W_Q' = sqrt(S) V^T``.

    By ``W_K^T = O_K R_K``, ``W_Q^T = O_Q R_Q`` and the SVD of the small ``R_K R_Q^T``: ``G = S^(-1/2) U^T R_K``,
    ``G^-T = S^(-1/2) V^T R_Q``. Then ``G R_Q^T = sqrt(S) V^T``.
    """
    # Small factors: W_K^T = O_K R_K and W_Q^T = O_Q R_Q, so that W_K^T W_Q = O_K (R_K R_Q^T) O_Q^T.
    (_, lower_key), (_, lower_query) = torch.linalg.qr(key.mT), torch.linalg.qr(query.mT)
    u, s, vt = torch.linalg.svd(lower_key @ lower_query.mT)
    # G = S^(-1/2) U^T R_K and G^-T = S^(-1/2) V^T R_Q.
    root = _inverse_root(s).unsqueeze(-1)
    factors = root * (u.mT @ lower_key), root * (vt @ lower_query)
    full = bool((root > 0).all()) and factors[0].shape[1] == key.shape[1]
    missing = key.shape[1] - factors[0].shape[1]  # a head with more rows than columns: the other rows become zero
    g, inverse = (torch.nn.functional.pad(part, (0, 0, 0, missing)) for part in factors)
    return Transform(g, inverse, full)


def _rotary_transform(key: Tensor, query: Tensor) -> Transform:
    """One factor for each pair (i, i + m/2), which equalises the Frobenius norms of its two rows in query and key."""
    heads, width, _ = key.shape
    require(width % 2 == 0, "width of a head", width, "an even number for rotary positions")
    norms = [part.square().sum(-1).view(heads, 2, width // 2).sum(1).sqrt() for part in (key, query)]
    full = bool((norms[0] > 0).all() and (norms[1] > 0).all())
    factor = torch.where((norms[0] > 0) & (norms[1] > 0), (norms[0] / norms[1]), torch.ones_like(norms[0])).sqrt().repeat(1, 2)
    return Transform(torch.diag_embed(factor), torch.diag_embed(1 / factor), full)


def _imbalance_of(key: Tensor, query: Tensor, transform: Transform) -> Imbalance:
    """The imbalance of heads whose balancing transform is known: the square of each singular value of G, or its inverse."""
    norms = query.square().sum((1, 2)).sqrt() / key.square().sum((1, 2)).sqrt()
    sizes = [torch.linalg.svdvals(part).square().amax(-1) for part in (transform.query, transform.key)]
    return Imbalance(norms, torch.maximum(*sizes).clamp_min(1.0))


def imbalance(key: Tensor, query: Tensor, heads: int = 1, rotary: bool = False) -> Imbalance:
    """Measure how far query and key weights are from balance, ``W_K W_K^T = W_Q W_Q^T``.

    Args:
        key, query: ``(r, d)``, heads stacked along the rows, as in `torch.nn.Linear`.
        heads: h, a divisor of r.
        rotary: whether rotary positions follow; then only the norms of each pair of rows are compared.
    Returns:
        Factors for each head; 1 in balance.
    Raises:
        ShapeMismatchError: weights of different shapes.
    Warns:
        GaugeWarning: a factor above 2.
    Example:
        >>> round(imbalance(torch.eye(2), 1.5 * torch.eye(2)).worst, 6)  # the ratio of the two
        1.5
    """
    pair = _pair_of(key, query, heads)
    outcome = _imbalance_of(*pair, _rotary_transform(*pair) if rotary else _transform(*pair))
    if outcome.worst > _UNBALANCED:
        warn(
            f"query and key: one is larger than the other by a factor of {outcome.worst:.3g}, expected at most {_UNBALANCED:g}; "
            "balance the weights before comparing spectra",
            GaugeWarning,
        )
    return outcome


def balance(
    key: Tensor,
    query: Tensor,
    key_bias: Tensor | None = None,
    query_bias: Tensor | None = None,
    heads: int = 1,
    rotary: bool = False,
) -> Balanced:
    """Balance a pair: ``W_K W_K^T = W_Q W_Q^T`` with the same ``W_K^T W_Q`` in every head, so one spectrum for all gauges.

    With the singular value decomposition ``W_K^T W_Q = U S V^T``, ``W_K' = sqrt(S) U^T`` and ``W_Q' = sqrt(S) V^T``. The result is
    unique up to one orthogonal matrix for each head, which leaves the spectrum unchanged, and has the smallest
    ``||W_K||_F^2 + ||W_Q||_F^2``. With rotary positions each pair of rows gets equal norms instead.

    Args:
        key, query: ``(r, d)``, heads stacked along the rows.
        key_bias, query_bias: ``(r,)``, transformed with the weights; None where there is none.
        heads: h, a divisor of r.
        rotary: whether rotary positions turn pairs (i, i + m/2) of queries and keys after these weights.
    Returns:
        The balanced weights and biases in float64, and the imbalance before.
    Raises:
        BadInputError: biases of a head with ``W_K^T W_Q`` of a rank below m: no invertible G balances it.
        ShapeMismatchError: weights of different shapes, or a bias that does not match.
    Source:
        Ours.
    Example:
        >>> balanced = balance(torch.tensor([[0.5]]), torch.tensor([[8.0]]))
        >>> balanced.key.abs().tolist(), balanced.query.abs().tolist()
        ([[2.0]], [[2.0]])
    """
    keys, queries = _pair_of(key, query, heads)
    transform = _rotary_transform(keys, queries) if rotary else _transform(keys, queries)
    biases: list[Tensor | None] = [None, None]
    for slot, (name, bias, map_) in enumerate((("key bias", key_bias, transform.key), ("query bias", query_bias, transform.query))):
        if bias is not None:
            expected = "full rank where there are biases; leave this pair as it is"
            require(transform.full, "key and query", Phrase("a head of lower rank"), expected)
            if bias.shape != key.shape[:1]:
                raise ShapeMismatchError(f"{name}: given shape {tuple(bias.shape)}, expected ({len(key)},)")
            biases[slot] = (map_ @ _stacked(name, bias, heads)).flatten()
    return Balanced(
        (transform.key @ keys).flatten(0, 1),
        (transform.query @ queries).flatten(0, 1),
        biases[0],
        biases[1],
        _imbalance_of(keys, queries, transform),
    )


def named(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor of this name in a dictionary.

    Raises:
        BadInputError: there is none of this name.
    """
    if name not in tensors:
        raise unknown("tensor", name, tensors)
    return tensors[name]


def balance_weights(
    tensors: Mapping[str, Tensor], pairs: Sequence[Pair], heads: int = 1, rotary: bool = False
) -> dict[str, Tensor]:
    """Balance all query and key pairs of a model.

    Args:
        tensors: weights by name, for instance ``model.state_dict()``; the result goes into ``model.load_state_dict``.
        pairs: names of the weights, see `Pair`.
        heads, rotary: heads and positions of every pair, see `balance`.
    Returns:
        A new dictionary with the pairs balanced in their own dtypes, and all other tensors as they were.
    Raises:
        BadInputError: an unknown name, or a pair that cannot be balanced.
    Example:
        >>> weights = {"k": torch.tensor([[0.5]]), "q": torch.tensor([[8.0]]), "v": torch.ones(1)}
        >>> balance_weights(weights, [Pair("k", "q")])["q"].abs()
        tensor([[2.]])
    """
    result = dict(tensors)
    for pair in pairs:
        members = [None if name is None else named(tensors, name) for name in Pair(*pair)]
        balanced = balance(named(tensors, pair[0]), named(tensors, pair[1]), members[2], members[3], heads, rotary)
        for name, value in zip(Pair(*pair), (balanced.key, balanced.query, balanced.key_bias, balanced.query_bias), strict=True):
            if name is not None and value is not None:
                result[name] = value.to(tensors[name].dtype)
    return result


def scaled(tensors: Mapping[str, Tensor], pairs: Sequence[Pair], factor: float) -> dict[str, Tensor]:
    """Apply the scalar gauge ``G = s I``: queries and their biases times s, keys and their biases divided by s.

    Args:
        tensors: weights by name.
        pairs: names of the weights, see `Pair`.
        factor: s, positive.
    Returns:
        A new dictionary.
    """
    require(0 < factor < float("inf"), "factor", factor, "a positive number")
    result = dict(tensors)
    for pair in pairs:
        for name, multiple in zip(Pair(*pair), (1 / factor, factor, 1 / factor, factor), strict=True):
            if name is not None:
                result[name] = named(tensors, name) * multiple
    return result


def gauge_sweep(
    measure: Callable[[dict[str, Tensor]], T],
    tensors: Mapping[str, Tensor],
    pairs: Sequence[Pair],
    factors: Sequence[float] = (1 / 3, 1.0, 3.0),
) -> dict[float, T]:
    """Evaluate a measure of the weights at several scalar gauges, to see how much it depends on the gauge.

    Args:
        measure: function of the weights by name, such as the largest eigenvalue of the Hessian at these weights.
        tensors: weights by name.
        pairs: names of the weights, see `Pair`.
        factors: s of each gauge, positive.
    Returns:
        Factor -> measure.
    Example:
        >>> weights = {"k": torch.ones(1, 1), "q": torch.ones(1, 1)}
        >>> gauge_sweep(lambda tensors: float(tensors["q"]), weights, [Pair("k", "q")], (1.0, 2.0))
        {1.0: 1.0, 2.0: 2.0}
    """
    return {factor: measure(scaled(tensors, pairs, factor)) for factor in factors}
