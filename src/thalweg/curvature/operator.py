"""The interface of all symmetric operators: a dimension ``dim`` and products by ``@``.

Shape letters: P dimension, k number of vectors.
"""

from __future__ import annotations

import abc
import importlib
import math
from collections.abc import Sequence
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from thalweg.curvature.context import undisturbed
from thalweg.errors import BadInputError, NonFiniteError, NotSymmetricError, ShapeMismatchError, require
from thalweg.streams import stream

_SYMMETRY_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest ``||A - A^T|| / ||A||`` (Frobenius) of a matrix that counts as symmetric."""


class Operator(abc.ABC):
    """A symmetric linear map on flat vectors ``(P,)``, known by its products.

    Products are computed in ``dtype`` on ``device`` and are returned in the dtype of the vectors, so that a float64 eigensolver can
    work with float32 products. Operators can be added, subtracted, negated and multiplied by a number. A subclass sets ``dim``,
    ``dtype`` and ``device``, and defines `rows`; symmetry is its promise.
    """

    dim: int
    """P, the dimension."""
    dtype: torch.dtype
    """Arithmetic of a product, float32 or float64."""
    device: torch.device
    """Device on which products are computed."""
    difference_error: float = 0.0
    """Estimated relative error of the last product where it was computed by differences; 0 elsewhere."""

    @abc.abstractmethod
    def rows(self, vectors: Tensor) -> Tensor:
        """Products with each row of ``(k, P)``, as the rows of ``(k, P)``; both in ``dtype`` on ``device``."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``, as matrices have it."""
        return self.dim, self.dim

    @final
    @undisturbed
    def __matmul__(self, vectors: Any) -> Any:
        """The product ``A v`` for a vector ``(P,)``, or ``A V`` for columns ``(P, k)``.

        The result has the type, dtype and device of what was given: a tensor, or a numpy array. Where the operator knows the shapes
        of the parameters, a list of tensors in these shapes gives a list of such tensors.

        Raises:
            ShapeMismatchError: the first dimension is not P.
            NonFiniteError: NaN or infinity in the vectors or in the product.
            BadInputError: no floating-point vectors.
        """
        if isinstance(vectors, np.ndarray):
            require(vectors.dtype.kind == "f", "vectors", f"an array of {vectors.dtype}", "floating-point numbers")
            return (self @ torch.from_numpy(np.array(vectors))).cpu().numpy()
        if isinstance(vectors, list | tuple):
            return self._of_parts(vectors)
        require(isinstance(vectors, Tensor), "vectors", type(vectors).__name__, "a tensor (P,) or (P, k)")
        vectors = vectors if vectors.layout == torch.strided else vectors.to_dense()
        if vectors.dim() not in (1, 2) or vectors.shape[0] != self.dim:
            shape = tuple(vectors.shape)
            raise ShapeMismatchError(f"vectors: given shape {shape}, expected ({self.dim},) or ({self.dim}, k)")
        require(vectors.is_floating_point(), "vectors", vectors.dtype, "a floating-point tensor")
        if not torch.isfinite(vectors).all():
            raise NonFiniteError("vectors: hold NaN or infinity, expected finite numbers")
        if not vectors.numel():
            return vectors.clone()
        given = vectors.detach().to(self.device, self.dtype)
        given = given.clone() if given.is_inference() else given
        product = self.rows(given.unsqueeze(0) if given.dim() == 1 else given.T.contiguous())
        if not torch.isfinite(product).all():
            raise NonFiniteError(f"product: NaN or infinity in {self.dtype}; scale the vectors or compute in float64")
        product = product.to(vectors.device, vectors.dtype)
        return product[0] if vectors.dim() == 1 else product.T

    def _of_parts(self, parts: Sequence[Any]) -> list[Tensor]:
        """The product with a vector given as one tensor per parameter, in the same form."""
        layout: Any = vars(self).get("layout")
        if layout is None or not all(isinstance(part, Tensor) for part in parts):
            raise BadInputError(f"vectors: given a {type(parts).__name__}, expected a tensor (P,) or (P, k)")
        shapes = [tuple(part.shape) for part in parts]
        if shapes != [tuple(shape) for shape in layout.shapes]:
            raise ShapeMismatchError(
                f"vectors: given a list of shapes {shapes[:4]}, expected the parameters' {len(layout.shapes)} shapes"
            )
        return list(layout.split(self @ layout.join(parts)).values())

    def __add__(self, other: Operator) -> Operator:
        return Sum(self, other) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        return Sum(self, Scaled(other, -1.0)) if isinstance(other, Operator) else NotImplemented

    def __mul__(self, factor: float) -> Operator:
        is_number = isinstance(factor, int | float | np.integer | np.floating) and not isinstance(factor, bool)
        return Scaled(self, float(factor)) if is_number else NotImplemented

    def __rmul__(self, factor: float) -> Operator:
        return self * factor

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)

    def to_scipy(self) -> Any:
        """This operator for ``scipy.sparse.linalg``, as a ``LinearOperator`` on float64 arrays."""
        linalg: Any = importlib.import_module("scipy.sparse.linalg")

        product = lambda array: self @ np.asarray(array, dtype=np.float64)  # noqa: E731
        flat = lambda array: product(np.ravel(array))  # noqa: E731
        return linalg.LinearOperator(self.shape, matvec=flat, rmatvec=flat, matmat=product, rmatmat=product, dtype=np.float64)

    @property
    def matvec(self) -> NoReturn:
        """Refuse scipy, which looks for this attribute but cannot read a torch dtype; the message names `to_scipy`."""
        raise BadInputError(f"operator: scipy cannot take a {type(self).__name__} as it is, expected operator.to_scipy()")


