"""Operators as an algebra, in the forms in which users of other tools give vectors; scipy there and back."""

import sys

import numpy as np
import pytest
import torch
from tests.curvature.cases import case_of

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.operator import FromFunction, Matrix, as_operator
from thalweg.curvature.solve import solve
from thalweg.errors import (
    BadInputError,
    NonFiniteError,
    NotConvergedError,
    NotSymmetricError,
    ShapeMismatchError,
)

EXACT = 1e-12


def drawn(dim=6, seed=0):
    entries = torch.from_numpy(np.random.default_rng(seed).normal(size=(dim, dim)))
    return entries + entries.T


def entries(operator):
    return operator @ torch.eye(operator.dim, dtype=torch.float64)


@pytest.fixture(scope="module")
def hessian():
    return Hessian(*case_of("MLP").given, dtype=torch.float64)


A, B, ONE = drawn(), drawn(seed=1), torch.eye(6, dtype=torch.float64)
ALGEBRA = {
    "A + 0.1": (Matrix(A) + 0.1, A + 0.1 * ONE),
    "2 + A": (2 + Matrix(A), A + 2 * ONE),
    "A - 3": (Matrix(A) - 3, A - 3 * ONE),
    "3 - A": (3 - Matrix(A), 3 * ONE - A),
    "2 * A": (2 * Matrix(A), 2 * A),
    "numpy number": (np.float64(2) * Matrix(A) + np.float32(0.5), 2 * A + 0.5 * ONE),
    "A / 4": (Matrix(A) / 4, A / 4),
    "-A + B - A": (-Matrix(A) + Matrix(B) - Matrix(A), B - 2 * A),
    "A - V diag(l) V^T": (
        Matrix(A).deflate(torch.arange(2.0), B[:, :2]),
        A - B[:, :2] @ torch.diag(torch.arange(2.0)).double() @ B[:, :2].T,
    ),
    "own function": (FromFunction(lambda v: A @ v, 6), A),
}


@pytest.mark.parametrize("name", ALGEBRA)
def test_combinations_have_the_entries_of_the_matrices(name):
    operator, expected = ALGEBRA[name]
    assert operator.shape == (6, 6)
    assert (entries(operator) - expected).norm() < EXACT * expected.norm()


def test_rows_times_an_operator():
    assert (B[:2] @ Matrix(A) - B[:2] @ A).norm() < EXACT
    assert np.abs(B[0].numpy() @ Matrix(A) - (B[0] @ A).numpy()).max() < EXACT


def test_deflating_the_largest_pair_leaves_the_second():
    operator = Matrix(drawn(20))
    top = eigenpairs(operator, 3)
    rest = eigenpairs(operator.deflate(top.values[:1], top.vectors[:, :1]), 2)
    assert (rest.values - top.values[1:]).abs().max() < 1e-10


def test_a_block_by_name_has_the_entries_of_the_whole(hessian):
    whole, block = entries(hessian), hessian["*.weight"]
    places = hessian.layout.places("*.weight")
    assert block.layout.names == ("0.weight", "2.weight")
    assert (entries(block) - whole[places][:, places]).norm() < EXACT * whole.norm()
    places = hessian.layout.places("*.bias")
    shifted = entries((2 * hessian + 1)[["0.bias", "2.bias"]])
    assert (shifted - 2 * whole[places][:, places] - torch.eye(len(places))).norm() < EXACT * whole.norm()


def test_a_block_of_a_block(hessian):
    assert torch.equal(entries(hessian["*.weight"]["2.*"]), entries(hessian["2.weight"]))


