import dataclasses
import math

import numpy as np
import pytest
import torch

from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.serialization import from_dict, to_dict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": 1}, r"model\.vocabulary: given 1, expected at least 2 tokens"),
        ({"length": 0}, r"model\.length: given 0, expected a whole number of at least 1"),
        ({"width": 0}, r"model\.width: given 0, expected a whole number of at least 1"),
        ({"layers": 0}, r"model\.layers: given 0, expected a whole number of at least 1"),
        ({"heads": 0}, r"model\.heads: given 0, expected a whole number of at least 1"),
        ({"expansion": 0}, r"model\.expansion: given 0, expected a whole number of at least 1"),
        ({"width": 8, "heads": 3}, r"model\.heads: given 3, expected a divisor of the width 8"),
        ({"width": 6, "heads": 2, "positions": "rotary"}, r"model\.width: given 6, expected an even width per head"),
        ({"deviation": -0.1}, r"model\.deviation: given -0\.1, expected a number of at least 0"),
        ({"value_scale": 0.0}, r"model\.value_scale: given 0\.0, expected a positive number"),
        ({"residual_loops": 0}, r"model\.residual_loops: given 0, expected a whole number of at least 1"),
        ({"learned_gains": 1}, r"model\.learned_gains: given 1, expected 0 for none, or a number of passes of at least 2"),
        ({"learned_gains": -1}, r"model\.learned_gains: given -1, expected 0 for none"),
        ({"value_scale": -1.0}, r"model\.value_scale: given -1\.0, expected a positive number"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_its_key(arguments, message):
    with pytest.raises(BadInputError, match=message):
        ModelConfig(**arguments)


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_an_odd_width_per_head_is_fine_without_rotary_positions(positions):
    assert ModelConfig(width=6, heads=2, positions=positions).width == 6


@pytest.mark.parametrize("key", ["block", "attention", "norm", "positions"])
def test_an_unknown_choice_is_refused_when_it_is_read(key):
    with pytest.raises(BadInputError, match=rf"unknown model\.{key} 'wrong'"):
        from_dict(ModelConfig, {key: "wrong"}, "model")


def test_a_config_survives_the_way_through_plain_values():
    config = ModelConfig(width=12, heads=3, block="gpt", attention="linear", norm="none", positions="none", tied=True)
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_the_fields_for_many_loops_survive_the_way_through_plain_values():
    config = ModelConfig(learned_gains=4, loop_norm=True, residual_loops=8)
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'width'"):
        ModelConfig().width = 3


JUNK = ["x", None, math.nan, math.inf, 2.5, [4], int, np.bool_(True), 1j]


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(ModelConfig)])
def test_every_field_refuses_what_it_cannot_hold(name):
    number = isinstance(getattr(ModelConfig(), name), float)
    truth = isinstance(getattr(ModelConfig(), name), bool)
    for junk in [one for one in JUNK if not (number and one == 2.5) and not (truth and isinstance(one, np.bool_))]:
        with pytest.raises(BadInputError, match=rf"model\.{name}"):
            ModelConfig(**{name: junk})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": "gtp"}, "unknown model.block 'gtp'; did you mean 'gpt'"),
        ({"attention": "sofmax"}, "unknown model.attention 'sofmax'; did you mean 'softmax'"),
        ({"norm": "post"}, "unknown model.norm 'post'.*[Kk]nown: none, pre"),
        ({"positions": "rotery"}, "unknown model.positions 'rotery'; did you mean 'rotary'"),
        ({"positions": None}, "model.positions: given None, expected one of learned, rotary, none"),
        ({"width": 64.0}, r"model.width: given 64\.0, expected a whole number"),
        ({"width": "64"}, "model.width: given '64', expected a whole number"),
        ({"layers": True}, "model.layers: given True, expected a whole number"),
        ({"tied": 1}, "model.tied: given 1, expected true or false"),
        ({"deviation": math.nan}, "model.deviation: given nan, expected a finite number"),
        ({"value_scale": math.inf}, "model.value_scale: given inf, expected a finite number"),
    ],
    ids=str,
)
def test_an_unknown_choice_or_a_broken_number_is_refused_when_the_config_is_made(arguments, message):
    with pytest.raises(BadInputError, match=message) as caught:
        ModelConfig(**arguments)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_and_torch_become_plain_ones():
    made = ModelConfig(width=np.int64(8), layers=torch.tensor(2), deviation=np.float32(0.5), tied=np.bool_(True), value_scale=2)
    assert made == ModelConfig(width=8, layers=2, deviation=0.5, tied=True, value_scale=2.0)
    assert {type(value) for value in dataclasses.astuple(made)} == {int, float, bool, str}
