import functools

import pytest
import torch
from tests.curvature.cases import Case, normal, stirred, whole
from torch import nn
from torch.nn import functional

from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.low_precision import LowPrecision, interval_of, two_levels
from thalweg.curvature.probes import rademacher
from thalweg.errors import BadInputError, ResolutionError

LOW = (torch.bfloat16, torch.float16)


def classes(model, batch):
    return functional.cross_entropy(model(batch[0]).float(), batch[1], reduction="sum"), len(batch[1])


@functools.cache
def problem():
    """A model whose weights are bfloat16 numbers, through a LayerNorm."""
    model = stirred(nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))).bfloat16()
    return Case(model, classes, [(normal(24, 3), whole(3, 24))])


@functools.cache
def truth():
    return dense_hessian(*problem().given, dtype=torch.float64).matrix


@functools.cache
def low(dtype=torch.bfloat16):
    return LowPrecision(Hessian(*problem().given), dtype)


def test_bfloat16_weights_are_multiplied_in_float32():
    hessian, v = low().hessian, normal(len(truth())).double()
    assert hessian.dtype == torch.float32
    assert float((hessian @ v - truth() @ v).norm()) < 1e-5 * float((truth() @ v).norm())


class Coupled(nn.Module):
    """Curvature of single weights, and a little of neighbours together."""

    def __init__(self, coupling):
        super().__init__()
        self.weight, self.coupling = nn.Parameter(normal(40)), coupling

    def forward(self, x):
        return torch.tanh(3 * self.weight * x).square().sum() + self.coupling * torch.sin(self.weight[1:] * self.weight[:-1]).sum()


def weakly_coupled(coupling):
    model = Coupled(coupling).bfloat16()
    given = (lambda m, x: m(x), model, [normal(40, seed=1)])
    exact = float(dense_hessian(*given, dtype=torch.float64).matrix.trace())
    return LowPrecision(Hessian(*given)), exact


@pytest.mark.parametrize("name", ["through a LayerNorm", "weakly coupled"])
def test_bars_hold_the_float64_trace_in_93_of_100_trials(name):
    """1,000 trials of 8 cheap and 3 precise products, drawn from the real ones of 400 probes."""
    rounded, exact = (low(), float(truth().trace())) if name == "through a LayerNorm" else weakly_coupled(0.05)
    probes = [rademacher(rounded.hessian, index, 5) for index in range(400)]
    cheap = torch.stack([z @ (rounded.low @ z) for z in probes])
    differences = torch.stack([z @ (rounded.hessian @ z) for z in probes]) - cheap
    draw, held = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        chosen = torch.randperm(400, generator=draw)[:11]
        value, bar = two_levels(cheap[chosen[:8]].tolist(), differences[chosen[8:]].tolist())
        held += abs(value - exact) <= bar
    assert held >= 930


def test_an_estimate_is_made_of_its_two_levels():
    z = [rademacher(low().hessian, index, 3) for index in range(7)]
    cheap = [float(one @ (low().low @ one)) for one in z]
    differences = [float(one @ (low().hessian @ one)) - rough for one, rough in zip(z[4:], cheap[4:], strict=True)]
    found = low().trace(probes=4, references=3, seed=3)
    assert found.value == pytest.approx(sum(cheap[:4]) / 4 + sum(differences) / 3)
    assert found.bar == pytest.approx(two_levels(cheap[:4], differences)[1], rel=1e-4)
    assert (found.products, found.precise_products) == (7, 3)


def test_a_diagonal_hessian_leaves_the_bias_of_rounding_alone():
    rounded, exact = weakly_coupled(0.0)
    found = rounded.trace(probes=2, references=2)
    assert abs(found.value - exact) <= found.bar < 1e-4 * abs(exact)
    assert abs(found.rounding_bias) > 10 * found.bar


@pytest.mark.parametrize(("sampling", "rounding", "bias"), [(1.0, 0.0, 0.0), (1.0, 1.0, 5.0), (0.01, 1.0, -3.0)])
def test_two_levels_cover_95_of_100_whatever_the_rounding(sampling, rounding, bias):
    draw = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        cheap = 7.0 - bias + sampling * torch.randn(12, dtype=torch.float64, generator=draw)
        value, bar = two_levels(cheap.tolist(), (bias + rounding * torch.randn(5, dtype=torch.float64, generator=draw)).tolist())
        held += abs(value - 7.0) <= bar
    assert 930 <= held <= 990


