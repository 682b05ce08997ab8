from itertools import repeat

import pytest
import torch
from tests.curvature.cases import CASES, Case, apart, case_of, mlp, normal, pairs, squares, stirred
from torch import nn

from thalweg.curvature.hessian import Hessian
from thalweg.curvature.objective import Objective
from thalweg.errors import BadInputError, MemoryLimitError, NonFiniteError, NotDifferentiableError, ShapeMismatchError
from thalweg.landscape.probe import LandscapeProbe

X = normal(6, 3)


def refused(error, message, loss_fn=lambda m, b: m(b).square().mean(), model=None, batches=(X,), **options):
    with pytest.raises(error, match=message) as caught:
        Objective(loss_fn, model if model is not None else stirred(nn.Linear(3, 2)), batches, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MLP", "ragged", "tied", "BatchNorm", "frozen"])
def test_gradient_at_another_point_is_that_of_plain_autograd(name):
    case = case_of(name)
    objective = Objective(*case.given, dtype=torch.float64)
    shift = 0.1 * case.direction()
    assert apart(objective.gradient_at(objective.point + shift), case.gradient(shift)) < 1e-12


def test_a_loss_with_a_shape_is_refused():
    refused(ShapeMismatchError, r"^loss_fn: returned shape \(6, 2\), expected a scalar; reduce it by mean", lambda m, b: m(b))


def test_a_loss_without_graph_is_refused():
    message = (
        "^loss of batch 0: has no graph, because no chosen parameter enters it or it was detached; choose parameters that enter it "
        r"with params=, and return the loss without detach\(\) or item\(\)$"
    )
    refused(NotDifferentiableError, message, lambda m, b: m(b).detach().square().mean())


@pytest.mark.parametrize(("given", "name"), [(1.5, "float"), (None, "NoneType"), ("loss", "str"), ({"loss": 1}, "dict")])
def test_a_loss_that_is_no_tensor_is_refused(given, name):
    refused(BadInputError, f"^loss_fn: returned {name}, expected a scalar tensor or ", lambda m, b: given)


def test_unused_parameters_are_named():
    model = nn.ModuleDict(
        {"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2), "rest": nn.ModuleList(nn.Linear(1, 1) for _ in range(3))}
    )
    message = "^params: idle.weight, idle.bias, rest.0.weight, rest.0.bias, rest.1.weight and 3 more do not enter the loss; choose"
    refused(BadInputError, message, lambda m, b: m["used"](b).square().mean(), model)


def test_parameters_used_by_one_batch_only_are_welcome():
    model = nn.ModuleList([stirred(nn.Linear(3, 2)), stirred(nn.Linear(3, 2))])
    objective = Objective(lambda m, b: m[b["which"]](b["x"]).square().mean(), model, [{"which": i, "x": X} for i in (0, 1)])
    assert objective.dim == 16


def test_no_batches_are_refused():
    refused(BadInputError, r"^batches: given \[\], expected at least one batch \(an iterator that was used up", batches=[])


def test_a_generator_is_read_once_and_a_used_up_one_is_refused():
    case = mlp()
    given = (batch for batch in case.batches)
    assert len(Objective(case.loss_fn, case.model, given).batches) == 2
    refused(BadInputError, r"^batches: given \[\], expected at least one batch", squares, case.model, given)


def test_a_tuple_that_was_meant_as_one_batch_is_named_by_the_part_that_fails():
    model, x, y = torch.nn.Linear(3, 1), torch.randn(8, 3), torch.randn(8, 1)
    told = r"^batches: given a tuple, .* and the loss fails on part 2 .* for one batch write \[batch\]"
    for measure in (Objective, LandscapeProbe(top=1, forms=0).measure):
        with pytest.raises(BadInputError, match=told):
            measure(lambda model, batch: model(batch).square().mean(), model, (x, y))


@pytest.mark.parametrize(("given", "name"), [(X, "Tensor"), ({"x": X}, "dict"), ("xy", "str"), (3, "int")])
def test_one_batch_instead_of_a_list_is_refused(given, name):
    refused(BadInputError, rf"^batches: given {name}, expected a list of batches; for one batch write \[batch\]$", batches=given)


@pytest.mark.parametrize("count", [0, -2, float("nan"), float("inf")])
def test_a_count_that_counts_nothing_is_refused(count):
    loss_fn = lambda m, b: (m(b).square().sum(), count)  # noqa: E731
    refused(BadInputError, "^count of batch 0: given .*, expected a positive number; leave out batches in which", loss_fn)


def test_a_count_for_some_batches_only_is_refused():
    loss_fn = lambda m, b: (m(b).sum(), 6) if b is not None and b[0, 0] > 0 else m(b).mean()  # noqa: E731
    message = r"^loss_fn: given a count for some batches only, expected \(total, count\) for all, or a bare mean for all$"
    refused(BadInputError, message, loss_fn, batches=[X.abs(), -X.abs()])


def test_ragged_batches_with_a_bare_mean_are_refused():
    message = r"^batches: given different shapes with a bare mean, expected a loss_fn that returns \(total, count\)"
    refused(BadInputError, message, batches=[X, X[:4]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad):
    model = stirred(nn.Linear(3, 2))
    model.weight.data[0, 0] = bad
    refused(NonFiniteError, "^parameter weight: holds NaN or infinity; load weights from before training diverged$", model=model)


def test_a_loss_that_is_not_finite_is_refused_with_its_batch():
    told = "^loss of batch 1: nan, expected a finite number; look for bad samples in that batch, or for bad weights$"
    refused(NonFiniteError, told, batches=[X, X * float("nan")])


def test_an_unknown_parameter_comes_with_the_likely_one():
    refused(BadInputError, r"^unknown parameter 'wieght'; did you mean 'weight'\? Known: bias, weight$", params="wieght")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_arithmetic_is_refused(dtype):
    refused(BadInputError, f"^dtype: given {dtype}, expected torch.float32 or torch.float64$", dtype=dtype)


def test_batches_are_moved_to_the_arithmetic_but_whole_numbers_stay():
    case = CASES["dict batches"]()
    objective = Objective(*case.given, dtype=torch.float64)
    assert [objective.batches[0][key].dtype for key in ("x", "y")] == [torch.float64, torch.int64]


def test_a_choice_leaves_the_other_parameters_fixed():
    model = stirred(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    objective = Objective(squares, model, pairs(3, 2), "2.bias")
    assert (objective.dim, sorted(objective.frozen)) == (2, ["0.bias", "0.weight", "2.weight"])


def test_an_endless_iterator_of_batches_is_refused(monkeypatch):
    monkeypatch.setattr("thalweg.curvature.objective.MOST_BATCHES", 50)
    refused(
        MemoryLimitError,
        r"^batches: the first 51 hold .* and there are more, .* with itertools.islice if the iterator has no end$",
        batches=repeat(X),
    )


def test_batches_that_do_not_fit_into_memory_are_refused_as_they_are_drawn(monkeypatch):
    monkeypatch.setattr("thalweg.curvature.objective.memory.budget", lambda limit: 200)
    refused(
        MemoryLimitError,
        r"^batches: the first 3 hold [0-9]+ bytes and there are more, expected at most [0-9]+ bytes and",
        batches=[X] * 5,
    )


def test_weights_on_the_meta_device_are_refused():
    refused(
        BadInputError, "^model: given weights on the meta device, expected weights with values", model=nn.Linear(3, 2).to("meta")
    )


def test_a_loss_that_fails_only_as_a_function_of_its_weights_says_so():
    def loss_fn(model, batch):
        if not isinstance(model.weight, nn.Parameter):
            raise RuntimeError("I want a Parameter")
        return model(batch).mean()

    refused(
        BadInputError,
        "^loss of batch 0: works on the model itself, but not as a function of its weights in torch.float32: I want",
        loss_fn,
    )


def test_buffers_are_left_alone_where_a_loss_fails_on_the_model_itself():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()

    def loss_fn(model, batch):
        model(batch)
        raise RuntimeError("always")

    before = model[1].running_mean.clone()
    with pytest.raises(RuntimeError, match=r"^always$"):
        Objective(loss_fn, model, [X], mode="train")
    assert torch.equal(model[1].running_mean, before)
    assert model[1].num_batches_tracked == 0


def test_a_loss_that_works_in_half_precision_alone_is_refused_by_its_type():
    def loss_fn(model, batch):
        if model.weight.dtype != torch.bfloat16:
            raise RuntimeError("half precision only")
        return model(batch).mean()

    message = "^loss of batch 0: fails with weights and batches in torch.float32: half precision only$"
    refused(BadInputError, message, loss_fn, nn.Linear(3, 2).bfloat16())


def test_gradients_of_tensors_that_are_not_ours_are_left_alone():
    """Double backward fills every leaf that it reaches, also those of a criterion with weights of its own."""
    outside = nn.Linear(2, 1)
    outside.weight.grad = torch.ones(1, 2)
    model = nn.ModuleDict({"used": stirred(nn.Linear(3, 2)), "idle": nn.Linear(1, 1)})
    loss_fn = lambda m, b: outside(torch.tanh(m["used"](b))).square().mean()  # noqa: E731
    objective = Objective(loss_fn, model, [X], "used.*")
    objective.product_at(objective.point, torch.ones(8))
    assert torch.equal(outside.weight.grad, torch.ones(1, 2))
    assert outside.bias.grad is None


def test_a_module_that_is_registered_twice_keeps_its_weights():
    """PyTorch's own exchange of tied weights would leave other tensors in it."""
    shared = nn.Linear(3, 3)
    model = stirred(nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(3, 2)))
    case, before = Case(model, squares, pairs(3, 2)), dict(model.named_parameters())
    hessian = Hessian(*case.given)
    product = hessian @ case.direction()
    assert all(after is before[name] for name, after in model.named_parameters())
    assert model[2].weight is before["0.weight"]
    assert apart(product, case.product(case.direction())) < 1e-3
