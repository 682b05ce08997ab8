"""The spectral density of an operator from products alone, by stochastic Lanczos quadrature, and its resolution.

The density is ``rho(x) = (1/P) sum_i delta(x - lambda_i)``. For a random unit vector v, ``E[(u_i . v)^2] = 1/P``, so rho is the
mean over v of the spectral measure ``sum_i (u_i . v)^2 delta(x - lambda_i)``. Lanczos started at v gives the Gauss quadrature of
that measure: m nodes and weights (`thalweg.curvature.lanczos`). Averages over n probes estimate any smooth function of the
spectrum; features finer than the distance of the nodes are not resolved.

Shape letters: P dimension, n probes, m Lanczos steps, G grid points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.bounds import of_their_kind
from thalweg.curvature.lanczos import ROUNDING, breakdown, lanczos
from thalweg.curvature.operator import Operator, as_operator
from thalweg.curvature.probes import gaussian, require_probes
from thalweg.errors import Phrase, ResolutionError, require
from thalweg.reprs import short_repr


@short_repr
@dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalue distribution as n sets of weighted nodes, by stochastic Lanczos quadrature."""

    nodes: Tensor
    """Ritz values ``(n, m)``, ascending in each row; rows that ended early are filled up with copies of weight 0."""
    weights: Tensor
    """``(n, m)``, each row sums to 1."""
    resolution: float
    """Distance of neighbouring nodes in the middle of the spectrum, ``pi / 2 * spread / m``; finer features are not resolved.

    The spread is that of all nodes. Nodes of m steps are distributed like the cosines of equally spaced angles (the arcsine law),
    so in the middle they are ``pi / 2`` times as far apart as on average. One far outlier makes the resolution coarser everywhere:
    this is cautious on purpose. Where every probe exhausted its Krylov space, all nodes are eigenvalues, with the weights of the
    probe: it is then zero if there are P nodes. If there are fewer, it is the distance below which Lanczos does not tell
    eigenvalues apart, 7e-6 of the largest in float32 and 2e-12 in float64.
    """
    dim: int
    """P, the dimension of the operator."""
    products: int
    """Number of products of the operator with one vector."""
    rounding: float = 0.0
    """Error of a node by the arithmetic of the products, in units of the eigenvalues."""
    exhausted: bool = False
    """Whether every probe exhausted its Krylov space."""

    @property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest node; the spectrum reaches at least as far."""
        return float(self.nodes.min()), float(self.nodes.max())

    def mass(self, low: float, high: float) -> tuple[float, float]:
        """Share of the eigenvalues in ``[low, high]``, and its standard error over probes.

        ``mean over probes of sum_j w_j [low <= node_j <= high]``. Each end of the window that lies inside of the spectrum is
        uncertain by about one resolution, so the part of the window inside of the spectrum must be at least that wide for each
        such end. Counting ``|lambda| <= eps`` therefore needs ``eps >= resolution``. A node within `rounding` of an end is in the
        window; where nodes are eigenvalues, one that is nearer to an end than can be told apart is refused. The standard error is
        that of the probes; nodes near an end add an error of their own.

        Args:
            low: lower end, may be ``-inf``.
            high: upper end, above ``low``, may be ``inf``.
        Returns:
            The share, from 0 to 1, and its standard error.
        Raises:
            ResolutionError: the window is too narrow to distinguish it from an empty or a full one.
        """
        require(low < high, "window", (low, high), "low below high")
        bottom, top = self.extremes
        inner_ends = (bottom < low < top) + (bottom < high < top)
        width, needed = min(high, top) - max(low, bottom), inner_ends * self.resolution
        if inner_ends and width < needed:
            raise ResolutionError(
                f"mass: given a window of width {width:.3g} inside of the spectrum, expected at least {needed:.3g} "
                f"({inner_ends} x the resolution, {self.resolution:.3g}); take more steps, or the eigenvalues of the exact Hessian"
            )
        for end in (low, high) if self.exhausted else ():
            apart = (self.nodes - end).abs()
            near = apart[(apart > self.rounding) & (apart < self.resolution)]
            if len(near):
                raise ResolutionError(
                    f"mass: given an end at {end:.6g}, which is {float(near[0]):.1e} from a node; eigenvalues less than "
                    f"{self.resolution:.1e} apart are not told from each other here; move the end, or compute in float64"
                )
        inside = (self.nodes >= low - self.rounding) & (self.nodes <= high + self.rounding)
        shares = (self.weights * inside).sum(1)
        return float(shares.mean()), float(shares.std()) / math.sqrt(len(shares))

    def curve(self, grid: Tensor, width: float | None = None) -> Tensor:
        """The density smoothed by a Gaussian, at the points of a grid.

        ``mean over probes of sum_j w_j N(x; node_j, width^2)``.

        Args:
            grid: x, ``(G,)``, in units of the eigenvalues.
            width: the Gaussian's standard deviation, at least the resolution; None takes the resolution.
        Returns:
            ``(G,)`` float64, in shares per unit of the eigenvalues; integrates to 1.
        Raises:
            ResolutionError: the width is below the resolution.
        """
        width = self.resolution if width is None else width
        require(width > 0, "width", width, "a positive number (the resolution is 0 here, as the nodes are exact)")
        if width < self.resolution:
            raise ResolutionError(
                f"curve: given width {width:.3g}, expected at least the resolution, {self.resolution:.3g}; take more steps, "
                "or the eigenvalues of the exact Hessian"
            )
        points, nodes = grid.to(self.nodes).unsqueeze(1), self.nodes.reshape(1, -1)
        bumps = torch.exp(-(((points - nodes) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        return bumps @ self.weights.reshape(-1) / len(self.weights)

    def entropy(self) -> tuple[float, float]:
        """Matrix entropy of order 1 in nats, and its standard error over probes.

        ``S_1 = -sum_i p_i log p_i`` with ``p_i = |lambda_i| / sum_j |lambda_j|`` is
        ``log Z - sum_i |lambda_i| log|lambda_i| / Z`` with ``Z = sum_i |lambda_i|``; both sums are P times a mean over
        probes. The standard error is the jackknife's over probes. It does not contain the error of the quadrature, which
        comes from eigenvalues nearer to zero than the resolution, where ``x log x`` bends.

        Raises:
            BadInputError: a spectrum of zeros.
        """
        size = self.nodes.abs()
        first, second = (self.weights * size).sum(1), (self.weights * torch.xlogy(size, size)).sum(1)
        require(float(first.min()) > 0, "entropy", Phrase("a spectrum of zeros"), "at least one eigenvalue that is not zero")
        count = len(first)
        # Jackknife: se^2 = (n - 1)/n sum_i (S_i - mean S)^2, S_i the entropy without probe i.
        value = self._entropy(first.mean(), second.mean())
        left_out = self._entropy((first.sum() - first) / (count - 1), (second.sum() - second) / (count - 1))
        variance = (count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()
        return float(value), float(variance.sqrt())

    def _entropy(self, mean_size: Tensor, mean_log: Tensor) -> Tensor:
        """``log Z - (sum |lambda| log |lambda|) / Z`` from the means over probes of both sums, divided by P."""
        return torch.log(self.dim * mean_size) - mean_log / mean_size


@of_their_kind
def spectral_density(operator: Operator | Tensor, steps: int = 80, probes: int = 10, seed: int = 0) -> SpectralDensity:
    """Weighted nodes whose mean over probes is the eigenvalue distribution, by stochastic Lanczos quadrature.

    For each probe v of unit length, Lanczos gives the Gauss quadrature of ``sum_i (u_i . v)^2 delta(lambda_i)``, whose mean
    over directions is the distribution itself. Probes are Gaussian, that is, uniform in direction: the accuracy then depends on
    the eigenvalues alone, and no eigenvector is orthogonal to a probe, as happens with random signs (for the eigenvector
    ``(1, 1, 0, ...)``, half of the time). Signs would have less variance for a nearly diagonal operator (`trace`).
    Costs n m products, ``4 n m^2 P`` operations and a basis of ``m P`` entries in the dtype of the products.

    Args:
        operator: symmetric, or its matrix ``(P, P)``; symmetry of an operator is trusted.
        steps: m, products for each probe, at least 1; more than P count as P.
        probes: n, at least 2.
        seed: seed of the probes.
    Returns:
        Nodes and weights, in units of the operator's eigenvalues, with the resolution.
    Raises:
        BadInputError: fewer than 2 probes or 1 step.
        NonFiniteError: NaN or infinity in a product.
    Example:
        >>> density = spectral_density(torch.diag(torch.tensor([1.0, 1.0, 1.0, 5.0])), steps=4)
        >>> density.resolution < 1e-4, [round(place, 5) for place in density.extremes]
        (True, [1.0, 5.0])

    Source:
        Ghorbani, Krishnan and Xiao 2019; Ubaru, Chen and Saad 2017. The refusals are ours.
    """
    operator = as_operator(operator)
    require_probes(probes)
    rows, taken, exact = [], 0, True
    for index in range(probes):
        krylov = lanczos(operator, gaussian(operator, index, seed), steps)
        nodes, weights, _ = krylov.quadrature()
        rows.append((nodes, weights / weights.sum()))  # weights sum to ||v||^2, which is not 1 for a Gaussian probe
        taken, exact = taken + len(nodes), exact and krylov.exhausted
    # Probes that exhausted their Krylov space early have fewer nodes: fill up with the last node at weight 0.
    longest = max(len(nodes) for nodes, _ in rows)
    nodes = torch.stack([torch.cat([nodes, nodes[-1:].expand(longest - len(nodes))]) for nodes, _ in rows])
    weights = torch.stack([torch.nn.functional.pad(weights, (0, longest - len(weights))) for _, weights in rows])
    spread, rounding = float(nodes.max() - nodes.min()), ROUNDING * torch.finfo(operator.dtype).eps * float(nodes.abs().max())
    limit = breakdown(operator.dtype) * float(nodes.abs().max())
    resolution = math.pi / 2 * spread / longest if not exact else 0.0 if longest == operator.dim else limit
    return SpectralDensity(nodes, weights, resolution, operator.dim, taken, rounding, exact)
