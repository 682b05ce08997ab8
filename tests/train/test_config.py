import itertools
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from thalweg.data.markov_data import MarkovConfig
from thalweg.data.task_data import TaskConfig
from thalweg.data.text import TextConfig
from thalweg.errors import BadInputError
from thalweg.models.config import ModelConfig
from thalweg.shift.criterion import AtFraction, AtStep, Plateau
from thalweg.shift.onset import Hard, Ramp
from thalweg.train.config import (
    OptimizerConfig,
    RunConfig,
    ShiftConfig,
    TrainingConfig,
    config_text,
    log_spaced,
    read_config,
    write_config,
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "shift",
    [
        ShiftConfig(),
        ShiftConfig((1, 2, 4), Plateau(delta_loss=0.5), Hard()),
        ShiftConfig((1, 4), AtFraction(0.3, 3750)),
    ],
)
def test_config_survives_the_way_to_toml_and_back(tmp_path: Path, shift: ShiftConfig) -> None:
    config = RunConfig(arm="x", seed=3, shift=shift)
    assert read_config(written(tmp_path, config_text(config))) == config


def test_text_config_survives_the_way_to_toml_and_back(tmp_path: Path, tiny_text: RunConfig) -> None:
    assert read_config(written(tmp_path, config_text(tiny_text))) == tiny_text


def test_changes_are_applied_on_top_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, config_text(RunConfig()))
    config = read_config(
        path, ["training.steps=7", "arm=abc", "shift.stages=[1, 5]", "shift.onset.kind=hard", "optimizer.rate=1e-4"]
    )
    assert (config.training.steps, config.arm, config.shift.stages, config.optimizer.rate) == (7, "abc", (1, 5), 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nwidht = 4", "unknown key in model 'widht'; did you mean 'width'"),
        ("[modle]\nwidth = 4", "unknown key in RunConfig 'modle'; did you mean 'model'"),
        ("[model]\nwidth = 'wide'", "model.width: given 'wide', expected a whole number"),
        ("[model]\nwidth = 0", "model.width: given 0, expected a whole number of at least 1"),
        ("[model]\nwidth = 10\nheads = 3", "model.heads: given 3, expected a divisor of the width 10"),
        ("[model]\nvocabulary = 1", "model.vocabulary: given 1, expected at least 2 tokens"),
        ("[model]\nattention = 'sofmax'", "unknown model.attention 'sofmax'; did you mean 'softmax'"),
        ("[data]\nkind = 'markow'", "unknown kind in data 'markow'; did you mean 'markov'"),
        ("[data]\nvocabulary = 8", "expected a section with kind = one of markov, pointers, task, text"),
        ("[data]\nkind = 'markov'\nvocabulary = 1", "data.vocabulary: given 1, expected at least 2 tokens"),
        ("[data]\nkind = 'markov'\norder = 0", "data.order: given 0, expected at least 1"),
        ("[data]\nkind = 'markov'\nlength = 2", "data.length: given 2, expected more tokens than the order 2"),
        ("[data]\nkind = 'markov'\nvocabulary = 8", "model.vocabulary: given 16, expected the data's 8 tokens"),
        ("[data]\nkind = 'markov'\nlength = 20", "model.length: given 12, expected at least 19"),
        ("[shift]\nstages = [3, 1]", "stages: given .*expected loop counts of at least 1 that rise"),
        (
            "[shift]\nstages = [1, 2, 3]\ncriterion = {kind = 'at-step', step = 5}",
            r"criterion: given one for all 2 changes, AtStep\(step=5\), expected one c",
        ),
        ("[shift]\nstages = [0, 2]", "expected loop counts of at least 1 that rise"),
        ("[shift.criterion]\nkind = 'plateau'\npatience = 0", "patience: given 0, expected a whole number of at least 1"),
        ("[shift.onset]\nkind = 'ramp'\nsteps = 0", "ramp steps: given 0, expected a whole number of at least 1"),
        ("[optimizer]\nrate = -1.0", "optimizer.rate: given -1.0, expected a positive number"),
        ("[optimizer]\nname = 'adam'", "unknown optimizer.name 'adam'; did you mean 'adamw'"),
        ("[optimizer]\nbeta2 = 1.0", "optimizer.beta2: given 1.0, expected a number from 0 up to, not including, 1"),
        ("[training]\nsteps = 0", "training.steps: given 0, expected a whole number of at least 1"),
        ("[training]\nsteps = true", "training.steps: given True, expected a whole number"),
        ("seed = -1", "seed: given -1, expected a whole number from 0"),
        ("seed = ", "not TOML"),
    ],
)
def test_bad_config_gets_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInputError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_config_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no such file; expected a TOML file; `thalweg recipe markov`"):
        read_config(tmp_path / "none.toml")


