"""Directions in which to look at a loss: random, of eigenvectors, river against valley, of a trajectory.

Shape letters: P number of chosen parameters, K points of a trajectory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.curvature.eigenpairs import EigenPairs
from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, ShapeMismatchError, require, unknown
from thalweg.streams import stream
from thalweg.theory.inputs import finite, shaped
from thalweg.vectors import Layout

_VECTORS = ("zero", "scale")
"""What becomes of biases and norms' weights in a filter-normalised direction."""
_FLAT = 1e-12
"""Second over first squared singular value below which a trajectory is a line: the Gram matrix holds 1e-16 of the first."""
_PARALLEL = 1 - 1e-6
"""Absolute cosine above which two directions make no plane."""


@dataclass(frozen=True)
class Direction:
    """A direction and what to call it."""

    vector: Tensor
    """``(P,)`` float64, not zero; its length is the unit of the places along it."""
    name: str

    @property
    def length(self) -> float:
        """Euclidean norm."""
        return float(self.vector.norm())


def direction(vector: Tensor | Direction, dim: int, name: str = "direction") -> Direction:
    """A direction of P entries, checked; one that has a name keeps it.

    Raises:
        BadInputError: zero, or NaN, infinity, or another length than P.
    """
    entries, name = (vector.vector, vector.name) if isinstance(vector, Direction) else (vector, name)
    v = shaped(name, entries, dim)
    if not v.any():
        raise EmptySubspaceError(f"{name}: given the zero vector, expected a direction that moves a parameter")
    return Direction(v, name)


def unit(vector: Tensor | Direction, dim: int, name: str = "direction") -> Direction:
    """The direction at length 1, so that places are distances in parameter space."""
    checked = direction(vector, dim, name)
    # Scaled first, so that the squares of tiny or huge entries neither vanish nor overflow.
    scaled = checked.vector / checked.vector.abs().max()
    return Direction(scaled / scaled.norm(), checked.name)


def filter_normalised(layout: Layout, point: Tensor, seed: int = 0, number: int = 0, vectors: str = "zero") -> Direction:
    """A Gaussian direction, each of its filters as long as that filter of the weights.

    ``d_i <- d_i / ||d_i|| * ||w_i||`` for each index i of a parameter's first dimension: a row of a matrix, a token of an
    embedding, an output channel of a convolution. Place 1 then changes every filter by its own length, and scaling filters that a
    norm undoes does not sharpen the picture. A filter of zeros gets a direction of zeros.

    Args:
        layout: of the chosen parameters (`Slices.layout`).
        point: the weights, ``(P,)``.
        seed: of the stream "probes".
        number: which of the seed's directions; two of them make a plane.
        vectors: "zero" leaves parameters of one dimension or none (biases, norms' weights) where they are, as Li et al. do;
            "scale" takes each as one filter.
    Raises:
        EmptySubspaceError: all filters are zero, or there are none.
    Source:
        Li et al. 2018, arXiv 1712.09913, section 4. Their code, asked not to leave biases out, copies them; "scale" is ours.
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
    """One unit eigenvector; the name tells its eigenvalue.

    Args:
        pairs: of `thalweg.curvature.eigenpairs.eigenpairs`.
        index: from 0, in the pairs' order.
    Example:
        >>> from thalweg.curvature.eigenpairs import eigenpairs
        >>> eigendirection(eigenpairs(torch.diag(torch.tensor([1.0, 4.0]).double()), k=1), 0).name
        'eigenvector 0 (4)'
    """
    count = len(pairs.values)
    require(0 <= index < count, "index", index, f"a whole number from 0 to {count - 1}, there are {count} pairs")
    return unit(pairs.vectors[:, index], len(pairs.vectors), f"eigenvector {index} ({float(pairs.values[index]):.4g})")


def river_and_valley(river: Tensor, valley: Tensor) -> tuple[Direction, Direction]:
    """Two directions at length 1 under these names; how far they are from a right angle is in the plane's record.

    Args:
        river: ``(P,)``.
        valley: ``(P,)``.
    """
    if river.dim() != 1 or river.shape != valley.shape:
        raise ShapeMismatchError(
            f"river and valley: given shapes {tuple(river.shape)} and {tuple(valley.shape)}, expected both (P,)"
        )
    return unit(river, len(river), "river"), unit(valley, len(valley), "valley")


@dataclass(frozen=True)
class Principal:
    """The plane that holds most of a trajectory."""

    first: Direction
    """Unit length, component of largest magnitude positive."""
    second: Direction
    """Likewise, at a right angle to the first."""
    centre: Tensor
    """``(P,)``; displacements are taken from here, and the plane goes through it."""
    coordinates: Tensor
    """Of the points in the plane, ``(K, 2)``, units of theta."""
    shares: tuple[float, float]
    """Of the squared displacement, along the first and the second."""

    @property
    def explained(self) -> float:
        """Share of the squared displacement from the centre that lies in the plane."""
        return sum(self.shares)


def principal(points: Tensor, centre: Tensor | None = None) -> Principal:
    """The first two principal directions of a trajectory.

    The singular vectors of the displacements X ``(K, P)``, from the eigenvectors u of the small Gram matrix ``X X^T``:
    ``v = X^T u / sigma``. No other plane through the centre holds a larger share of ``||X||^2``.

    Args:
        points: theta of each checkpoint, ``(K, P)``.
        centre: ``(P,)``; None takes the mean, which makes this PCA. The last point makes a plane through the end of training.
    Raises:
        InsufficientDataError: fewer than 3 points.
        EmptySubspaceError: the points lie on a line, or on one another.
    Example:
        >>> found = principal(torch.tensor([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 2.0, 1.0], [4.0, 2.0, 1.0]]))
        >>> [round(share, 12) for share in found.shares], found.centre.tolist()
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
    # Once more at right angles: the Gram matrix holds the second direction to 1e-16 of the first's square only.
    columns = torch.linalg.qr(displacements.T @ vectors[:, [-1, -2]]).Q
    columns = columns * columns.gather(0, columns.abs().argmax(0, keepdim=True)).sign()
    coordinates = displacements @ columns
    shares = (coordinates.square().sum(0) / displacements.square().sum()).tolist()
    first, second = (Direction(columns[:, i].contiguous(), f"principal {i + 1}") for i in (0, 1))
    return Principal(first, second, middle, scale * coordinates, (shares[0], shares[1]))


def cosine_between(first: Direction, second: Direction) -> float:
    """Of two directions that make a plane.

    Raises:
        BadInputError: they are parallel.
    """
    first_scaled, second_scaled = (d.vector / d.vector.abs().max() for d in (first, second))
    cosine = float(first_scaled @ second_scaled / (first_scaled.norm() * second_scaled.norm()))
    if abs(cosine) > _PARALLEL:
        raise BadInputError(
            f"directions: {first.name} and {second.name} are parallel (cosine {cosine:.8f}), expected two that make a plane"
        )
    return cosine


def projected(displacements: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """Coordinates ``(K, 2)`` of displacements ``(K, P)`` in the plane of ``columns`` ``(P, 2)``, and the share of squares it holds.

    Least squares, so that directions need not be orthonormal.
    """
    frame, mixing = torch.linalg.qr(columns)
    inside = displacements @ frame
    coordinates = torch.linalg.solve_triangular(mixing, inside.T, upper=True).T
    total = float(displacements.square().sum())
    return coordinates.contiguous().cpu(), float(inside.square().sum()) / total if total else math.nan