@pytest.mark.parametrize("kind", [torch.as_tensor, lambda part: part.numpy()], ids=["tensors", "arrays"])
def test_lists_and_dicts_in_the_parameters_shapes(hessian, kind):
    flat = torch.randn(hessian.dim, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = [kind(part) for part in hessian.layout.split(flat[:, 0]).values()]
    many = [
        kind(part.reshape(*shape, 2)) for part, shape in zip(flat.split(hessian.layout.sizes), hessian.layout.shapes, strict=True)
    ]
    expected = hessian @ flat
    found = [hessian @ one, list((hessian @ dict(zip(hessian.layout.names, one, strict=True))).values())]
    for parts in found:
        assert [type(part) for part in parts] == [type(part) for part in one]
        assert (torch.cat([torch.as_tensor(part).reshape(-1) for part in parts]) - expected[:, 0]).norm() < EXACT * expected.norm()
    columns = torch.cat([torch.as_tensor(part).reshape(-1, 2) for part in hessian @ many])
    assert (columns - expected).norm() < EXACT * expected.norm()


def test_scipy_there_and_back(hessian):
    back = as_operator((hessian + 0.5).to_scipy())
    v = np.random.default_rng(0).normal(size=hessian.dim)
    assert np.abs(back @ v - (hessian @ v + 0.5 * v)).max() < EXACT * 10


def test_conjugate_gradients_solve_a_damped_hessian(hessian):
    right = torch.randn(hessian.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    damped = hessian + 10.0
    found = solve(damped, right, tolerance=1e-10)
    expected = torch.linalg.solve(entries(hessian) + 10.0 * torch.eye(hessian.dim, dtype=torch.float64), right)
    assert (found.vector - expected).norm() < 1e-9 * expected.norm()
    assert found.converged
    assert found.products <= hessian.dim + 2


def test_a_zero_right_side_has_the_solution_zero():
    assert not solve(ONE, torch.zeros(6)).vector.any()


REFUSED = {
    "pair": (lambda h: h["0.*", "2.*"], BadInputError, r"operator\[...\]: given a pair, expected one pattern or a list \[a, b\]"),
    "unknown name": (lambda h: h["*query*"], BadInputError, r"unknown parameter '\*query\*'"),
    "no names": (
        lambda h: Matrix(A)["a"],
        BadInputError,
        r"operator\[...\]: this operator has no parameter names, expected one made",
    ),
    "number as block": (lambda h: h[3], BadInputError, r"operator\[...\]: given 3, expected a name, a pattern with \*, or a list"),
    "infinite shift": (lambda h: h + float("inf"), BadInputError, "shift: given inf, expected a finite number"),
    "division by zero": (lambda h: h / 0, BadInputError, "divisor: given 0, expected a number other than 0"),
    "mixed list": (
        lambda h: h @ [torch.ones(5, 3), np.ones(5)],
        BadInputError,
        "vectors: given a list of tensors and arrays, exp",
    ),
    "list of numbers": (lambda h: h @ [1.0, 2.0], BadInputError, r"vectors: given a list, expected a tensor \(P,\) or \(P, k\)"),
    "list of other shapes": (lambda h: h @ [torch.ones(2)], ShapeMismatchError, r"vectors: given a list of shapes \[\(2,\)\], exp"),
    "list without names": (lambda h: Matrix(A) @ [torch.ones(6)], BadInputError, "vectors: given a list, expected a tensor"),
    "dict without a name": (
        lambda h: h @ {"0.weight": torch.ones(5, 3)},
        BadInputError,
        "vectors: given a dict without '0.bias', exp",
    ),
    "dict for a matrix": (
        lambda h: Matrix(A) @ {"a": torch.ones(6)},
        BadInputError,
        r"vectors: given a dict, expected a tensor \(P,\)",
    ),
    "deflate shapes": (
        lambda h: Matrix(A).deflate(torch.ones(2), torch.ones(6)),
        ShapeMismatchError,
        r"deflate: given values \(2,\) and",
    ),
    "deflate nan": (lambda h: Matrix(A).deflate(torch.ones(1) / 0, torch.ones(6, 1)), NonFiniteError, "deflate: values or vectors"),
    "function of another shape": (
        lambda h: FromFunction(lambda v: v[:2], 6),
        ShapeMismatchError,
        r"function: gave shape \(2,\), expected",
    ),
    "function that returns nothing": (
        lambda h: FromFunction(lambda v: None, 6),
        ShapeMismatchError,
        "function: gave a NoneType, expec",
    ),
    "asymmetric function": (lambda h: FromFunction(lambda v: v.cumsum(0), 6), NotSymmetricError, r"operator: \|u.Av - v.Au\| is"),
    "dimension 0": (lambda h: FromFunction(lambda v: v, 0), BadInputError, "dim: given 0, expected a whole number of at least 1"),
    "indefinite system": (
        lambda h: solve(-ONE, torch.ones(6)),
        BadInputError,
        "operator: curvature -1.00e.00 along a search direction",
    ),
    "right side of another shape": (
        lambda h: solve(ONE, torch.ones(5)),
        ShapeMismatchError,
        r"right side: given shape \(5,\), expected",
    ),
    "right side with nan": (lambda h: solve(ONE, torch.ones(6) / 0), NonFiniteError, "right side: holds NaN or infinity"),
    "too few products": (
        lambda h: solve(A @ A + ONE, A[0], 1e-12, 3),
        NotConvergedError,
        "solve: relative residual .* after 3 products",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(hessian, name):
    attempt, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as refused:
        attempt(hessian)
    assert "\n" not in str(refused.value)


def test_without_scipy_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    for attempt in (lambda: Matrix(A).to_scipy(), lambda: solve(ONE, torch.ones(6))):
        with pytest.raises(BadInputError, match="scipy: is not installed; run pip install scipy"):
            attempt()
