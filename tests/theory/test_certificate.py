import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.errors import NonFiniteError, OrthonormalityError
from thalweg.theory.certificate import LossBound, certify, force_bound, loss_bound
from thalweg.theory.descent import descend
from thalweg.theory.force import measured_force
from thalweg.theory.horizon import Lipschitz
from thalweg.theory.taylor import follow, taylor_model


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Hyperbolic:
    """``sum_i log cosh(w_i.theta) - h.theta``: its third derivative is at most ``4 / (3 sqrt 3) max_i ||w_i|| ||W||^2``."""

    def __init__(self, seed):
        self.rows, self.pull, self.start = drawn(seed, 10, 6) / 4, 0.3 * drawn(seed + 100, 6), drawn(seed + 200, 6) / 2
        self.rho = 4 / (3 * 3**0.5) * float(self.rows.norm(dim=1).max() * torch.linalg.matrix_norm(self.rows, 2) ** 2)

    def loss(self, point):
        return float((self.rows @ point).cosh().log().sum() - self.pull @ point)

    def gradient(self, point):
        return self.rows.T @ (self.rows @ point).tanh() - self.pull

    def hessian(self, point):
        return (self.rows.T / (self.rows @ point).cosh().square()) @ self.rows

    def model(self, rate, steps):
        return taylor_model(self.hessian(self.start), self.gradient(self.start), rate, steps)

    def bound(self, rate, steps):
        return loss_bound(self.model(rate, steps), self.loss(self.start), self.rho)


def bound_of(predicted, bound):
    return LossBound(predicted, bound, bound, 0.0, 0.0, False, ())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("steps", [1, 5, 25])
def test_the_loss_bound_is_never_violated_before_or_after_the_run(seed, steps):
    place = Hyperbolic(seed)
    model, points = place.model(0.1, steps), descend(place.gradient, place.start, 0.1, steps)
    for followed in (None, follow(model, place.gradient, points)):
        found = loss_bound(model, place.loss(place.start), place.rho, followed)
        assert abs(place.loss(points[-1]) - found.predicted) <= found.bound + 1e-12
        assert found.measured == (followed is not None)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.floats(-1, 3), st.floats(-2, 2), st.floats(-0.5, 0.5), st.integers(1, 12))
def test_the_loss_bound_holds_on_every_cubic(curvature, third, pull, steps):
    points = descend(lambda x: pull + curvature * x + third * x.square() / 2, torch.zeros(1), 0.3, steps)
    model = taylor_model(torch.tensor([[curvature]], dtype=torch.float64), torch.tensor([pull], dtype=torch.float64), 0.3, steps)
    found, x = loss_bound(model, 0.0, abs(third)), float(points[-1])
    assert abs(pull * x + curvature * x**2 / 2 + third * x**3 / 6 - found.predicted) <= found.bound + 1e-12


def test_the_first_step_on_a_cubic_leaves_exactly_the_cubic_part():
    """Model and run agree after one step; what is left is ``rho/6 d^3``, and no more."""
    model = taylor_model(torch.eye(1), torch.ones(1), 1.0, 1)
    found = loss_bound(model, 0.0, 6.0)
    assert found.bound == found.cubic == 1.0
    assert found.apart == 0


def test_an_estimated_rho_is_labelled():
    model = taylor_model(torch.eye(1), torch.ones(1), 1.0, 1)
    assert loss_bound(model, 0.0, 6.0).conditions[0].held
    assert not loss_bound(model, 0.0, Lipschitz(6.0, "operator")).conditions[0].held


def test_an_uninformative_bound_is_infinite_without_an_error():
    found = loss_bound(taylor_model(torch.eye(1), torch.ones(1), 0.5, 500), 0.0, 1e150)
    assert found.bound == found.apart == math.inf
    assert certify(found, found).verdict == "not certified"


def test_certified_losses_really_order():
    certified = 0
    for seed in range(60):
        pair, ends = [Hyperbolic(seed), Hyperbolic(seed + 1000)], []
        found = certify(*(place.bound(0.1, 6) for place in pair))
        ends = [place.loss(descend(place.gradient, place.start, 0.1, 6)[-1]) for place in pair]
        if found.verdict == "certified":
            certified += 1
            assert ends[1] < ends[0]
            assert found.unconditional
    assert 5 < certified < 55


