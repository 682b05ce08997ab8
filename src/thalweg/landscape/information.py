"""How much one Hessian says about another: mutual information of samples, and of quadratic forms of common probes.

Shape letters: n samples, d features, P dimension, k columns of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.operator import Operator
from thalweg.curvature.probes import gaussian
from thalweg.errors import NegativeMIWarning, ShapeMismatchError, require, warn
from thalweg.landscape.entropy import renyi
from thalweg.landscape.similarity import pair
from thalweg.streams import stream
from thalweg.theory.inputs import finite, spectrum, symmetric

_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Largest size of a negative eigenvalue of a Gram matrix that counts as rounding, relative to its largest eigenvalue."""

_PERMUTATIONS = 20
"""Fewest permutations of a baseline."""


class SortedPairsWarning(UserWarning):
    """Eigenvalues were sorted and paired by rank, which makes independent spectra look dependent."""


@dataclass(frozen=True)
class Information:
    """Mutual information of n pairs, with the value that independent pairs give by the same estimator."""

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
        """I minus its baseline, in nats."""
        return self.value - self.baseline

    @property
    def z_score(self) -> float:
        """The excess in standard deviations of the baseline."""
        return self.excess / self.baseline_deviation if self.baseline_deviation else math.copysign(math.inf, self.excess)


def gaussian_gram(points: Tensor, bandwidth: float) -> Tensor:
    """The Gram matrix of Gaussian kernels, ``K_ij = exp(-||x_i - x_j||^2 / (2 sigma^2))``.

    Information falls with the bandwidth from log n to 0 whatever the data: keep it fixed over checkpoints.

    Args:
        points: x, ``(n,)`` or ``(n, d)``.
        bandwidth: sigma, positive, in units of the points.
    Returns:
        ``(n, n)`` float64.
    """
    require(0 < bandwidth < math.inf, "bandwidth", bandwidth, "a positive number")
    if points.dim() not in (1, 2) or not len(points):
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (n,) or (n, d) with n of at least 1")
    x = finite("points", points).reshape(len(points), -1) / bandwidth
    return torch.exp(-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() / 2)


def _density_matrix(name: str, gram: Tensor) -> Tensor:
    """A Gram matrix normalised to trace 1, ``K_ij / (n sqrt(K_ii K_jj))``, ``(n, n)``.

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
    """Renyi entropy of a density matrix from its eigenvalues; negative ones, which are rounding, count as 0."""
    return renyi(torch.linalg.eigvalsh(matrix).clamp_min(0), order)


def gram_entropy(gram: Tensor, order: float = 1.0) -> float:
    """Matrix entropy of a Gram matrix: ``S_alpha = log tr(A^alpha) / (1 - alpha)`` with ``A_ij = K_ij / (n sqrt(K_ii K_jj))``.

    Args:
        gram: K, positive semidefinite with a positive diagonal, ``(n, n)``.
        order: alpha, at least 0.
    Returns:
        The entropy in nats, from 0 to log n.
    Raises:
        BadInputError: not positive semidefinite, or a diagonal that is not positive.
    Example:
        >>> round(math.exp(gram_entropy(torch.eye(5))), 9)  # the kernel distinguishes all five points
        5.0

    Source:
        Sanchez Giraldo, Rao and Principe 2015 (arXiv 1211.2459); theirs is in bits.
    """
    return _density_matrix_entropy(_density_matrix("gram", gram), order)


def mutual_information(first: Tensor, second: Tensor, order: float = 1.0) -> float:
    """Mutual information of two Gram matrices of the same n samples, in nats.

    ``I_alpha = S_alpha(A) + S_alpha(B) - S_alpha(A o B / tr(A o B))``, with o the product entry by entry.

    For order 1, ``0 <= I <= min(S_A, S_B)``: n A o B has the spectrum of the separable state ``(1/n) sum_i |x_i y_i><x_i y_i|``, of
    which A and B are marginals, so von Neumann entropy is subadditive and no marginal exceeds the whole. For other orders only the
    upper bound holds (the joint is majorised by A and by B): Renyi entropy is not subadditive, and I may be negative.

    Args:
        first: positive semidefinite with a positive diagonal, ``(n, n)``.
        second: Gram matrix of the same samples in the same order, ``(n, n)``.
        order: alpha, at least 0.
    Raises:
        ShapeMismatchError: matrices of different shapes.
        BadInputError: not positive semidefinite, or a diagonal that is not positive.
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
        warn(message, NegativeMIWarning)
    a, b = _density_matrix("first", first), _density_matrix("second", second)
    return _density_matrix_entropy(a, order) + _density_matrix_entropy(b, order) - _joint_entropy(a, b, order)


def _joint_entropy(first: Tensor, second: Tensor, order: float = 1.0) -> float:
    """Joint entropy of two density matrices with a diagonal of 1/n: the entropy of n times their product entry by entry."""
    return _density_matrix_entropy(first * second * len(first), order)


def sample_information(
    first: Tensor, second: Tensor, permutations: int = 20, bandwidth: float | None = None, seed: int = 0
) -> Information:
    """Mutual information of n pairs of numbers (order 1, Gaussian kernels), and its baseline over random pairings.

    ``I = S(X) + S(Y) - S(X, Y)`` with matrix entropies of Gram matrices. Samples are standardised and the bandwidth depends on n
    alone, so it is the same at every checkpoint. Costs ``permutations + 3`` eigenvalue problems of size n.

    Args:
        first: ``(n,)``, n of at least 3.
        second: ``(n,)``, paired with ``first`` by position.
        permutations: number of random pairings of the baseline, at least 20.
        bandwidth: sigma, in standard deviations; None takes Silverman's ``1.06 n^(-1/5)``.
        seed: seed of the permutations.
    Returns:
        The information in nats, with its baseline.
    Raises:
        ShapeMismatchError: different numbers of samples.
        BadInputError: too few pairs or permutations, or samples that do not vary.
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
    """Samples scaled to mean 0 and variance 1; refused where they do not vary."""
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
    """Mutual information of ``z^T A z`` and ``z^T B z`` over common Gaussian probes z, from products only, for any signs.

    The correlation of the two forms is ``tr(A B) / (||A|| ||B||)``, so the information falls with the cosine of the two matrices,
    to the baseline for an independently rotated copy of trace zero. Traces count as common to both: both forms then grow with
    ``||z||^2``. A change of basis that both share changes nothing but the probes. Costs 2 n products.

    Args:
        first: A, ``(P, P)`` or an operator.
        second: B, of the same dimension.
        probes: n, at least 3. The baseline falls slowly with n (0.14 at 400): compare at the same n.
        permutations, bandwidth, seed: as for `sample_information`.
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
    """Mutual information of eigenvalues paired by rank, as in arXiv 2510.10089; for comparison only.

    Sorting creates the dependence: two independent spectra look almost like the same one twice. The baseline is that of a random
    pairing of the same values.

    Args:
        first, second: eigenvalues ``(n,)`` of two matrices.
        permutations, seed: as for `sample_information`.
    Warns:
        SortedPairsWarning: always.
    """
    message = "sorted: eigenvalues paired by rank look dependent whatever they are; use quadratic_form_information"
    warn(message, SortedPairsWarning)
    return sample_information(first.sort().values, second.sort().values, permutations, None, seed)
