import copy
import functools
import random
import subprocess

import pytest
import torch
from tests.curvature.cases import CASES, Case, apart, case_of, mlp, normal, pairs, squares, stirred, whole
from torch import nn
from torch.nn import functional

from thalweg.curvature.hessian import Hessian
from thalweg.curvature.memory import format_bytes
from thalweg.errors import BadInputError, KinkWarning, NonFiniteError, NotDifferentiableError, ShapeMismatchError, WrongProductError

DIFFERENCE = 1e-7  # of a fourth-order difference of float64 gradients; 1e-9 is usual
ROUNDING = 1e-11
FLOAT32 = 2e-5
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def hessian_of(name, method="auto", dtype=torch.float64):
    return Hessian(*case_of(name).given, dtype=dtype, method=method, check=method == "auto")


@every_case
def test_product_is_the_difference_of_the_gradient(name):
    case = case_of(name)
    direction = case.direction()
    assert apart(hessian_of(name) @ direction, case.product(direction)) < DIFFERENCE


@every_case
def test_gradient_is_that_of_plain_autograd(name):
    assert apart(hessian_of(name).gradient, case_of(name).gradient()) < ROUNDING


@every_case
def test_recorded_rebuilt_and_differences_agree(name):
    direction = case_of(name).direction(1)
    recorded, rebuilt, differences = (hessian_of(name, method) @ direction for method in ("auto", "rebuilt", "differences"))
    assert apart(recorded, rebuilt) < ROUNDING
    assert apart(differences, rebuilt) < DIFFERENCE


@every_case
@pytest.mark.parametrize("method", ["auto", "rebuilt"])
def test_many_vectors_at_once_are_the_columns_one_by_one(name, method):
    hessian, case = hessian_of(name, method), case_of(name)
    columns = torch.stack([case.direction(seed) for seed in range(4)], dim=1)
    one_by_one = torch.stack([hessian @ column for column in columns.T], dim=1)
    assert apart(hessian @ columns, one_by_one) < ROUNDING


@every_case
def test_float32_is_close_to_float64(name):
    direction = case_of(name).direction(2)
    assert apart(hessian_of(name, "auto", torch.float32) @ direction, hessian_of(name) @ direction) < FLOAT32


@every_case
def test_auto_records_all_batches(name):
    count = len(case_of(name).batches)
    assert f"{count} of {count} batches recorded" in hessian_of(name).explain()


@every_case
def test_the_check_that_every_operator_passes_measured_something_small(name):
    report = hessian_of(name).report
    assert report.symmetry < 1e-12
    assert 0 < report.difference < 1e-6
    assert report.repeat < 1e-12


def linear_regression(outputs):
    x, y = normal(30, 4, seed=1).double(), normal(30, outputs, seed=2).double()
    model = stirred(nn.Linear(4, outputs, bias=False)).double()
    expected = torch.kron(torch.eye(outputs, dtype=torch.float64), x.T @ x) * 2 / (30 * outputs)
    return Case(model, squares, [(x, y)]), expected


def logistic_regression():
    x, y = normal(40, 5, seed=1).double(), whole(2, 40, seed=2).double()
    model = stirred(nn.Linear(5, 1, bias=False)).double()
    p = torch.sigmoid(x @ model.weight.detach()[0])
    loss_fn = lambda m, b: functional.binary_cross_entropy_with_logits(m(b[0])[:, 0], b[1])  # noqa: E731
    return Case(model, loss_fn, [(x, y)]), x.T @ torch.diag(p * (1 - p)) @ x / 40


def softmax_regression():
    x, y = normal(25, 3, seed=1).double(), whole(4, 25, seed=2)
    model = stirred(nn.Linear(3, 4, bias=False)).double()
    p = torch.softmax(x @ model.weight.detach().T, dim=1)
    terms = [torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(z, z)) for q, z in zip(p, x, strict=True)]
    return Case(model, lambda m, b: functional.cross_entropy(m(b[0]), b[1]), [(x, y)]), sum(terms) / 25


