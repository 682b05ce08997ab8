"""How much one Hessian tells about the next: mutual information of samples, and of quadratic forms of common probes.

Shape letters: n samples, d features, P dimension, k columns of a frame.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import gaussian
from thalweg.errors import NegativeMIWarning, ShapeMismatchError, require
from thalweg.landscape.entropy import renyi
from thalweg.landscape.similarity import pair
from thalweg.streams import stream
from thalweg.theory.inputs import finite, spectrum, symmetric

_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Of the largest eigenvalue: how negative the smallest of a Gram matrix may be by rounding alone."""

_PERMUTATIONS = 20
"""Fewest permutations of a baseline."""


class SortedPairsWarning(UserWarning):
    """Sorted eigenvalues were paired by rank: independent spectra then look dependent."""


@dataclass(frozen=True)
class Information:
    """Mutual information of n pairs, beside what independent pairs give by the same estimator."""

    value: float
    """I, in nats."""
    baseline: float
    """Mean of I over random pairings of the same samples; above zero, as n is finite."""
    baseline_deviation: float
    """Standard deviation of I over random pairings."""
    bandwidth: float
    """sigma of the kernel, in standard deviations of the samples."""
    products: int
    """Operator times one vector, counted; 0 where the samples were given."""

    @property
    def excess(self) -> float:
        """I less its baseline."""
        return self.value - self.baseline

    @property
    def z_score(self) -> float:
        """The excess in standard deviations of the baseline."""
        return self.excess / self.baseline_deviation if self.baseline_deviation else math.copysign(math.inf, self.excess)


def gaussian_gram(points: Tensor, bandwidth: float) -> Tensor:
    """``K_ij = exp(-||x_i - x_j||^2 / (2 sigma^2))``, ``(n, n)``, of points ``(n,)`` or ``(n, d)``.

    Information falls with the bandwidth, from log n to 0 whatever the data: keep it fixed over checkpoints.
    """
    require(0 < bandwidth < math.inf, "bandwidth", bandwidth, "a positive number")
    if points.dim() not in (1, 2) or not len(points):
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (n,) or (n, d) with n of at least 1")
    x = finite("points", points).reshape(len(points), -1) / bandwidth
    return torch.exp(-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() / 2)


def _density_matrix(name: str, gram: Tensor) -> Tensor:
    """``K_ij / (n sqrt(K_ii K_jj))``, trace 1, ``(n, n)``.

    Raises:
        BadInputError: not positive semidefinite, or a diagonal that is not positive: the product entry by entry of two such
            matrices (of raw Hessians, say) has no entropy.
    """
    matrix = symmetric(name, gram)
    diagonal = matrix.diagonal()
    expected = "a positive diagonal and no negative eigenvalue; a Hessian needs quadratic_form_information or gaussian_information"
    require(float(diagonal.min()) > 0, f"{name}, smallest diagonal entry", float(diagonal.min()), expected)
    scaled = matrix / (len(matrix) * (diagonal.unsqueeze(1) * diagonal).sqrt())
    values = torch.linalg.eigvalsh(scaled)
    low = float(values[0] / values[-1])
    require(low >= -_ROUNDING[gram.dtype], f"{name}, smallest over largest eigenvalue", low, expected)
    return scaled


def _density_matrix_entropy(matrix: Tensor, order: float) -> float:
    """Renyi entropy of a density matrix, rounding below zero cut off."""
    return renyi(torch.linalg.eigvalsh(matrix).clamp_min(0), order)


def gram_entropy(gram: Tensor, order: float = 1.0) -> float:
    """``S_alpha = log tr(A^alpha) / (1 - alpha)`` with ``A_ij = K_ij / (n sqrt(K_ii K_jj))``, in nats.

    Example:
        >>> round(math.exp(gram_entropy(torch.eye(5))), 9)  # five points that the kernel tells apart
        5.0

    Source:
        Sanchez Giraldo, Rao and Principe 2015 (arXiv 1211.2459); theirs is in bits.
    """
    return _density_matrix_entropy(_density_matrix("gram", gram), order)


def mutual_information(first: Tensor, second: Tensor, order: float = 1.0) -> float:
    """``I_alpha = S_alpha(A) + S_alpha(B) - S_alpha(A o B / tr(A o B))`` of two Gram matrices of the same n samples, in nats.

    For order 1, ``0 <= I <= min(S_A, S_B)``: n A o B has the spectrum of the separable state ``(1/n) sum_i |x_i y_i><x_i y_i|``, of
    which A and B are marginals, so von Neumann entropy is subadditive and no marginal exceeds the whole. For other orders only the
    upper bound is left (the joint is majorised by A and by B); Renyi entropy is not subadditive, and I may be negative.

    Args:
        first: positive semidefinite with a positive diagonal, ``(n, n)``.
        second: of the same samples in the same order, ``(n, n)``.
        order: alpha.
    Warns:
        NegativeMIWarning: an order other than 1.
    Example:
        >>> round(mutual_information(torch.eye(4), torch.eye(4)) / math.log(4), 9)  # each sample tells itself
        1.0

    Source:
        Sanchez Giraldo, Rao and Principe 2015; they take order 1.01, which behaves like 1. The bounds' proof is ours.
    """
    if first.shape != second.shape:
        raise ShapeMismatchError(f"grams: given shapes {tuple(first.shape)} and {tuple(second.shape)}, expected the same")
    if order != 1:
        message = f"order: given {order}, mutual information may be negative for orders other than 1; use order=1"
        warnings.warn(message, NegativeMIWarning, stacklevel=2)
    a, b = _density_matrix("first", first), _density_matrix("second", second)
    return _density_matrix_entropy(a, order) + _density_matrix_entropy(b, order) - _joint_entropy(a, b, order)


