"""Directions for slices of a loss: random ones, eigenvectors, river and valley, and the principal plane of a trajectory.

Shape letters: P number of chosen parameters, K points of a trajectory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.eigenpairs import EigenPairs
from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require, unknown
from thalweg.reprs import short_repr
from thalweg.streams import stream
from thalweg.theory.inputs import finite, shaped
from thalweg.vectors import Layout

_VECTORS = ("zero", "scale")
"""How biases and weights of normalisations enter a filter-normalised direction, see `filter_normalised`."""
_FLAT = 1e-12
"""Second over first squared singular value below which a trajectory is a line: the Gram matrix resolves 1e-16 of the first."""
_PARALLEL = 1 - 1e-6
"""Absolute cosine above which two directions span no plane."""


@short_repr
@dataclass(frozen=True)
class Direction:
    """A direction in parameter space, with a name."""

    vector: Tensor
    """``(P,)`` float64, not zero; its length is the unit of positions along it."""
    name: str
    """Name for captions and records."""

    @property
    def length(self) -> float:
        """Euclidean norm, in units of theta."""
        return float(self.vector.norm())


def direction(vector: Tensor | Direction, dim: int, name: str = "direction") -> Direction:
    """A checked direction, from a vector or from a direction, which keeps its name.

    Args:
        vector: ``(P,)``, not zero.
        dim: P.
        name: name of a vector.
    Raises:
        BadInputError: zero, NaN or infinity, or another length than P.
    """
    entries, name = (vector.vector, vector.name) if isinstance(vector, Direction) else (vector, name)
    v = shaped(name, entries, dim)
    if not v.any():
        raise EmptySubspaceError(f"{name}: given the zero vector, expected a direction that moves a parameter")
    return Direction(v, name)


def unit(vector: Tensor | Direction, dim: int, name: str = "direction") -> Direction:
    """The direction at length 1, so that positions along it are distances in parameter space; arguments as for `direction`."""
    checked = direction(vector, dim, name)
    # Scaled first, so that the squares of tiny or huge entries neither vanish nor overflow.
    scaled = checked.vector / checked.vector.abs().max()
    return Direction(scaled / scaled.norm(), checked.name)


def filter_normalised(layout: Layout, point: Tensor, seed: int = 0, number: int = 0, vectors: str = "zero") -> Direction:
    """A Gaussian direction in which each filter is as long as that filter of the weights.

    ``d_i <- d_i / ||d_i|| * ||w_i||`` for each index i of a parameter's first dimension: a row of a matrix, a token of an
    embedding, an output channel of a convolution. Position 1 then changes every filter by its own length, and a scaling of filters
    that a normalisation undoes does not change the picture. A filter of zeros gets a direction of zeros.

    Args:
        layout: names and shapes of the chosen parameters (`Slices.layout`).
        point: the weights, ``(P,)``.
        seed: seed of the stream "probes".
        number: number of the direction within the seed's stream; two of them span a plane.
        vectors: "zero" does not move parameters of one dimension or none (biases, weights of normalisations), as in Li et al.;
            "scale" treats each as one filter.
    Raises:
        EmptySubspaceError: all filters are zero, or there are none.
    Source:
        Li et al. 2018, arXiv 1712.09913, section 4. With biases not left out, their code copies them; "scale" is ours.
    """
    if vectors not in _VECTORS:
        raise unknown("vectors", vectors, _VECTORS)
    weights = layout.split(shaped("point", point, layout.dim))
    drawn = torch.from_numpy(stream(seed, "probes", number).standard_normal(layout.dim)).to(point.device)
    scaled = []
    for name, part in layout.split(drawn).items():
        if part.dim() <= 1 and vectors == "zero":
            scaled.append(torch.zeros_like(part))
            continue
        rows = part.reshape(len(part) if part.dim() > 1 else 1, -1)
        scaled.append(rows / rows.norm(dim=1, keepdim=True) * weights[name].reshape(rows.shape).norm(dim=1, keepdim=True))
    return direction(layout.join(scaled), layout.dim, f"random {number}, filter-normalised")


def eigendirection(pairs: EigenPairs, index: int) -> Direction:
    """One unit eigenvector as a direction; its name contains its eigenvalue.

    Args:
        pairs: from `thalweg.curvature.eigenpairs.eigenpairs`.
        index: number of the pair from 0, in the pairs' order.
    Raises:
        BadInputError: there is no such pair.
    Example:
        >>> from thalweg.curvature.eigenpairs import eigenpairs
        >>> eigendirection(eigenpairs(torch.diag(torch.tensor([1.0, 4.0]).double()), k=1), 0).name
        'eigenvector 0 (4)'
    """
    count = len(pairs.values)
    require(0 <= index < count, "index", index, f"a whole number from 0 to {count - 1}, there are {count} pairs")
    return unit(pairs.vectors[:, index], len(pairs.vectors), f"eigenvector {index} ({float(pairs.values[index]):.4g})")


def river_and_valley(river: Tensor, valley: Tensor) -> tuple[Direction, Direction]:
    """The directions "river" and "valley" at length 1; their angle is recorded in `thalweg.landscape.slices.Plane`.

    Args:
        river: ``(P,)``, not zero.
        valley: ``(P,)``, not zero.
    Raises:
        ShapeMismatchError: vectors of different shapes.
    """
    if river.dim() != 1 or river.shape != valley.shape:
        raise ShapeMismatchError(
            f"river and valley: given shapes {tuple(river.shape)} and {tuple(valley.shape)}, expected both (P,)"
        )
    return unit(river, len(river), "river"), unit(valley, len(valley), "valley")


@short_repr
@dataclass(frozen=True)
class Principal:
    """The plane that contains the largest share of a trajectory's squared displacement."""

    first: Direction
    """Direction of unit length; its component of largest magnitude is positive."""
    second: Direction
    """Direction of unit length at a right angle to the first, with its component of largest magnitude positive."""
    centre: Tensor
    """``(P,)``; displacements are measured from here, and the plane goes through it."""
    coordinates: Tensor
    """Coordinates of the points in the plane, ``(K, 2)``, in units of theta."""
    shares: tuple[float, float]
    """Shares of the squared displacement along the first and the second direction."""

    @property
    def explained(self) -> float:
        """Share of the squared displacement from the centre that lies in the plane."""
        return sum(self.shares)


