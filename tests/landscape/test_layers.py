import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.curvature.dense import dense_hessian
from thalweg.errors import BadInputError
from thalweg.landscape.entropy import matrix_entropy
from thalweg.landscape.layers import LayerProbe, grouped
from thalweg.landscape.probe import LandscapeProbe

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.curvature.test_hugging_face import llama

CHOSEN = ["model.layers.0.mlp.*", "model.norm.weight", "lm_head.weight"]
EXACT = 1e-8
"""Relative, float64."""
PROBE = LandscapeProbe(top=2, forms=0, dtype=torch.float64, method="exact")


def loss(model, batch):
    return model(input_ids=batch, labels=batch, use_cache=False).loss


@pytest.fixture(scope="module")
def small():
    """A Llama of one layer, two of its checkpoints, and tokens without the one that it pads with."""
    torch.manual_seed(0)
    first = llama().double()
    second = copy.deepcopy(first)
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(1.3)
    return first, second, torch.randint(1, 11, (4, 6))


@pytest.fixture(scope="module")
def series(small):
    first, second, tokens = small
    return list(LayerProbe("module", PROBE).along(loss, [(0, first), (7, second)], [tokens], CHOSEN))


def test_every_block_is_that_of_the_whole_hessian(small, series):
    first, _, tokens = small
    whole = dense_hessian(loss, first, [tokens], CHOSEN, dtype=torch.float64)
    for name, block in series[0].layers.items():
        values = torch.linalg.eigvalsh(whole[name + ".*", name + ".*"])
        assert block.dim == len(values)
        assert block.trace.value == pytest.approx(float(values.sum()), rel=EXACT)
        assert block.largest == pytest.approx(values.flip(0)[:2].tolist(), rel=EXACT)
        assert block.entropy.value == pytest.approx(matrix_entropy(values).value, rel=1e-6)


def test_the_groups_are_the_modules_of_the_hugging_face_model(small, series):
    owners = ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.norm", "lm_head"]
    assert list(series[0].layers) == owners
    assert [record.step for record in series] == [0, 7]


def test_each_block_is_compared_with_itself_at_the_point_before(small, series):
    first, second, tokens = small
    assert all(block.change is None for block in series[0].layers.values())
    name = "model.layers.0.mlp.down_proj.weight"
    a, b = (dense_hessian(loss, model, [tokens], name, dtype=torch.float64).matrix for model in (first, second))
    change = series[1].layers["model.layers.0.mlp.down_proj"].change
    assert change.cosine.value == pytest.approx(float((a * b).sum() / a.norm() / b.norm()), rel=EXACT)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("layer", ["model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head", "scale"]),
        ("module", ["model.embed_tokens", "model.layers.0.q", "model.layers.1.q", "model.layers.1.norm", "lm_head", "scale"]),
        ("matrix", None),
    ],
)
def test_parameters_are_grouped_by_name(by, groups):
    names = ["model.embed_tokens.weight", "model.layers.0.q.weight", "model.layers.0.q.bias", "model.layers.1.q.weight"]
    names += ["model.layers.1.norm.weight", "lm_head.weight", "scale"]
    found = grouped(names, by)
    assert list(found) == (names if groups is None else groups)
    assert sorted(name for members in found.values() for name in members) == sorted(names)


def test_a_block_of_zeros_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()
    linear = LayerProbe("module", PROBE).measure(
        lambda m, x: m[0](x).square().mean() + m[1].weight.sum() + m[1].bias.sum(), model, [torch.eye(2)]
    )
    assert (list(linear.layers), linear.flat) == (["0"], ("1",))
    assert str(linear).splitlines()[-1].split() == ["1", "(zero", "block)"]


def test_the_class_of_a_planted_valley():
    """Curvatures of 1 to 1.5 are a U, of 0.1 to 10 a V; each over a river of zeros."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.even, self.uneven = (nn.Parameter(torch.ones(60, dtype=torch.float64)) for _ in range(2))

    curves = {"even": torch.linspace(1, 1.5, 30), "uneven": torch.logspace(-1, 1, 30)}

    def quadratic(model, batch):
        return sum((curve * getattr(model, name)[:30].square()).sum() for name, curve in curves.items())

    record = LayerProbe("matrix", PROBE).measure(quadratic, Two(), [torch.ones(1)])
    assert {name: block.split.name for name, block in record.layers.items()} == {"even": "U", "uneven": "V"}


def test_what_does_not_fit_is_refused(small):
    first, _, tokens = small
    with pytest.raises(BadInputError, match=r"by.*'layers'; did you mean 'layer'"):
        LayerProbe("layers")
    with pytest.raises(BadInputError, match="probe: given one with pairs to balance"):
        LayerProbe(probe=LandscapeProbe(pairs=[("a", "b")]))
    probe = LayerProbe("layer", PROBE)
    probe.measure(loss, first, [tokens], params="lm_head.weight")
    with pytest.raises(BadInputError, match=r"^model: given 2 groups of parameters, expected the 1 of the point before; reset"):
        probe.measure(loss, first, [tokens], params=["lm_head.weight", "model.norm.weight"])
    probe.reset()
    assert probe.measure(loss, first, [tokens], params="model.norm.weight").layers.keys() == {"model.norm"}


def test_a_failure_in_one_group_leaves_all_at_the_point_before():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(8, 2)
    calls = []

    def loss(model, batch):
        calls.append(None)
        if fails and len(calls) > fails:
            raise RuntimeError("out of luck")
        return model(batch).square().mean()

    fails = 0
    probe = LayerProbe()
    probe.measure(loss, model, [x], step=1)  # which is checked
    calls.clear()
    probe.measure(loss, model, [x], step=2)
    of_a_point, points = len(calls), {name: one.last_point for name, one in probe.probes.items()}
    calls.clear()
    fails = of_a_point - 1  # in the second group
    with pytest.raises(RuntimeError, match="out of luck"):
        probe.measure(loss, model, [x], step=3)
    assert {name: one.last_point for name, one in probe.probes.items()} == points