def _joint_entropy(first: Tensor, second: Tensor, order: float = 1.0) -> float:
    """Of two density matrices with a diagonal of 1/n: that of their product entry by entry, times n."""
    return _density_matrix_entropy(first * second * len(first), order)


def sample_information(
    first: Tensor, second: Tensor, permutations: int = 20, bandwidth: float | None = None, seed: int = 0
) -> Information:
    """Mutual information of n pairs of numbers (order 1, Gaussian kernels), and its baseline over random pairings.

    Samples are standardised and the bandwidth depends on n alone, so it is the same at every checkpoint.

    Args:
        first: ``(n,)``, n of at least 3.
        second: ``(n,)``.
        permutations: of the baseline, at least 20.
        bandwidth: sigma, in standard deviations; None takes Silverman's ``1.06 n^(-1/5)``.
        seed: of the permutations.
    """
    x, y = spectrum("first", first), spectrum("second", second)
    if x.shape != y.shape:
        raise ShapeMismatchError(f"samples: {len(x)} and {len(y)}, expected the same number")
    require(len(x) >= 3, "samples", len(x), "at least 3 pairs")
    require(permutations >= _PERMUTATIONS, "permutations", permutations, f"at least {_PERMUTATIONS}")
    sigma = 1.06 * len(x) ** -0.2 if bandwidth is None else bandwidth
    a, b = (gaussian_gram(_standardised(samples), sigma) / len(x) for samples in (x, y))
    separate = _density_matrix_entropy(a, 1) + _density_matrix_entropy(b, 1)
    draw, permuted = stream(seed, "bootstrap"), []
    for _ in range(permutations):
        order = torch.from_numpy(draw.permutation(len(x)))
        permuted.append(separate - _joint_entropy(a, b[order][:, order]))
    baseline = torch.tensor(permuted, dtype=torch.float64)
    return Information(separate - _joint_entropy(a, b), float(baseline.mean()), float(baseline.std()), sigma, 0)


def _standardised(samples: Tensor) -> Tensor:
    """Mean 0 and variance 1, refused where nothing varies."""
    deviation = float(samples.std())
    require(deviation > 1e-12 * float(samples.abs().max()), "samples, standard deviation", deviation, "samples that vary")
    return (samples - samples.mean()) / deviation


def quadratic_form_information(
    first: Operator | Tensor,
    second: Operator | Tensor,
    probes: int = 400,
    permutations: int = 20,
    bandwidth: float | None = None,
    seed: int = 0,
) -> Information:
    """Mutual information of ``z^T A z`` and ``z^T B z`` over Gaussian probes z: products only, any signs.

    Their correlation is ``tr(A B) / (||A|| ||B||)``, so the information falls with the cosine of the two matrices, to the baseline
    for an independently rotated copy of trace zero. Traces count as common: both forms then grow with ``||z||^2``. A change of
    basis that both share changes nothing but the probes.

    Args:
        first: A, ``(P, P)`` or an operator.
        second: B, of the same dimension.
        probes: n; two products each. The baseline falls slowly with n (0.14 at 400): compare at the same n.
    Source:
        Ours; the functional is Sanchez Giraldo, Rao and Principe's.
    """
    a, b = pair(first, second)
    require(probes >= 3, "probes", probes, "a whole number of at least 3")
    forms = []
    for index in range(probes):
        z = gaussian(a, index, seed)
        forms.append(torch.stack([z @ (a @ z), z @ (b @ z)]))
    x, y = torch.stack(forms, 1)
    information = sample_information(x, y, permutations, bandwidth, seed)
    return Information(information.value, information.baseline, information.baseline_deviation, information.bandwidth, 2 * probes)


def sorted_pairs_information(first: Tensor, second: Tensor, permutations: int = 20, seed: int = 0) -> Information:
    """The paper's pairing, for comparison only: eigenvalues of two spectra as samples, paired by rank.

    Sorting creates the dependence: two independent spectra look almost like twice the same one. The baseline here is that of a
    random pairing of the same values.

    Warns:
        SortedPairsWarning: always.
    """
    message = "sorted: eigenvalues paired by rank look dependent whatever they are; use quadratic_form_information"
    warnings.warn(message, SortedPairsWarning, stacklevel=2)
    return sample_information(first.sort().values, second.sort().values, permutations, None, seed)