def test_a_change_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"--set: given 'training.steps', expected section.key=value"):
        read_config(written(tmp_path, "seed = 0"), ["training.steps"])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("steps=60", "'training.steps'"),
        ("max_steps=60", "'training.steps'"),
        ("batch_size=8", "'training.batch'"),
        ("learning_rate=0.1", "'optimizer.rate'"),
        ("training.lr=0.1", "'optimizer.rate'"),
        ("optimizer.learning_rate=0.1", "'rate'"),
        ("n_loops=4", "'shift.stages'"),
        ("depth=4", "'shift.stages'"),
        ("d_model=8", "'model.width'"),
        ("model.hidden_size=8", "'width'"),
        ("num_heads=2", "'model.heads'"),
        ("patience=2", "'shift.criterion.patience'"),
        ("order=3", "'data.order'"),
        ("length=3", "'data.length' or 'model.length'"),
        ("model.seed=1", "'seed', in no section"),
        ("step=60", "'training.steps'"),
        ("modle.width=4", "'model'"),
    ],
)
def test_a_key_in_the_wrong_section_or_by_another_s_name_leads_to_ours(tmp_path: Path, change: str, place: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_config(written(tmp_path, config_text(RunConfig())), [change, "arm=x"])
    assert f", --set {change}: unknown key in " in str(caught.value)
    assert f"; did you mean {place}? Known: " in str(caught.value)
    assert "--set arm=x" not in str(caught.value)


def test_a_key_of_another_kind_of_data_is_not_suggested(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"unknown key in RunConfig 'longest'; known: arm"):
        read_config(written(tmp_path, config_text(RunConfig())), ["longest=6"])
    with pytest.raises(BadInputError, match=r"unknown key in RunConfig 'longest'; did you mean 'data.longest'"):
        read_config(written(tmp_path, "[data]\nkind = 'task'"), ["longest=6"])


def test_fraction_of_another_length_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"total_steps: given 10, expected training.steps, 3750"):
        RunConfig(shift=ShiftConfig((1, 2), AtFraction(0.5, 10)))


def test_sequences_may_be_longer_than_the_model_without_learned_positions() -> None:
    config = RunConfig(model=ModelConfig(length=1, positions="none"))
    assert replace(config, optimizer=OptimizerConfig(), training=TrainingConfig()).model.length == 1


@pytest.mark.parametrize(("last", "count"), [(1, 2), (5, 6), (40, 12), (40, 41), (1600, 12), (6000, 41)])
def test_snapshots_are_as_many_different_rising_steps_as_asked_from_first_to_last(last: int, count: int) -> None:
    found = log_spaced(last, count)
    assert len(found) == count
    assert list(found) == sorted(set(found))
    assert (found[0], found[-1]) == (0, last)


def test_snapshots_lie_evenly_in_the_logarithm() -> None:
    found = [math.log1p(100 * step / 60000) for step in log_spaced(60000, 41)]
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) - min(gaps) < 0.002


@pytest.mark.parametrize("snapshots", [-1, 1, 12])
def test_snapshots_that_do_not_fit_the_run_are_refused(snapshots: int) -> None:
    message = rf"^training.snapshots: given {snapshots}, expected 0, or from 2 to one more than training.steps$"
    with pytest.raises(BadInputError, match=message):
        TrainingConfig(steps=10, snapshots=snapshots)


