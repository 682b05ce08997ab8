import torch
from torch import nn

from thalweg.curvature.graph import captured, reached


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_leaves_are_the_tensors_that_a_backward_pass_fills():
    a, b, constant = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(2)
    leaves = reached((a * b.exp() + constant).sum()).leaves
    assert {id(leaf) for leaf in leaves} == {id(a), id(b)}


def test_a_leaf_reaches_itself():
    weight = torch.ones((), requires_grad=True)
    assert reached(weight).leaves[0] is weight


def test_custom_functions_are_named():
    weight = torch.ones(2, requires_grad=True)
    assert reached(Double.apply(weight.sin()).sum()).custom == ("Double",)


def test_long_graphs_are_walked():
    value = torch.ones((), requires_grad=True)
    start = value
    for _ in range(20_000):
        value = value + 1
    assert reached(value).leaves[0] is start


def test_own_weights_among_the_leaves_are_named():
    model = nn.Linear(2, 1)
    own = dict(model.named_parameters())
    assert captured(reached(model.weight.square().sum()).leaves, own) == ["weight"]
    assert captured(reached(model.weight.detach().requires_grad_().sum()).leaves, own) == []
