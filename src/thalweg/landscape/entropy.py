"""Matrix entropy of a spectrum, a measure of how many directions carry the curvature, of any order.

The eigenvalues become shares ``p_i = |lam_i| / sum_j |lam_j|`` (other sign rules: `SIGNS`), whose Renyi entropy S is the matrix
entropy; ``exp(S)`` is an effective rank. It is computed from eigenvalues (`matrix_entropy`) or, by stochastic Lanczos quadrature,
from products alone (`density_entropy`).

Shape letters: n number of eigenvalues, N probes, m nodes of a probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.density import SpectralDensity
from thalweg.errors import EmptySubspaceError, require, unknown
from thalweg.theory.inputs import spectrum

SIGNS = ("abs", "positive", "square")
"""Sign rules, the mass of an eigenvalue: ``|lam|``, ``max(lam, 0)``, ``lam^2``. `signed_split` treats both signs separately."""

_NEAR_ONE = 0.1
"""Orders this close to 1 are computed by ``log1p`` and ``expm1``, so that no digits cancel."""


@dataclass(frozen=True)
class MatrixEntropy:
    """Renyi entropy of a spectrum."""

    value: float
    """S, in nats."""
    standard_error: float
    """Standard error over probes, without quadrature error; 0 from eigenvalues."""
    order: float
    """alpha; order 1 is von Neumann's entropy."""
    sign: str
    """The sign rule, one of `SIGNS`."""
    dim: int
    """n, including eigenvalues that were zero or dropped."""
    negative_mass: float
    """Share of negative eigenvalues in ``sum |lam|`` ("square": in ``sum lam^2``), in [0, 1]."""
    dropped_mass: float
    """Share of the mass that the sign rule and the threshold dropped, in the same unit."""

    @property
    def effective_rank(self) -> float:
        """``exp(S)``: how many equal eigenvalues have this entropy (for order 1 Roy and Vetterli's effective rank)."""
        return math.exp(self.value)

    @property
    def normalised(self) -> float:
        """``S / log n`` in [0, 1]; NaN for one eigenvalue. Changes when zeros are appended, S does not."""
        return self.value / math.log(self.dim) if self.dim > 1 else math.nan

    @property
    def deficit(self) -> float:
        """``log n - S``, the difference to a flat spectrum, by which models of different size can be compared."""
        return math.log(self.dim) - self.value

    @property
    def bits(self) -> float:
        """S in bits."""
        return self.value / math.log(2)


@dataclass(frozen=True)
class SignedSplit:
    """The entropies of the positive and of the negative part of a spectrum, each normalised by its own sum."""

    positive: MatrixEntropy | None
    """None where no eigenvalue is positive."""
    negative: MatrixEntropy | None
    """None where no eigenvalue is negative."""
    negative_mass: float
    """Share of the negative ones in ``sum |lam|``, in [0, 1]."""


def renyi(shares: Tensor, order: float = 1.0) -> float:
    """``S_alpha = log(sum_i p_i^alpha) / (1 - alpha)``, in nats, with its limits at 0, 1 and infinity.

    ``S_0 = log #{p_i > 0}``, ``S_1 = -sum p log p``, ``S_2 = -log sum p^2``, ``S_inf = -log max p``. Not increasing in alpha; in
    ``[0, log n]``; ``0 log 0 = 0``.

    Args:
        shares: ``(n,)``, not negative, of any positive sum, by which they are divided.
        order: alpha, at least 0, may be infinite.
    Returns:
        The entropy in nats.
    Raises:
        EmptySubspaceError: no share is positive.
        BadInputError: a negative share or order.
    Example:
        >>> [round(renyi(torch.tensor([0.5, 0.25, 0.25]), order) / math.log(2), 3) for order in (0, 1, 2, math.inf)]
        [1.585, 1.5, 1.415, 1.0]

    Source:
        Renyi 1961.
    """
    require(order >= 0, "order", order, "a number of at least 0, or infinity")
    p = spectrum("shares", shares)
    require(bool((p >= 0).all()), "shares", float(p.min()) if len(p) else 0.0, "numbers of at least 0")
    p = p[p > 0]
    if not len(p):
        raise EmptySubspaceError("entropy: no eigenvalue is left, expected one that is not zero; see the sign rule and threshold")
    logs = p.log()
    logs = logs - logs.logsumexp(0)  # log p_i, normalised; logarithms neither overflow nor underflow
    if order == 0:
        return math.log(len(p))
    if order == math.inf:
        return abs(float(logs.max()))
    if order == 1:
        return abs(float(logs.exp() @ logs))
    if abs(order - 1) < _NEAR_ONE:
        return abs(float(torch.log1p(logs.exp() @ torch.expm1((order - 1) * logs))) / (1 - order))
    return abs(float((order * logs).logsumexp(0)) / (1 - order))