CLOSED = {
    "linear regression": functools.partial(linear_regression, 1),
    "linear regression with three outputs": functools.partial(linear_regression, 3),
    "logistic regression": logistic_regression,
    "softmax regression": softmax_regression,
}


@pytest.mark.parametrize("method", ["recorded", "rebuilt", "differences"])
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name, method):
    case, expected = CLOSED[name]()
    found = Hessian(*case.given, method=method) @ torch.eye(len(expected), dtype=torch.float64)
    assert apart(found, expected) < (DIFFERENCE if method == "differences" else 1e-13)


def test_closed_form_over_ragged_batches_is_that_of_all_samples():
    case, expected = logistic_regression()
    (x, y) = case.batches[0]
    summed = lambda m, b: (functional.binary_cross_entropy_with_logits(m(b[0])[:, 0], b[1], reduction="sum"), len(b[1]))  # noqa: E731
    batches = [(x[:3], y[:3]), (x[3:30], y[3:30]), (x[30:], y[30:])]
    hessian = Hessian(summed, case.model, batches)
    assert apart(hessian @ torch.eye(5, dtype=torch.float64), expected) < 1e-13


def test_loss_is_the_mean_loss():
    case, _ = logistic_regression()
    assert Hessian(*case.given).loss == pytest.approx(case.loss_fn(case.model, case.batches[0]).item(), rel=1e-14)


def test_products_come_back_in_the_dtype_that_was_given():
    hessian = Hessian(*mlp().given)
    assert hessian.dtype == torch.float32
    assert (hessian @ torch.ones(hessian.dim, dtype=torch.float64)).dtype == torch.float64


def test_half_precision_weights_are_computed_in_float32():
    case = mlp()
    hessian = Hessian(case.loss_fn, case.model.bfloat16(), case.batches)
    assert hessian.dtype == torch.float32
    direction = case.direction()
    assert apart(hessian @ direction, case.product(direction)) < FLOAT32


def test_training_on_does_not_change_the_operator():
    case = mlp()
    hessian = Hessian(*case.given)
    rebuilt = Hessian(*case.given, method="rebuilt")
    direction = case.direction()
    before = [hessian @ direction, rebuilt @ direction]
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.mul_(3.0)
    assert [torch.equal(o @ direction, b) for o, b in zip([hessian, rebuilt], before, strict=True)] == [True, True]


def test_frozen_weights_are_copied_too():
    case = CASES["frozen"]()
    hessian = Hessian(*case.given, method="rebuilt")
    direction = case.direction()
    before = hessian @ direction
    with torch.no_grad():
        case.model[2].weight.mul_(3.0)
    assert torch.equal(hessian @ direction, before)


def test_twins_are_bit_identical():
    case = CASES["gpt, tied, 2 loops"]()
    first, second = (Hessian(*case.given) @ case.direction() for _ in range(2))
    assert torch.equal(first, second)


def world(model):
    """All that a call could leave changed."""
    weights = copy.deepcopy(model.state_dict())
    rest = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    return weights, rest, grads, (torch.get_rng_state(), random.getstate())


def assert_same_world(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3][0], after[3][0])
    assert before[3][1] == after[3][1]


@pytest.mark.parametrize("method", ["recorded", "rebuilt", "differences"])
@pytest.mark.parametrize("name", ["dropout", "BatchNorm", "frozen", "gpt, tied, 2 loops"])
def test_nothing_of_the_callers_is_changed(name, method):
    case = CASES[name]()
    case.model[1].eval() if isinstance(case.model, nn.Sequential) else case.model.blocks.eval()
    before = world(case.model)
    hessian = Hessian(*case.given, method=method)
    hessian @ torch.ones(hessian.dim, 2)
    assert_same_world(before, world(case.model))


@pytest.mark.parametrize("method", ["recorded", "rebuilt", "differences"])
@pytest.mark.parametrize("fails", range(6))
def test_nothing_of_the_callers_is_changed_by_an_error_in_the_middle(method, fails):
    case = CASES["BatchNorm"]()
    calls = []

    def loss_fn(model, batch):
        calls.append(None)
        if len(calls) > fails:
            raise KeyError("in the middle")
        return case.loss_fn(model, batch)

    before = world(case.model)
    with pytest.raises(KeyError, match="in the middle"):
        Hessian(loss_fn, case.model, case.batches, method=method)
    assert_same_world(before, world(case.model))


