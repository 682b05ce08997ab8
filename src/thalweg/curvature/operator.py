"""The interface of all symmetric operators: a dimension ``dim`` and products by ``@``.

Operators form an algebra. With A and B operators of the same dimension and c a number, ``A + B``, ``A - B``, ``c * A``, ``A / c``,
``-A``, ``A + c`` (a shift, ``A + c I``), ``A.deflate(values, vectors)`` and ``A["*query*"]`` are operators.

Shape letters: P dimension, k number of vectors, r rank of what is deflated.
"""

from __future__ import annotations

import abc
import functools
import importlib
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from thalweg.curvature.context import undisturbed
from thalweg.errors import BadInputError, NonFiniteError, NotSymmetricError, Phrase, ShapeMismatchError, require
from thalweg.reprs import describe
from thalweg.streams import stream
from thalweg.vectors import Layout

_SYMMETRY_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest ``||A - A^T|| / ||A||`` (Frobenius) of a matrix that counts as symmetric."""


class Operator(abc.ABC):
    """A symmetric linear map on flat vectors ``(P,)``, known by its products.

    Products are computed in ``dtype`` on ``device`` and are returned in the dtype of the vectors. Operators can be added,
    subtracted, negated and multiplied by a number. A subclass sets ``dim``, ``dtype`` and ``device``, and defines `rows`; symmetry
    is its promise.
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

    def __repr__(self) -> str:
        """Kind, dimension, arithmetic and device, and what the operator is made of."""
        kind = str(self.dtype).removeprefix("torch.")
        return describe(self, f"{self.dim:,} x {self.dim:,}", f"{kind} on {self.device}", *self.made_of())

    def made_of(self) -> list[str]:
        """Phrases for the repr about what the operator is made of; by default its parts that are operators."""
        return [f"{name}={part!r}" for name, part in vars(self).items() if isinstance(part, Operator)]

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``, as matrices have it."""
        return self.dim, self.dim

    @final
    @undisturbed
    def __matmul__(self, vectors: Any) -> Any:
        """The product ``A v`` for a vector ``(P,)``, or ``A V`` for columns ``(P, k)``.

        The result has the type, dtype and device of what was given: a tensor, or a numpy array. Where the operator knows the
        shapes of the parameters, a vector may also be a list of tensors or arrays in these shapes, or a dict of them by name; with
        one more last dimension k in every part it is k vectors. The result then has that form.

        Raises:
            ShapeMismatchError: the first dimension is not P.
            NonFiniteError: NaN or infinity in the vectors or in the product.
            BadInputError: no floating-point vectors.
        """
        if isinstance(vectors, np.ndarray):
            fits = vectors.dtype.kind == "f" and vectors.dtype.itemsize <= 8
            require(fits, "vectors", Phrase(f"an array of {vectors.dtype}"), "floating-point numbers of at most 64 bits")
            return (self @ torch.from_numpy(np.array(vectors, dtype=vectors.dtype.newbyteorder("=")))).cpu().numpy()
        if isinstance(vectors, Mapping):
            return self._of_named_parts(vectors)
        if isinstance(vectors, list | tuple):
            return self._of_parts(vectors)
        require(isinstance(vectors, Tensor), "vectors", Phrase(type(vectors).__name__), "a tensor (P,) or (P, k)")
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
        product = product.to(vectors.device, vectors.dtype)  # which may be too narrow for it
        if not torch.isfinite(product).all():
            raise NonFiniteError(f"product: NaN or infinity in {product.dtype}; scale the vectors or compute in float64")
        return product[0] if vectors.dim() == 1 else product.T

    @property
    def parameters(self) -> Layout | None:
        """Names and shapes of the parameters whose entries the vectors hold; None where the operator does not know them."""
        return vars(self).get("layout")

    def _of_parts(self, parts: Sequence[Any]) -> list[Any]:
        """The product with a vector, or with k vectors, given as one tensor or array per parameter; in the same form."""
        layout, kind = self.parameters, type(parts).__name__
        tensors = all(isinstance(part, Tensor) for part in parts)
        arrays = all(isinstance(part, np.ndarray) for part in parts)
        mixed = any(isinstance(part, Tensor | np.ndarray) for part in parts) and not (tensors or arrays)
        require(not mixed, "vectors", Phrase(f"a {kind} of tensors and arrays"), f"a {kind} of tensors, or of arrays")
        if layout is None or not (tensors or arrays):
            raise BadInputError(f"vectors: given a {kind}, expected a tensor (P,) or (P, k)")
        given, shapes = [tuple(part.shape) for part in parts], [tuple(shape) for shape in layout.shapes]
        # One more last dimension, the same in all parts, is the number of vectors.
        columns = {shape[-1] for shape in given if shape} if [shape[:-1] for shape in given] == shapes else set()
        if given != shapes and len(columns) != 1:
            raise ShapeMismatchError(
                f"vectors: given a {kind} of shapes {given[:4]}, expected the parameters' {len(shapes)} shapes"
            )
        if arrays:
            return [part.cpu().numpy() for part in self._of_parts([torch.from_numpy(np.array(part)) for part in parts])]
        if given == shapes:
            return list(layout.split(self @ layout.join(parts)).values())
        product = self @ torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        return [part.reshape(shape) for part, shape in zip(product.split(layout.sizes), given, strict=True)]

    def _of_named_parts(self, parts: Mapping[Any, Any]) -> dict[str, Any]:
        """The product with vectors given as name -> tensor or array, in the same form."""
        names = self.parameters.names if self.parameters is not None else ()
        missing = [name for name in names if name not in parts]
        foreign = [name for name in parts if name not in names]
        if not names or missing or foreign:
            wrong = f"without {missing[0]!r}" if missing else f"with {foreign[0]!r}" if foreign and names else ""
            expected = f"the names of the {len(names)} parameters" if names else "a tensor (P,) or (P, k)"
            raise BadInputError(f"vectors: given a {type(parts).__name__} {wrong}".rstrip() + f", expected {expected}")
        return dict(zip(names, self._of_parts([parts[name] for name in names]), strict=True))

    __array_ufunc__ = None
    """Makes numpy leave ``array @ A`` and ``number * A`` to this class."""

    def __rmatmul__(self, vectors: Any) -> Any:
        """``v^T A``, which is ``A v`` as A is symmetric; for rows ``(k, P)``, the rows of products."""
        several = isinstance(vectors, Tensor | np.ndarray) and vectors.ndim == 2
        return (self @ vectors.T).T if several else self @ vectors

    def __add__(self, other: Operator | float) -> Operator:
        if isinstance(other, Operator):
            return Sum(self, other)
        return Shifted(self, float(other)) if _is_number(other) else NotImplemented

    def __radd__(self, other: float) -> Operator:
        return self + other

    def __sub__(self, other: Operator | float) -> Operator:
        if isinstance(other, Operator):
            return Sum(self, Scaled(other, -1.0))
        return Shifted(self, -float(other)) if _is_number(other) else NotImplemented

    def __rsub__(self, other: float) -> Operator:
        return -self + other

    def __mul__(self, factor: float) -> Operator:
        return Scaled(self, float(factor)) if _is_number(factor) else NotImplemented

    def __rmul__(self, factor: float) -> Operator:
        return self * factor

    def __truediv__(self, divisor: float) -> Operator:
        if not _is_number(divisor):
            return NotImplemented
        require(divisor != 0, "divisor", divisor, "a number other than 0")
        return Scaled(self, 1.0 / float(divisor))

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)

    def __getitem__(self, choice: str | list[str]) -> Operator:
        """The diagonal block of the parameters that a name or pattern, or a list of them, matches: ``A["*query*"]``.

        A product with the block costs one product with A; building the operator with ``params=`` is cheaper.

        Raises:
            BadInputError: a pattern that matches nothing, a pair (a block off the diagonal), or an operator without names.
        """
        return Restricted(self, choice)

    def deflate(self, values: Tensor, vectors: Tensor) -> Operator:
        """``A - V diag(values) V^T``: with eigenpairs of A, the operator without them.

        Args:
            values: ``(r,)``.
            vectors: V, ``(P, r)``.
        """
        return Deflated(self, values, vectors)

    def to_scipy(self) -> Any:
        """This operator for ``scipy.sparse.linalg``, as a ``LinearOperator`` on float64 arrays.

        Raises:
            BadInputError: scipy is not installed.
        """
        linalg = scipy_linalg()
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
        _take_form(self, inner)

    def made_of(self) -> list[str]:
        return [f"{self.factor:g} * {self.inner!r}"]

    def rows(self, vectors: Tensor) -> Tensor:
        return self.factor * self.inner.rows(vectors)


class Shifted(Operator):
    """An operator plus a multiple of the identity, ``A + c I``."""

    def __init__(self, inner: Operator, shift: float) -> None:
        require(math.isfinite(shift), "shift", shift, "a finite number")
        self.inner, self.shift = inner, shift
        _take_form(self, inner)

    def made_of(self) -> list[str]:
        return [f"{self.inner!r} + {self.shift:g}"]

    def rows(self, vectors: Tensor) -> Tensor:
        return torch.add(self.inner.rows(vectors), vectors, alpha=self.shift)


class Deflated(Operator):
    """``A - V diag(values) V^T``, see `Operator.deflate`.

    Raises:
        ShapeMismatchError: values and vectors of other shapes than ``(r,)`` and ``(P, r)``.
        NonFiniteError: NaN or infinity among them.
    """

    def __init__(self, inner: Operator, values: Tensor, vectors: Tensor) -> None:
        if values.dim() != 1 or tuple(vectors.shape) != (inner.dim, len(values)):
            shapes = f"values {tuple(values.shape)} and vectors {tuple(vectors.shape)}"
            raise ShapeMismatchError(f"deflate: given {shapes}, expected (r,) and ({inner.dim}, r)")
        if not (torch.isfinite(values).all() and torch.isfinite(vectors).all()):
            raise NonFiniteError("deflate: values or vectors hold NaN or infinity, expected finite numbers")
        self.inner = inner
        _take_form(self, inner)
        self.values, self.vectors = (part.detach().to(inner.device, inner.dtype) for part in (values, vectors))

    def rows(self, vectors: Tensor) -> Tensor:
        return self.inner.rows(vectors) - (vectors @ self.vectors * self.values) @ self.vectors.T


class Restricted(Operator):
    """The diagonal block of an operator that belongs to some of its parameters, see `Operator.__getitem__`."""

    def __init__(self, inner: Operator, choice: str | list[str]) -> None:
        if inner.parameters is None:
            raise BadInputError("operator[...]: this operator has no parameter names, expected one made from a model")
        if isinstance(choice, tuple):
            raise BadInputError(
                "operator[...]: given a pair, expected one pattern or a list [a, b] for the block of both; blocks off the diagonal "
                "are those of dense_hessian(...)[rows, columns]"
            )
        patterns = isinstance(choice, str) or (isinstance(choice, list) and all(isinstance(one, str) for one in choice))
        require(patterns and len(choice) > 0, "operator[...]", choice, "a name, a pattern with *, or a list of them")
        self.inner = inner
        _take_form(self, inner)
        self.layout = inner.parameters.subset(choice)
        self.dim, self.places = self.layout.dim, inner.parameters.places(choice).to(inner.device)

    def rows(self, vectors: Tensor) -> Tensor:
        whole = vectors.new_zeros(len(vectors), self.inner.dim).index_copy(1, self.places, vectors)
        return self.inner.rows(whole).index_select(1, self.places)


class Sum(Operator):
    """The sum ``A + B`` of two operators of the same dimension, in the more precise arithmetic of the two.

    Each part is multiplied in its own arithmetic on its own device; the sum is on the first one's device.
    """

    def __init__(self, first: Operator, second: Operator) -> None:
        if first.dim != second.dim:
            raise ShapeMismatchError(f"operators: given dimensions {first.dim} and {second.dim}, expected the same")
        self.first, self.second = first, second
        _take_form(self, first if first.parameters is not None else second)
        self.device, self.dtype = first.device, torch.promote_types(first.dtype, second.dtype)

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
        entries = entries.detach()
        # Squares of float32 entries overflow from 1e19 on and vanish below 1e-22.
        norm = functools.partial(torch.linalg.vector_norm, dtype=None if entries.device.type == "mps" else torch.float64)
        scale = float(entries.abs().max()) or 1.0
        asymmetry, size = float(norm(entries / scale - entries.T / scale)), float(norm(entries / scale))
        if asymmetry > _SYMMETRY_TOLERANCE[entries.dtype] * size:
            raise NotSymmetricError(f"matrix: ||A - A^T|| is {asymmetry / size:.1e} of ||A||, expected a symmetric matrix")
        self.entries = entries / 2 + entries.T / 2
        self.dim, self.dtype, self.device = entries.shape[0], entries.dtype, entries.device

    def rows(self, vectors: Tensor) -> Tensor:
        return vectors @ self.entries


class FromFunction(Operator):
    """A symmetric operator from one's own function, ``v -> A v`` on float64 or float32 tensors.

    Construction costs two products, which check the symmetry; give ``check=False`` to trust it.

    Args:
        function: takes a tensor ``(P,)`` and returns ``A v``, ``(P,)``.
        dim: P.
        dtype: arithmetic of the function's argument, float32 or float64.
        device: device of the function's argument.
        layout: names and shapes of parameters, such as ``hessian.layout``, for products with lists and blocks by name; or None.
        check: whether the symmetry is checked.
    Raises:
        BadInputError: no function, a dimension below 1, or a layout of another dimension.
        ShapeMismatchError: the function returns another shape than ``(P,)``.
        NotSymmetricError: ``u.Av`` and ``v.Au`` differ for two random vectors.
    Example:
        >>> halved = FromFunction(lambda v: v / 2, dim=3)
        >>> (halved @ torch.ones(3)).tolist(), halved.shape
        ([0.5, 0.5, 0.5], (3, 3))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        dim: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        layout: Layout | None = None,
        check: bool = True,
    ) -> None:
        require(callable(function), "function", Phrase(type(function).__name__), "a function v -> A v")
        require(
            isinstance(dim, numbers.Integral) and not isinstance(dim, bool) and dim >= 1,
            "dim",
            dim,
            "a whole number of at least 1, the length of v",
        )
        require(dtype in _SYMMETRY_TOLERANCE, "dtype", dtype, "torch.float32 or torch.float64")
        require(
            layout is None or layout.dim == dim, "layout", Phrase(f"{layout.dim if layout else 0} entries"), f"{dim}, as dim says"
        )
        self.function, self.dim, self.dtype, self.device = function, int(dim), dtype, torch.device(device)
        if layout is not None:
            self.layout = layout
        if check:
            refuse_asymmetry(self)

    def rows(self, vectors: Tensor) -> Tensor:
        products = []
        for vector in vectors:
            product = self.function(vector)
            if not isinstance(product, Tensor) or product.shape != vector.shape:
                given = f"shape {tuple(product.shape)}" if isinstance(product, Tensor) else f"a {type(product).__name__}"
                raise ShapeMismatchError(f"function: gave {given}, expected a tensor ({self.dim},)")
            products.append(product.detach().to(self.device, self.dtype))
        return torch.stack(products)


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
        refuse_asymmetry(self)

    def rows(self, vectors: Tensor) -> Tensor:
        product = np.asarray(self.inner @ vectors.T.numpy())
        real = not np.iscomplexobj(product) or not np.imag(product).any()
        require(real, "operator", Phrase("complex products"), "a real symmetric operator; stack real and imaginary parts")
        return torch.from_numpy(np.ascontiguousarray(np.real(product).T, dtype=np.float64))


