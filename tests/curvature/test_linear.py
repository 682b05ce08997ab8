import pytest
import torch
from tests.curvature.cases import apart, normal
from torch.func import grad, jvp

from thalweg.curvature.cuda_replay import can_be_captured
from thalweg.curvature.linear import CannotRecordError, record
from thalweg.curvature.shorten import shorten

A, B = normal(5, 4, seed=1).double(), normal(5, seed=2).double()


def names(program):
    return [getattr(step.function, "__name__", str(step.function)) for step in program.steps]


def hessian_of(value, point):
    return lambda v: [jvp(grad(value), (point,), (v,))[1]]


VALUES = {
    "layer norm": lambda x: torch.nn.functional.layer_norm(x, (4,), B[:4], B[:4]).pow(3).sum(),
    "gelu": lambda x: torch.nn.functional.gelu(A @ x).pow(2).sum(),
    "softmax": lambda x: torch.log_softmax(A @ x, 0)[2],
    "division": lambda x: (x[1:] / (1 + x[:-1] ** 2)).sum() - x.sum() * x[0] * 3,
    "shared": lambda x: ((A @ x - 2 * (A @ x).tanh()) * B).square().sum(),
}


@pytest.mark.parametrize("shorter", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_a_replay_is_the_function(name, shorter):
    function = hessian_of(VALUES[name], normal(4, seed=3).double())
    with torch.no_grad():
        program = record(function, [normal(4, seed=9).double()])
        program = shorten(program) if shorter else program
        for seed in range(3):
            direction = normal(4, seed=seed).double()
            assert apart(program(direction)[0], function(direction)[0]) < 1e-13


@pytest.mark.parametrize("name", VALUES)
def test_shortening_does_not_lengthen(name):
    with torch.no_grad():
        program = record(hessian_of(VALUES[name], normal(4, seed=3).double()), [normal(4, seed=9).double()])
    assert len(shorten(program).steps) < len(program.steps)


@pytest.mark.parametrize("name", VALUES)
def test_vmap_is_a_loop(name):
    with torch.no_grad():
        program = shorten(record(hessian_of(VALUES[name], normal(4, seed=3).double()), [normal(4, seed=9).double()]))
    directions = normal(6, 4, seed=4).double()
    together = torch.vmap(lambda v: program(v)[0])(directions)
    assert apart(together, torch.stack([program(v)[0] for v in directions])) < 1e-13


def test_what_no_output_needs_is_dropped():
    def function(v):
        (v * 3).exp()
        return [v.sin()]

    assert names(record(function, [normal(3, seed=9)])) == ["sin.default"]


def test_what_does_not_depend_on_the_direction_is_computed_once():
    calls = []

    def function(v):
        calls.append(None)
        return [A.square().sum(1) @ A @ v.cos()]

    program = record(function, [normal(4, seed=9).double()])
    before = len(calls)
    program(torch.ones(4, dtype=torch.float64))
    assert len(calls) == before
    assert len(program.steps) == 2


def test_a_chain_of_scalings_is_one_factor():
    program = record(lambda v: [-(v.flip(0) * B / 3 * B) * 2], [normal(5, seed=9).double()])
    short = shorten(program)
    assert (len(program.steps), len(short.steps)) == (6, 2)
    v = normal(5).double()
    assert apart(short(v)[0], -2 / 3 * B * B * v.flip(0)) < 1e-15


def test_an_output_that_does_not_depend_on_the_direction_stays():
    program = record(lambda v: [v * 2, torch.zeros(2)], [normal(3, seed=9)])
    assert [part.tolist() for part in program(torch.ones(3))] == [[2.0, 2.0, 2.0], [0.0, 0.0]]


def test_a_value_written_in_place_alone_can_be_recorded():
    def function(v):
        doubled = v * 2
        doubled.add_(v)
        return [doubled]

    assert record(function, [normal(3, seed=9)])(torch.ones(3))[0].tolist() == [3.0, 3.0, 3.0]


def test_a_number_read_from_a_value_cannot_be_recorded():
    with pytest.raises(CannotRecordError, match="a number is read from a value in the middle of the computation"):
        record(lambda v: [v * v.sum().item()], [normal(3, seed=9)])


def test_a_choice_by_a_value_cannot_be_recorded():
    with pytest.raises(CannotRecordError, match="a number is read from a value"):
        record(lambda v: [v if v.sum() > 0 else -v], [torch.ones(3)])


def test_writing_into_a_part_of_a_tensor_cannot_be_recorded():
    def function(v):
        doubled = v * 2
        doubled[1:].add_(v[1:])
        return [doubled]

    with pytest.raises(CannotRecordError, match="add_ writes into a tensor that something else shares"):
        record(function, [normal(3, seed=9)])


def test_a_program_is_captured_only_if_it_is_made_of_operations_that_never_wait_for_a_gpu():
    matrix, index = torch.ones(3, 3), torch.tensor([True, False, True])
    plain = record(lambda v: [torch.tanh(matrix) @ (2 * v)], [torch.randn(3)])
    waits = record(lambda v: [v[index]], [torch.randn(3)])
    foreign = record(lambda v: [torch.complex(v, v).conj().real], [torch.randn(3)])
    assert [can_be_captured(program) for program in (plain, waits, foreign)] == [True, False, False]
