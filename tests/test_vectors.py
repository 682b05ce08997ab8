import pytest
import torch
from torch import nn

from thalweg.errors import BadInputError, NonFiniteError, ShapeMismatchError
from thalweg.vectors import layout, select


def model():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1, bias=False))
    net[2].requires_grad_(False)
    return net


def test_none_takes_what_trains_in_the_models_order():
    assert list(select(model())) == ["0.weight", "0.bias", "3.weight"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("0.bias", ["0.bias"]),
        ("*.bias", ["0.bias", "2.bias"]),
        (["3.weight", "0.*"], ["0.weight", "0.bias", "3.weight"]),
        (["0.bias", "*.bias"], ["0.bias", "2.bias"]),
        (("2.*",), ["2.weight", "2.bias"]),
        (lambda name, parameter: parameter.dim() == 1, ["0.bias", "2.bias"]),
    ],
)
def test_a_choice_is_a_name_a_pattern_several_or_a_function(choice, names):
    assert list(select(model(), choice)) == names


def test_tied_weights_appear_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert list(select(net)) == ["0.weight", "0.bias", "1.bias"]


def test_split_and_join_are_inverse():
    shape = layout(select(model()))
    flat = torch.arange(12.0)
    assert (shape.sizes, shape.dim) == ((6, 3, 3), 12)
    parts = shape.split(flat)
    assert [part.shape for part in parts.values()] == [(3, 2), (3,), (1, 3)]
    assert torch.equal(shape.join(parts.values()), flat)


def test_the_flat_order_is_that_of_parameters_to_vector():
    net = model()
    chosen = select(net)
    assert torch.equal(layout(chosen).join(chosen.values()), nn.utils.parameters_to_vector(chosen.values()))


def test_places_are_positions_in_the_flat_vector():
    shape = layout(select(model()))
    assert shape.places("0.bias").tolist() == [6, 7, 8]
    assert shape.places(["3.*", "0.bias"]).tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("shape", [(11,), (13,), (1, 12), ()])
def test_split_refuses_another_length(shape):
    with pytest.raises(ShapeMismatchError, match=r"flat vector: given shape \(.*\), expected \(12,\)$"):
        layout(select(model())).split(torch.zeros(shape))


@pytest.mark.parametrize("choose", [select, lambda net, choice: layout(select(net)).places(choice)])
def test_an_unknown_name_comes_with_the_likely_one(choose):
    with pytest.raises(BadInputError, match=r"unknown parameter '0.wieght'; did you mean '0.weight'\? Known: 0.bias, 0.weight"):
        choose(model(), "0.wieght")


def test_one_unknown_among_several_is_refused():
    with pytest.raises(BadInputError, match=r"unknown parameter 'head\.\*'"):
        select(model(), ["0.*", "head.*"])


@pytest.mark.parametrize("choice", [[], lambda name, parameter: False])
def test_no_parameter_at_all_is_refused(choice):
    with pytest.raises(BadInputError, match=r"params: given .*, expected at least one parameter"):
        select(model(), choice)


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(BadInputError, match=r"model: none of its 5 parameters requires a gradient; call model.requires_grad_\(\)"):
        select(model().requires_grad_(False))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(bad):
    net = model()
    net[0].bias.data[1] = bad
    with pytest.raises(NonFiniteError, match=r"parameter 0.bias: holds NaN or infinity; load weights from before"):
        select(net)
    assert list(select(net, "3.weight")) == ["3.weight"]


def test_complex_weights_are_refused():
    net = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(BadInputError, match=r"parameter weight: given torch\.complex64, expected floating-point weights"):
        select(net)
