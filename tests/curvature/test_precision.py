import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.curvature.precision import KeepPrecision

DOUBLE = torch.tensor([1.0, 2.0 / 3, 3.0], dtype=torch.float64)

CASTS = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "to(dtype)": lambda x: x.to(torch.float32),
    "to(device, dtype)": lambda x: x.to("cpu", torch.float32),
    "to(dtype=)": lambda x: x.to(dtype=torch.float16),
    "to(other)": lambda x: x.to(torch.ones(1, dtype=torch.float32)),
    "type(dtype)": lambda x: x.type(torch.float32),
    "type(name)": lambda x: x.type("torch.FloatTensor"),
    "type(class)": lambda x: x.type(torch.HalfTensor),
    "type_as": lambda x: x.type_as(torch.ones(1, dtype=torch.bfloat16)),
    "softmax(dtype=)": lambda x: torch.softmax(x, -1, dtype=torch.float32),
    "functional.softmax(dtype=)": lambda x: functional.softmax(x, dim=-1, dtype=torch.float32),
    "sum(dtype=)": lambda x: x.sum(dtype=torch.float32),
    "zeros(dtype=)": lambda x: torch.zeros(3, dtype=torch.float32),
    "operand of lower precision": lambda x: torch.outer(x, x) @ torch.eye(3, dtype=torch.float32),
    "module in float32": lambda x: nn.Linear(3, 2)(x),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_cast_to_a_lower_type_is_left_out_and_noted(name):
    with KeepPrecision(torch.float64) as kept:
        assert CASTS[name](DOUBLE).dtype == torch.float64
    assert kept.intervened


@pytest.mark.parametrize("name", ["float", "to(dtype)", "type_as"])
def test_the_value_keeps_all_its_digits(name):
    with KeepPrecision(torch.float64):
        assert torch.equal(CASTS[name](DOUBLE), DOUBLE)


def test_in_float32_only_narrower_types_are_kept_out():
    single = DOUBLE.float()
    with KeepPrecision(torch.float32) as kept:
        assert single.bfloat16().dtype == torch.float32
        assert single.double().dtype == torch.float64
    assert kept.casts == {torch.bfloat16}


def test_whole_numbers_and_complex_numbers():
    with KeepPrecision(torch.float64):
        assert torch.arange(3).to(torch.int32).dtype == torch.int32
        assert DOUBLE.to(torch.complex64).dtype == torch.complex128


def test_a_computation_without_casts_is_left_alone():
    with KeepPrecision(torch.float64) as kept:
        torch.tanh(DOUBLE * 2).sum()
    assert not kept.intervened


def only_float32(x):
    """Stands for a kernel that knows no float64."""
    if torch.overrides.has_torch_function((x,)):
        return torch.overrides.handle_torch_function(only_float32, (x,), x)
    if x.dtype != torch.float32:
        raise RuntimeError(f"expected scalar type Float but found {x.dtype}")
    return x.exp()


def test_an_operation_that_knows_float32_only_is_computed_there_and_noted():
    with KeepPrecision(torch.float64) as kept:
        result = only_float32(DOUBLE)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, DOUBLE.exp(), rtol=1e-6, atol=0.0)
    assert kept.rounded == {"only_float32"}


def test_errors_that_have_nothing_to_do_with_types_come_through():
    with KeepPrecision(torch.float64), pytest.raises(RuntimeError, match=r"size mismatch|inconsistent tensor size|same size"):
        torch.dot(DOUBLE, DOUBLE[:2])


def test_ways_out_of_the_graph_are_noted():
    weight = DOUBLE.clone().requires_grad_()
    with KeepPrecision(torch.float64) as kept:
        (weight * 2).detach()
        with torch.no_grad():
            weight * 2
    assert kept.cuts == {"detach", "no_grad"}
    with KeepPrecision(torch.float64) as kept, torch.no_grad():
        DOUBLE.detach() * 2
    assert not kept.cuts


def test_autocast_is_noted():
    with KeepPrecision(torch.float32) as kept, torch.autocast("cpu", dtype=torch.bfloat16):
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert kept.autocast == torch.bfloat16