def refuse_asymmetry(operator: Operator) -> None:
    """Compare ``u.Av`` with ``v.Au`` for two fixed random vectors; costs two products.

    They are compared with a typical ``|u.Av|``, which is ``||u|| ||Av|| / sqrt(P)``, so that the difference is about
    ``||A - A^T|| / ||A||``.

    Raises:
        NotSymmetricError: they differ by more than rounding.
    """
    draws = (stream(0, "probes", step=step).standard_normal(operator.dim) for step in (0, 1))
    u, v = (torch.from_numpy(draw).to(operator.device) for draw in draws)
    there, back = operator @ v, operator @ u
    asymmetry = abs(float(u @ there - v @ back))
    size = float(u.norm()) * max(float(there.norm()), float(back.norm())) / operator.dim**0.5
    narrow = torch.equal(there.float().double(), there)  # whatever it says, it computes in float32
    if asymmetry > _SYMMETRY_TOLERANCE[torch.float32 if narrow else operator.dtype] * size:
        raise NotSymmetricError(f"operator: |u.Av - v.Au| is {asymmetry / size:.1e} of its size, expected a symmetric operator")


def scipy_linalg() -> Any:
    """The module ``scipy.sparse.linalg``.

    Raises:
        BadInputError: scipy is not installed.
    """
    try:
        return importlib.import_module("scipy.sparse.linalg")
    except ImportError as problem:
        raise BadInputError("scipy: is not installed; run pip install scipy") from problem


def _take_form(outer: Operator, inner: Operator) -> None:
    """Give an operator the dimension, arithmetic, device and parameter names of the one that it is made of."""
    outer.dim, outer.dtype, outer.device = inner.dim, inner.dtype, inner.device
    if inner.parameters is not None:
        vars(outer)["layout"] = inner.parameters


def _is_number(value: object) -> bool:
    """Whether a value is a real number, of Python or numpy, and no flag."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


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
        require(given.dtype.kind in "fiu", "matrix", Phrase(f"an array of {given.dtype}"), "real numbers")
        return Matrix(torch.from_numpy(np.array(given, dtype=np.float32 if given.dtype == np.float32 else np.float64)))
    if hasattr(given, "shape") and hasattr(given, "__matmul__") and not isinstance(given, type):
        return Foreign(given)
    raise BadInputError(
        f"operator: given a {type(given).__name__}, expected an Operator, a symmetric matrix, or an object with shape and @ such "
        "as scipy's LinearOperator((P, P), matvec=function)"
    )