def test_global_settings_of_attention_and_gradients_are_restored():
    case = CASES["gpt, tied, 2 loops"]()
    flash = torch.backends.cuda.flash_sdp_enabled()
    with torch.no_grad():
        hessian = Hessian(*case.given)
        hessian @ torch.ones(hessian.dim)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() == flash


def test_it_works_under_no_grad_and_inference_is_not_needed():
    case = mlp()
    direction = case.direction()
    with torch.no_grad():
        inside = Hessian(*case.given, method="rebuilt") @ direction
    assert torch.equal(inside, Hessian(*case.given, method="rebuilt") @ direction)


def test_relu_is_named():
    model = stirred(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    with pytest.warns(KinkWarning, match=r"the loss has kinks \(relu\): the numbers hold for the smooth piece"):
        hessian = Hessian(squares, model, pairs(3, 2))
    assert "kinks left out: relu" in hessian.explain()


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Softplus()])
def test_smooth_activations_are_not_called_kinks(activation):
    model = stirred(nn.Sequential(nn.Linear(3, 5), activation, nn.LayerNorm(5), nn.Linear(5, 2)))
    assert Hessian(squares, model, pairs(3, 2)).objective.kinks == ()


class Once(torch.autograd.Function):
    """A square whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def once(model, batch):
    return (Once.apply(model(batch[0])) - batch[1]).square().mean()


REFUSED = r"loss: an operation has no second derivative \(.+\); use method='differences'$"


@pytest.mark.parametrize("method", ["auto", "rebuilt"])
def test_a_backward_pass_that_cannot_be_differentiated_is_named(method):
    case = mlp()
    with pytest.raises(NotDifferentiableError, match=REFUSED):
        Hessian(once, case.model, case.batches, method=method)


@pytest.mark.parametrize("method", ["auto", "rebuilt"])
def test_a_backward_pass_that_cannot_be_differentiated_never_gives_a_product(method):
    case = mlp()
    with pytest.raises((NotDifferentiableError, WrongProductError), match=r"use method='differences'$"):
        Hessian(once, case.model, case.batches, method=method)


@pytest.mark.parametrize("method", ["auto", "rebuilt"])
def test_a_kernel_without_second_derivative_is_refused_with_the_way_out(method):
    case = CASES["MLP"]()

    def flash(model, batch):
        states = model(batch[0]).view(1, 1, 7, 2)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(states, states, states)[0].square().mean()

    with pytest.raises(NotDifferentiableError, match=REFUSED):
        Hessian(flash, case.model, case.batches, method=method)


def test_differences_work_where_there_is_no_second_derivative():
    case = mlp()
    smooth = Case(case.model, lambda m, b: (m(b[0]) ** 2 - b[1]).square().mean(), case.batches)
    direction = case.direction()
    hessian = Hessian(once, case.model, case.batches, dtype=torch.float64, method="differences")
    assert apart(hessian @ direction, smooth.product(direction)) < DIFFERENCE
    assert 0 < hessian.difference_error < 1e-3


def test_unknown_method_is_named():
    with pytest.raises(BadInputError, match="method: given 'fast', expected auto, recorded, rebuilt or differences"):
        Hessian(*mlp().given, method="fast")


def test_recording_is_refused_where_it_was_asked_for_and_cannot_be():
    case = mlp()
    with pytest.raises(
        BadInputError,
        match=r"method: given 'recorded', expected 'auto' or 'rebuilt' \(0 of 2 batches fit into the limit of [0-9,]+ bytes",
    ):
        Hessian(*case.given, method="recorded", memory=1)


@pytest.mark.parametrize("memory", [0, -5])
def test_memory_must_be_positive(memory):
    with pytest.raises(BadInputError, match=f"memory: given {memory}, expected a positive number of bytes"):
        Hessian(*mlp().given, memory=memory)


@pytest.mark.parametrize("shape", [(36,), (38,), (1, 37), (), (37, 1, 1)])
def test_vectors_of_another_shape_are_refused(shape):
    hessian = hessian_of("MLP")
    assert hessian.dim == 32
    with pytest.raises(ShapeMismatchError, match=r"vectors: given shape .*, expected \(32,\) or \(32, k\)$"):
        hessian @ torch.ones(shape)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_are_refused(bad):
    vector = torch.ones(32)
    vector[3] = bad
    with pytest.raises(NonFiniteError, match="vectors: hold NaN or infinity, expected finite numbers"):
        hessian_of("MLP") @ vector


def test_vectors_of_whole_numbers_are_refused():
    with pytest.raises(BadInputError, match=r"vectors: given torch.int64, expected a floating-point tensor"):
        hessian_of("MLP") @ torch.ones(32, dtype=torch.long)


def test_zero_goes_to_zero():
    for method in ("recorded", "rebuilt", "differences"):
        assert not (hessian_of("MLP", method) @ torch.zeros(32)).any()


@pytest.mark.parametrize("method", ["auto", "rebuilt", "differences"])
def test_no_vectors_give_no_products(method):
    assert (hessian_of("MLP", method) @ torch.zeros(32, 0)).shape == (32, 0)


def test_a_loss_linear_in_the_weights_has_no_curvature():
    model = stirred(nn.Linear(3, 1))
    hessian = Hessian(lambda m, x: m(x).mean(), model, [normal(5, 3)])
    assert not (hessian @ torch.ones(4)).any()


def test_auto_falls_back_where_a_number_is_read_in_the_middle():
    case = mlp()

    def loss_fn(model, batch):
        scale = model(batch[0]).detach().square().mean().item()  # detached: no part of the derivative
        return squares(model, batch) * (2.0 if scale > 0 else 1.0)

    hessian = Hessian(loss_fn, case.model, case.batches, dtype=torch.float64)
    direction = case.direction()
    assert apart(hessian @ direction, 2 * case.product(direction)) < DIFFERENCE


MSE = """
import torch, warnings
from torch import nn
from torch.nn import functional
from thalweg.curvature.hessian import Hessian
warnings.simplefilter("error" if {strict} else "ignore")
loss_fn = lambda m, b: functional.mse_loss(m(b), torch.zeros(5, 2)) if {mse} else m(b).square().mean()
h = Hessian(loss_fn, nn.Linear(3, 2), [torch.eye(5, 3)], method="recorded")
print(float((h @ torch.eye(8)).trace()))
"""


@pytest.mark.parametrize(
    ("mse", "strict"),
    [
        (False, False),
        (True, False),
        (False, True),
    ],
    ids=["squares", "mse_loss", "warnings are errors"],
)
@pytest.mark.slow
def test_in_a_process_of_its_own(python, mse, strict):
    done = subprocess.run([python, "-c", MSE.format(mse=mse, strict=strict)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-300:]
    assert float(done.stdout) == pytest.approx(2 / 10 * (2 * 3 + 2 * 5))


def test_under_little_memory_some_batches_are_rebuilt_and_the_product_is_the_same():
    case = mlp()
    batches = pairs(3, 2, count=6, size=400)
    free = Hessian(case.loss_fn, case.model, batches, dtype=torch.float64)
    assert len(free.programs) == 6
    tight = Hessian(case.loss_fn, case.model, batches, dtype=torch.float64, memory=int(4.5 * free.programs[0].bytes()))
    assert 0 < len(tight.programs) < 6
    assert sum(program.bytes() for program in tight.programs.values()) <= tight.allowed
    assert f"{len(tight.programs)} of 6 batches recorded" in tight.explain()
    assert f"{len(tight.programs)} of 6 batches fit into the limit of {format_bytes(tight.allowed)}" in tight.explain()
    direction = case.direction()
    assert apart(tight @ direction, free @ direction) < ROUNDING
