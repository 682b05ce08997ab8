import random

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.curvature.context import quiet, random_state, seeded, unchanged_attributes, undisturbed
from thalweg.curvature.hessian import Hessian
from thalweg.errors import BadInputError


class Merging(nn.Linear):
    """Moves its weight when its mode is changed by a method, as low-rank adapters do."""

    def train(self, mode=True):
        self.weight.data += 1
        return super().train(mode)


@pytest.mark.parametrize(("mode", "expected"), [("eval", [False] * 3), ("train", [True] * 3), ("as-is", [True, False, True])])
def test_modes_are_set_as_attributes_and_put_back(mode, expected):
    model = nn.Sequential(Merging(2, 2), nn.Dropout())
    model[0].training = False
    weight = model[0].weight.detach().clone()
    with quiet(model, mode):
        assert [module.training for module in model.modules()] == expected
    assert [module.training for module in model.modules()] == [True, False, True]
    assert torch.equal(model[0].weight, weight)


def test_settings_around_are_left_and_come_back():
    model = nn.Sequential(nn.Embedding(3, 2, sparse=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        with quiet(model):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.backends.mha.get_fastpath_enabled()
            assert model[0].sparse is False
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert model[0].sparse is True


def test_compiled_parts_run_as_they_were_written():
    calls = []
    backend = lambda graph, inputs: calls.append(graph) or graph.forward  # noqa: E731
    inner = torch.compile(lambda x: x.sin(), backend=backend)
    with quiet(nn.Linear(1, 1)):
        inner(torch.ones(2))
    assert not calls


def test_a_seed_fixes_every_global_generator_and_puts_it_back():
    draw = lambda: (float(torch.rand(())), random.random(), float(np.random.rand()))  # noqa: E731, NPY002
    before = random_state()
    with seeded(3):
        first = draw()
    with seeded(3):
        assert draw() == first
    with seeded(4):
        assert draw() != first
    assert random_state() == before


def test_a_draw_from_any_global_generator_shows():
    for draw in (lambda: torch.rand(1), random.random, lambda: np.random.rand()):  # noqa: NPY002
        before = random_state()
        draw()
        assert random_state() != before


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(BadInputError, match=rf"^seed: given {seed}, expected a whole number from 0 to"), seeded(seed):
        pass


def test_an_unknown_mode_comes_with_the_likely_one():
    with pytest.raises(BadInputError, match=r"^unknown mode 'trian'; did you mean 'train'\? Known: as-is, eval, train$"):
        Hessian(lambda m, b: m(b).mean(), nn.Linear(2, 1), [torch.ones(3, 2)], mode="trian")


def test_attributes_lists_and_new_names_of_modules_are_put_back():
    model = nn.Linear(2, 2)
    model.cache, model.history, model.table = None, [1], {"a": torch.ones(1)}
    kept = model.table["a"]
    with unchanged_attributes(model):
        model.cache, model.more = torch.ones(2), 5
        model.history.append(2)
        model.table["a"], model.table["b"] = torch.zeros(1), 0
    assert model.cache is None
    assert not hasattr(model, "more")
    assert model.history == [1]
    assert list(model.table) == ["a"]
    assert model.table["a"] is kept


class Caching(nn.Linear):
    """Computes its weight once and keeps it, as merged adapters and rotary tables are kept."""

    kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.tanh(self.weight)
        return nn.functional.linear(x, self.kept, self.bias)


def test_what_a_forward_pass_caches_is_not_used_for_other_weights():
    torch.manual_seed(0)
    model, x = Caching(3, 2), torch.randn(5, 3)
    loss = lambda m, b: m(b).pow(4).mean()  # noqa: E731
    plain = lambda m, b: nn.functional.linear(b, torch.tanh(m.weight), m.bias).pow(4).mean()  # noqa: E731
    v = torch.randn(8)
    assert torch.equal(Hessian(loss, model, [x]) @ v, Hessian(plain, model, [x]) @ v)
    assert model.kept is None


def test_a_function_is_computed_outside_of_inference_mode_and_autocast():
    look = undisturbed(lambda: (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert look()[:2] == (False, False)
    with torch.no_grad():
        assert look() == (False, False, False)