def principal(points: Tensor, centre: Tensor | None = None) -> Principal:
    """The first two principal directions of a trajectory.

    They are the singular vectors of the displacements X ``(K, P)``, from the eigenvectors u of the small Gram matrix ``X X^T``:
    ``v = X^T u / sigma``. No other plane through the centre contains a larger share of ``||X||^2``. Costs ``K^2 P`` operations.

    Args:
        points: theta of each checkpoint, ``(K, P)``, K of at least 3.
        centre: ``(P,)``; None takes the mean, which makes this PCA. With the last point the plane goes through the end of training.
    Raises:
        InsufficientDataError: fewer than 3 points.
        EmptySubspaceError: the points lie on a line, or coincide.
    Example:
        >>> plane = principal(torch.tensor([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 2.0, 1.0], [4.0, 2.0, 1.0]]))
        >>> [round(share, 12) for share in plane.shares], plane.centre.tolist()
        ([0.8, 0.2], [2.0, 1.0, 1.0])

    Source:
        Li et al. 2018, section 7, who take the directions of PCA but draw them through the last point.
    """
    if points.dim() != 2:
        raise ShapeMismatchError(f"points: given shape {tuple(points.shape)}, expected (K, P)")
    if len(points) < 3:
        raise InsufficientDataError(f"points: {len(points)} of a trajectory, expected at least 3 for a plane")
    theta = finite("points", points)
    middle = theta.mean(0) if centre is None else shaped("centre", centre, theta.shape[1])
    displacements = theta - middle
    scale = float(displacements.abs().max())
    displacements = displacements / (scale or 1.0)
    squares, vectors = torch.linalg.eigh(displacements @ displacements.T)
    if not float(squares[-2]) > _FLAT * float(squares[-1]):
        raise EmptySubspaceError("points: lie on a line through the centre, expected a trajectory that spans a plane; draw a line")
    # Orthogonalised again by QR: the Gram matrix resolves the second direction to 1e-16 of the first one's square only.
    columns = torch.linalg.qr(displacements.T @ vectors[:, [-1, -2]]).Q
    columns = columns * columns.gather(0, columns.abs().argmax(0, keepdim=True)).sign()
    coordinates = displacements @ columns
    shares = (coordinates.square().sum(0) / displacements.square().sum()).tolist()
    first, second = (Direction(columns[:, i].contiguous(), f"principal {i + 1}") for i in (0, 1))
    return Principal(first, second, middle, scale * coordinates, (shares[0], shares[1]))


def cosine_between(first: Direction, second: Direction) -> float:
    """Cosine of the angle between two directions that span a plane.

    Raises:
        BadInputError: the directions are parallel.
    """
    first_scaled, second_scaled = (d.vector / d.vector.abs().max() for d in (first, second))
    cosine = float(first_scaled @ second_scaled / (first_scaled.norm() * second_scaled.norm()))
    if abs(cosine) > _PARALLEL:
        raise BadInputError(
            f"directions: {first.name} and {second.name} are parallel (cosine {cosine:.8f}), expected two that make a plane"
        )
    return cosine


def projected(displacements: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """Project displacements to the plane of two directions, by least squares; the directions need not be orthonormal.

    With ``D = Q R``, the coordinates of x are ``R^-1 Q^T x``.

    Args:
        displacements: ``(K, P)``.
        columns: D, ``(P, 2)``.
    Returns:
        Coordinates ``(K, 2)`` on the CPU, and the share of the squared displacement that lies in the plane; NaN for a zero one.
    """
    frame, mixing = torch.linalg.qr(columns)
    inside = displacements @ frame
    coordinates = torch.linalg.solve_triangular(mixing, inside.T, upper=True).T
    total = float(displacements.square().sum())
    return coordinates.contiguous().cpu(), float(inside.square().sum()) / total if total else math.nan