def weighed(values: Tensor, sign: str, zero_below: float) -> tuple[Tensor, Tensor]:
    """Masses of eigenvalues before and after the sign rule and the threshold.

    Args:
        values: eigenvalues or nodes, of any shape.
        sign: one of `SIGNS`.
        zero_below: eigenvalues of a smaller size get mass 0.
    Returns:
        Two tensors in the shape of the values.
    """
    if sign not in SIGNS:
        raise unknown("sign", sign, SIGNS)
    require(0 <= zero_below < math.inf, "zero_below", zero_below, "a number of at least 0")
    whole = values.square() if sign == "square" else values.abs()
    kept = whole * (values.abs() >= zero_below)
    return whole, kept * (values > 0) if sign == "positive" else kept


def matrix_entropy(values: Tensor, order: float = 1.0, sign: str = "abs", zero_below: float = 0.0) -> MatrixEntropy:
    """Entropy of a matrix from its eigenvalues: ``exp(S)`` is the effective number of directions that carry its curvature.

    ``p_i = |lam_i| / sum_j |lam_j|`` is the spectrum of ``|H| / tr|H|``, a density matrix; S is its Renyi entropy (`renyi`). It is
    invariant under ``H -> c H`` and ``H -> Q^T H Q`` and when zeros are appended. It does change with the gauge (the same function
    in other weights), and noise of the batch raises it: also report the value after zeroing what noise alone explains.

    Args:
        values: eigenvalues ``(n,)`` in any order, not all zero.
        order: alpha, at least 0, may be infinite. Order 0 counts every value that is not zero: give `zero_below`.
        sign: see `SIGNS`; `signed_split` treats both signs separately.
        zero_below: eigenvalues with ``|lam| < zero_below`` count as zeros, in units of the eigenvalues.
    Returns:
        The entropy in nats, with the negative and the dropped mass.
    Raises:
        EmptySubspaceError: no eigenvalue is left.
    Example:
        >>> entropy = matrix_entropy(torch.tensor([3.0, 3.0, -3.0, 0.0]))
        >>> round(entropy.effective_rank, 9), round(entropy.negative_mass, 9)
        (3.0, 0.333333333)

    Source:
        Roy and Vetterli 2007 (effective rank); the options are ours.
    """
    lam = spectrum("values", values)
    largest = float(lam.abs().max()) if len(lam) else 0.0
    if not largest:
        raise EmptySubspaceError("entropy: a spectrum of zeros, expected an eigenvalue that is not zero")
    masses, kept = weighed(lam / largest, sign, zero_below / largest)
    total, negative = float(masses.sum()), float((masses * (lam < 0)).sum())
    # 1 - kept / total would leave rounding where nothing is dropped
    return MatrixEntropy(renyi(kept, order), 0.0, order, sign, len(lam), negative / total, float((masses - kept).sum()) / total)


def signed_split(values: Tensor, order: float = 1.0, zero_below: float = 0.0) -> SignedSplit:
    """The entropies of the positive part ``H_+`` and of the negative part ``H_-`` of a matrix, and the negative share of the mass.

    Args:
        values: eigenvalues ``(n,)``, not all zero.
        order: alpha, see `renyi`.
        zero_below: eigenvalues of a smaller size count as zeros.
    Example:
        >>> split = signed_split(torch.tensor([1.0, 1.0, -2.0]))
        >>> round(split.positive.effective_rank, 9), round(split.negative.effective_rank, 9), split.negative_mass
        (2.0, 1.0, 0.5)
    """
    lam = spectrum("values", values)
    lam = lam * (lam.abs() >= zero_below)
    entropy = matrix_entropy(lam, order)
    parts = [matrix_entropy(side, order, "positive") if bool((side > 0).any()) else None for side in (lam, -lam)]
    return SignedSplit(parts[0], parts[1], entropy.negative_mass)