def test_learned_gains_must_reach_the_deepest_pass():
    model = ModelConfig(length=11, learned_gains=4)
    RunConfig(model=model, shift=ShiftConfig((1, 4)))
    with pytest.raises(
        BadInputError, match=r"model.learned_gains: given 4, expected 0, or at least the 6 passes that the run uses"
    ):
        RunConfig(model=model, shift=ShiftConfig((1, 4), spread=0.5))


@pytest.mark.parametrize(
    "text", [b"arm = 'caf\xe9'", b"[data]\nkind = 'text'\nlength = 9\n[caf\xe9]\nx = 1", b"\xff\xfe"], ids=repr
)
def test_bytes_that_are_no_utf_8_are_refused_but_in_the_path_of_a_text(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "run.toml").write_bytes(text)
    with pytest.raises(BadInputError, match=r"run\.toml: not TOML") as caught:
        read_config(tmp_path / "run.toml")
    assert "\n" not in str(caught.value)


def test_the_path_of_a_text_keeps_its_bytes(tmp_path: Path, tiny_text: RunConfig) -> None:
    config = replace(tiny_text, data=replace(tiny_text.data, path="/tmp/caf\udce9\nred\x1b[31m"))
    write_config(tmp_path / "run.toml", config)
    assert b"caf\xe9" in (tmp_path / "run.toml").read_bytes()
    assert read_config(tmp_path / "run.toml") == config


BROKEN = ["x", None, math.nan, math.inf, [1], {}, int, 1j]
CONFIGS = (OptimizerConfig, TrainingConfig, MarkovConfig, TextConfig, TaskConfig)


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
def test_every_number_and_choice_of_every_section_is_checked_where_it_is_made(cls: type) -> None:
    for one in fields(cls):
        holds = type(getattr(cls(), one.name))
        for junk in [junk for junk in BROKEN if not isinstance(junk, holds) and not (holds is tuple and junk == [1])]:
            with pytest.raises(BadInputError, match=one.name):
                cls(**{one.name: junk})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShiftConfig(onset=Ramp), "shift.onset: given the class Ramp, expected .*an object of Hard or Ramp"),
        (lambda: ShiftConfig(onset="hard"), "shift.onset: given 'hard', expected a section with kind = one of hard, ramp"),
        (lambda: ShiftConfig(criterion=Plateau), "shift.criterion: given the class Plateau, expected .*an object of Plateau"),
        (lambda: ShiftConfig(net="net"), "shift.net: given 'net', expected a section with keys"),
        (lambda: ShiftConfig(stages="12"), "shift.stages: given '12', expected a list, each a whole number"),
        (lambda: ShiftConfig(spread=math.nan), "shift.spread: given nan, expected a finite number"),
        (lambda: OptimizerConfig(rate=math.inf), "optimizer.rate: given inf, expected a finite number"),
        (lambda: OptimizerConfig(schedule="cosin"), "unknown optimizer.schedule 'cosin'; did you mean 'cosine'"),
        (lambda: TrainingConfig(steps=10.0), r"training.steps: given 10\.0, expected a whole number"),
        (lambda: RunConfig(seed=True), "seed: given True, expected a whole number"),
        (lambda: RunConfig(model="big"), "model: given 'big', expected a section with keys"),
        (lambda: RunConfig(data=MarkovConfig), "data: given the class MarkovConfig, expected .*an object of MarkovConfig or"),
    ],
)
def test_a_section_that_cannot_be_is_refused_when_it_is_made(make, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_become_plain_ones_and_can_be_written(tmp_path: Path) -> None:
    config = RunConfig(
        seed=np.int64(3),
        optimizer=OptimizerConfig(rate=np.float32(0.5), warmup=np.int64(2)),
        shift=ShiftConfig(np.array([1, 2]), AtStep(np.int64(4)), Ramp(np.int32(5))),
    )
    write_config(tmp_path / "run.toml", config)
    assert read_config(tmp_path / "run.toml") == config