class Scaled(Operator):
    """A finite number times an operator, ``c A``."""

    def __init__(self, inner: Operator, factor: float) -> None:
        require(math.isfinite(factor), "factor", factor, "a finite number")
        self.inner, self.factor = inner, factor
        self.dim, self.dtype, self.device = inner.dim, inner.dtype, inner.device

    def rows(self, vectors: Tensor) -> Tensor:
        return self.factor * self.inner.rows(vectors)


class Sum(Operator):
    """The sum ``A + B`` of two operators of the same dimension, in the more precise arithmetic of the two.

    Each part is multiplied in its own arithmetic on its own device; the sum is on the first one's device.
    """

    def __init__(self, first: Operator, second: Operator) -> None:
        if first.dim != second.dim:
            raise ShapeMismatchError(f"operators: given dimensions {first.dim} and {second.dim}, expected the same")
        self.first, self.second = first, second
        self.dim, self.device, self.dtype = first.dim, first.device, torch.promote_types(first.dtype, second.dtype)

    def rows(self, vectors: Tensor) -> Tensor:
        parts = [part.rows(vectors.to(part.device, part.dtype)) for part in (self.first, self.second)]
        return sum((part.to(self.device, self.dtype) for part in parts), torch.zeros_like(vectors))


class Matrix(Operator):
    """A symmetric matrix, given by its entries, as an operator.

    Args:
        entries: ``(P, P)``, float32 or float64; symmetric up to rounding, and replaced by ``(A + A^T) / 2``.
    Raises:
        ShapeMismatchError: not square, or empty.
        NonFiniteError: NaN or infinity among the entries.
        NotSymmetricError: ``||A - A^T|| > rtol ||A||`` (Frobenius), rtol 1e-8 in float64 and 1e-4 in float32.
    Example:
        >>> (Matrix(torch.diag(torch.tensor([1.0, 2.0]))) @ torch.ones(2)).tolist()
        [1.0, 2.0]
    """

    def __init__(self, entries: Tensor) -> None:
        entries = entries if entries.layout == torch.strided else entries.to_dense()
        if entries.dim() != 2 or entries.shape[0] != entries.shape[1] or not entries.numel():
            raise ShapeMismatchError(f"matrix: given shape {tuple(entries.shape)}, expected (P, P) with P of at least 1")
        if not torch.isfinite(entries).all():
            raise NonFiniteError("matrix: holds NaN or infinity, expected finite numbers")
        require(entries.dtype in _SYMMETRY_TOLERANCE, "matrix", entries.dtype, "float32 or float64")
        asymmetry, size = (entries - entries.T).norm(), entries.norm()
        if asymmetry > _SYMMETRY_TOLERANCE[entries.dtype] * size:
            raise NotSymmetricError(f"matrix: ||A - A^T|| is {float(asymmetry / size):.1e} of ||A||, expected a symmetric matrix")
        self.entries = (entries + entries.T) / 2
        self.dim, self.dtype, self.device = entries.shape[0], entries.dtype, entries.device

    def rows(self, vectors: Tensor) -> Tensor:
        return vectors @ self.entries


class Foreign(Operator):
    """A symmetric operator of another library: any object with ``shape`` and ``@`` on float64 numpy arrays.

    Construction costs two products, which check the symmetry.

    Raises:
        ShapeMismatchError: not square.
        NotSymmetricError: ``u.Av`` and ``v.Au`` differ for two random vectors.
    """

    def __init__(self, inner: Any) -> None:
        shape = tuple(inner.shape)
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise ShapeMismatchError(f"operator: given shape {shape}, expected (P, P) with P of at least 1")
        self.inner, self.dim = inner, int(shape[0])
        self.dtype, self.device = torch.float64, torch.device("cpu")
        u, v = (torch.from_numpy(stream(0, "probes", step=step).standard_normal(self.dim)) for step in (0, 1))
        there, back = self @ v, self @ u
        asymmetry, size = abs(float(u @ there - v @ back)), float(u.norm()) * float(there.norm())
        if asymmetry > _SYMMETRY_TOLERANCE[torch.float64] * size:
            raise NotSymmetricError(f"operator: |u.Av - v.Au| is {asymmetry / size:.1e} of its size, expected a symmetric operator")

    def rows(self, vectors: Tensor) -> Tensor:
        product = np.asarray(self.inner @ vectors.T.numpy(), dtype=np.float64)
        return torch.from_numpy(np.ascontiguousarray(product.T))


def as_operator(given: Any) -> Operator:
    """Turn an operator, a symmetric matrix ``(P, P)`` or another library's symmetric operator into an `Operator`.

    Args:
        given: an `Operator`, which is returned as it is; a tensor or numpy array; or an object with ``shape`` and ``@``.
    Raises:
        BadInputError: none of these, or an array of other than real numbers.
        ShapeMismatchError, NonFiniteError, NotSymmetricError: see `Matrix` and `Foreign`.
    """
    if isinstance(given, Operator):
        return given
    if isinstance(given, Tensor):
        return Matrix(given)
    if isinstance(given, np.ndarray):
        require(given.dtype.kind in "fiu", "matrix", f"an array of {given.dtype}", "real numbers")
        return Matrix(torch.from_numpy(np.array(given, dtype=np.float32 if given.dtype == np.float32 else np.float64)))
    if hasattr(given, "shape") and hasattr(given, "__matmul__") and not isinstance(given, type):
        return Foreign(given)
    raise BadInputError(
        f"operator: given a {type(given).__name__}, expected an Operator, a symmetric matrix, or an object with shape and @ such "
        "as scipy's LinearOperator((P, P), matvec=function)"
    )