def density_entropy(density: SpectralDensity, order: float = 1.0, sign: str = "abs", zero_below: float = 0.0) -> MatrixEntropy:
    """Matrix entropy from products alone, by stochastic Lanczos quadrature, with the jackknife's standard error over probes.

    A sum over eigenvalues is n times a mean over probes of ``sum_j w_j f(node_j)``, with no quadrature error for "square" of
    order 2 (``tr H^2`` and ``tr H^4``). For other orders f has a kink or a bend at zero, the stronger the lower the order: that
    error comes from eigenvalues nearer to zero than the resolution and is not in the standard error. Order infinity takes the
    largest node, a lower bound of the largest eigenvalue, so S is too high; its standard error is that of the sum alone.

    Args:
        density: from `thalweg.curvature.density.spectral_density`, with at least 2 probes.
        order: alpha, at least 0, may be infinite.
        sign: see `SIGNS`.
        zero_below: 0, or at least the density's resolution. Order 0, ``log rank``, needs it: nodes are never exactly zero.
    Returns:
        The entropy in nats, with its standard error.
    Raises:
        ResolutionError: ``zero_below`` is finer than the density's resolution.
        EmptySubspaceError: no eigenvalue is left.
    Example:
        >>> from thalweg.curvature.density import spectral_density
        >>> density = spectral_density(torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)), steps=4)
        >>> round(density_entropy(density, order=2).effective_rank, 9)
        4.0

    Source:
        Ubaru, Chen and Saad 2017 (quadrature); the jackknife is ours.
    """
    require(order >= 0, "order", order, "a number of at least 0, or infinity")
    require(order > 0 or zero_below > 0, "zero_below", zero_below, "a positive number for order 0, as nodes are never exactly zero")
    if zero_below > 0:
        density.mass(-zero_below, zero_below)  # refuses what the density cannot resolve
    largest = float(density.nodes.abs().max())
    if not largest:
        raise EmptySubspaceError("entropy: a spectrum of zeros, expected an eigenvalue that is not zero")
    nodes = density.nodes / largest
    masses, kept = weighed(nodes, sign, zero_below / largest)
    total = float((density.weights * masses).sum())
    if not bool((density.weights * kept > 0).any()):
        raise EmptySubspaceError("entropy: no eigenvalue is left, expected one that is not zero; see the sign rule and threshold")
    if order == 1 and sign == "abs" and not zero_below:
        value, error = density.entropy()
    else:
        value, error = jackknife(_probe_sums(density.weights, kept, order), _combination(density.dim, float(kept.max()), order))
    negative = float((density.weights * masses * (nodes < 0)).sum()) / total
    dropped = float((density.weights * (masses - kept)).sum()) / total
    return MatrixEntropy(value, error, order, sign, density.dim, negative, dropped)


def _probe_sums(weights: Tensor, masses: Tensor, order: float) -> Tensor:
    """For each probe ``sum w x`` and the second sum that the order needs, ``(N, 2)``.

    That is ``sum w x^alpha``, near order 1 less ``sum w x``; ``sum w x log x`` for order 1.
    """
    if order == 0:
        second = (masses > 0).double()
    elif order == 1:
        second = torch.xlogy(masses, masses)
    elif abs(order - 1) < _NEAR_ONE:
        second = masses * torch.expm1((order - 1) * masses.clamp_min(1e-300).log())
    else:
        second = masses if order == math.inf else masses**order
    return torch.stack([(weights * masses).sum(1), (weights * second).sum(1)], 1)


def _combination(dim: int, largest: float, order: float) -> Callable[[Tensor], Tensor]:
    """The function that maps means of `_probe_sums` to S, ``(..., 2) -> (...)``.

    With Z the total mass it is ``log Z`` plus a function of the ratio of the two sums.
    """

    def entropy(means: Tensor) -> Tensor:
        log_total, ratio = torch.log(dim * means[..., 0]), means[..., 1] / means[..., 0]
        if order == 1:
            return log_total - ratio
        if order == math.inf:
            return log_total - math.log(largest)
        return log_total + (torch.log1p(ratio) if abs(order - 1) < _NEAR_ONE else torch.log(ratio)) / (1 - order)

    return entropy


def jackknife(rows: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """A function of the mean of independent rows, and its standard error by the jackknife.

    ``se^2 = (N - 1)/N sum_i (f_i - mean f)^2`` with f_i the function of the mean without row i.

    Args:
        rows: ``(N, d)``, N of at least 2.
        function: of means, ``(..., d) -> (...)``.
    Returns:
        The function of the mean of all rows, and its standard error.
    """
    count = len(rows)
    require(count >= 2, "probes", count, "at least 2, as one has no standard error")
    without = function((rows.sum(0) - rows) / (count - 1))
    variance = (count - 1) / count * ((without - without.mean()) ** 2).sum()
    return float(function(rows.mean(0))), float(variance.sqrt())