@pytest.mark.parametrize(("freedom", "least"), [(1, 930), (3, 940)])
@pytest.mark.parametrize("count", [8, 20])
def test_two_levels_cover_skewed_samples_that_students_t_does_not(freedom, least, count):
    """A Hessian with one or three large eigenvalues has quadratic forms like these."""
    draw, held, by_t = torch.Generator().manual_seed(0), 0, 0
    for _ in range(1000):
        cheap = torch.randn(count, freedom, dtype=torch.float64, generator=draw).square().mean(1).tolist()
        value, bar = two_levels(cheap, (1e-9 * torch.randn(4, dtype=torch.float64, generator=draw)).tolist())
        held += abs(value - 1) <= bar
        by_t += abs(value - 1) <= interval_of(cheap)[1]
    assert held >= least > by_t


@pytest.mark.parametrize("scale", [1e-110, 1.0, 1e105])
def test_bars_scale_with_the_values(scale):
    value, bar = two_levels([scale, 3 * scale, 7 * scale], [0.0, 0.0])
    expected = two_levels([1.0, 3.0, 7.0], [0.0, 0.0])
    assert (value / scale, bar / scale) == pytest.approx(expected)


def test_an_interval_is_that_of_students_t():
    assert interval_of([1.0, 3.0]) == (2.0, pytest.approx(12.7062, rel=1e-4))


@pytest.mark.parametrize("dtype", LOW)
def test_noise_is_that_of_the_dtype(dtype):
    noise = low(dtype).noise()
    unit = torch.finfo(dtype).eps
    assert 0.1 * unit < noise.relative < 30 * unit
    assert noise.along < noise.relative


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("which", ["magnitude", "largest", "smallest"])
def test_each_interval_holds_an_eigenvalue_of_the_float64_hessian(dtype, which):
    pairs = low(dtype).eigenpairs(3, which)
    values = torch.linalg.eigvalsh(truth())
    apart = (pairs.values.unsqueeze(1) - values).abs().min(1).values
    assert bool((apart <= pairs.residuals + 1e-6).all())
    ordered = {"magnitude": values[values.abs().argsort(descending=True)], "largest": values.flip(0), "smallest": values}[which]
    if dtype == torch.float16:  # the coarser search may miss a place in the order
        assert bool(((pairs.values - ordered[:3]).abs() <= pairs.residuals + 1e-6).all())
    assert float((pairs.vectors.T @ pairs.vectors - torch.eye(3)).norm()) < 1e-10


def test_what_rounding_hides_is_refused():
    """The curvature is the difference of two large ones, which are equal to half precision."""
    model = stirred(nn.Linear(6, 4, bias=False))
    loss = lambda m, x: torch.tanh(m(x)).square().sum() * 300 - 300 * torch.tanh(m(x) * 1.0005).square().sum()  # noqa: E731
    hidden = LowPrecision(Hessian(loss, model, [normal(16, 6)], dtype=torch.float64))
    with pytest.raises(ResolutionError, match=r"^trace: the rounding of products in torch.bfloat16 leaves .*float64 itself"):
        hidden.trace(probes=8, references=3)
    with pytest.raises(ResolutionError, match=r"^eigenvalue .*: the rounding of products in torch.bfloat16"):
        hidden.eigenpairs(8)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: LowPrecision(low().hessian, torch.float32), r"^dtype: given .*expected torch.bfloat16 or torch.float16"),
        (lambda: LowPrecision(torch.eye(3)), r"^hessian: given Tensor, expected a Hessian"),
        (lambda: low().trace(references=1), r"^references: given 1, expected at least 2"),
        (lambda: low().noise(samples=1), r"^probes: given 1"),
    ],
)
def test_wrong_arguments_are_refused(attempt, message):
    with pytest.raises(BadInputError, match=message):
        attempt()