def test_both_sides_are_shown():
    found = certify(bound_of(3.0, 0.5), bound_of(1.0, 1.0))
    assert (found.verdict, found.lead, found.needed) == ("certified", 2.0, 1.5)
    assert (found.predicted, found.bounds) == ((3.0, 1.0), (0.5, 1.0))


def test_a_lead_that_only_equals_the_bounds_is_not_enough():
    assert certify(bound_of(3.0, 1.0), bound_of(1.0, 1.0)).verdict == "not certified"


def test_a_certificate_on_an_estimated_rho_is_not_unconditional():
    model = taylor_model(torch.eye(1), torch.ones(1), 1.0, 1)
    pair = [loss_bound(model, start, Lipschitz(1e-3, "operator")) for start in (1.0, 0.0)]
    assert certify(*pair).verdict == "certified"
    assert not certify(*pair).unconditional


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("steps", [1, 8, 20])
def test_the_force_bound_is_never_violated(seed, steps):
    place, frame = Hyperbolic(seed), torch.linalg.qr(drawn(seed, 6, 6))[0]
    floor, model = place.start + drawn(seed + 7, 6) / 2, place.model(0.1, steps)
    points = descend(place.gradient, place.start, 0.1, steps)
    found = force_bound(model, place.gradient, points, floor, frame[:, :3], frame[:, 3:])
    assert found.apart <= found.bound + 1e-14
    real = measured_force(place.gradient, points[:-1], floor, frame[:, :3], frame[:, 3:], 0.1)
    assert torch.allclose(found.real, real, rtol=1e-10, atol=1e-13)


def test_the_models_force_is_the_sum_over_its_run():
    place, frame = Hyperbolic(3), torch.linalg.qr(drawn(3, 6, 6))[0]
    v, r = frame[:, :2], frame[:, 2:]
    model, points = place.model(0.1, 9), descend(place.gradient, place.start, 0.1, 9)
    found = force_bound(model, place.gradient, points, torch.zeros(6), v, r)
    inside = (place.start + model.displacements[:-1]) @ v
    expected = -0.1 * (r.T @ place.hessian(place.start) @ v) @ inside.sum(0)
    assert torch.allclose(found.model, expected, rtol=1e-12, atol=1e-15)


def test_without_the_residual_at_the_lowered_point_the_bound_is_false():
    """x^2/2 + x^2 y from (1, 0) with floor 0 and one step: e_0 = r_0 = 0, yet the forces are -eta and -2 eta."""
    slope = lambda p: torch.stack([p[0] + 2 * p[0] * p[1], p[0].square()])  # noqa: E731
    start, eye = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    model = taylor_model(torch.tensor([[1.0, 2.0], [2.0, 0.0]], dtype=torch.float64), slope(start), 0.25, 1)
    found = force_bound(model, slope, descend(slope, start, 0.25, 1), torch.zeros(2), eye[:, :1], eye[:, 1:])
    assert (found.real.tolist(), found.model.tolist()) == ([-0.25], [-0.5])
    assert found.apart == found.bound == found.residual == 0.25


def test_an_empty_river_or_valley_has_no_force():
    slope, eye = (lambda p: p), torch.eye(2)
    model, points = taylor_model(eye, torch.ones(2), 0.5, 2), descend(slope, torch.ones(2), 0.5, 2)
    for valley, river in ((eye, eye[:, :0]), (eye[:, :0], eye)):
        found = force_bound(model, slope, points, torch.zeros(2), valley, river)
        assert found.apart == 0
        assert found.bound == pytest.approx(0, abs=1e-15)


def test_what_is_refused():
    eye = torch.eye(2)
    model, points = taylor_model(eye, torch.ones(2), 0.5, 1), torch.ones(2, 2)
    with pytest.raises(OrthonormalityError, match=r"^valley and river frame: "):
        force_bound(model, lambda p: p, points, torch.zeros(2), eye, eye[:, :1])
    with pytest.raises(NonFiniteError, match=r"^start loss: holds NaN or infinity, expected finite numbers$"):
        loss_bound(model, float("nan"), 1.0)
