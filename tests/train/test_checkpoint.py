import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from thalweg.errors import DamagedFileError
from thalweg.train.assemble import make_data, make_model
from thalweg.train.checkpoint import (
    DamagedCheckpointWarning,
    checkpoints,
    digest,
    gather,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    scatter,
)
from thalweg.train.config import OptimizerConfig, RunConfig
from thalweg.train.step import make_optimizer, train_step

FACTS = {"note": "x"}


def trained(config: RunConfig, steps: int = 3):
    model = make_model(config)
    optimizer, data = make_optimizer(config.optimizer, model), make_data(config)
    for step in range(steps):
        tokens = torch.from_numpy(data.batch(step, 8))
        train_step(model, optimizer, tokens, loops=2, gains=None, rate=1e-2, clip=1.0)
    return model, optimizer, torch.from_numpy(data.batch(steps, 8))


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_a_step_after_loading_equals_the_step_without_saving(tmp_path: Path, tiny: RunConfig, name: str) -> None:
    config = replace(tiny, optimizer=OptimizerConfig(name=name, value_rate=2.0))  # type: ignore[arg-type]
    model, optimizer, tokens = trained(config)
    save_checkpoint(tmp_path, 3, gather(model, optimizer), FACTS, keep=1)
    fresh = make_model(replace(config, seed=99))
    fresh_optimizer = make_optimizer(config.optimizer, fresh)
    scatter(read_checkpoint(checkpoints(tmp_path)[0]), fresh, fresh_optimizer)
    for net, opt in ((model, optimizer), (fresh, fresh_optimizer)):
        train_step(net, opt, tokens, loops=2, gains=None, rate=1e-2, clip=1.0)
    assert digest(gather(fresh, fresh_optimizer)) == digest(gather(model, optimizer))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 20, 300):
        save_checkpoint(tmp_path, step, {"a": torch.ones(2)}, FACTS, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000000020.safetensors", "step-000000300.safetensors"]


def two(tmp_path: Path) -> tuple[Path, Path]:
    older, newer = (save_checkpoint(tmp_path / "checkpoints", s, {"a": torch.arange(9.0) + s}, FACTS, keep=2) for s in (1, 2))
    return older, newer


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "garbage"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    older, newer = two(tmp_path)
    content = bytearray(newer.read_bytes())
    content[-3] ^= 1
    newer.write_bytes({"cut": content[:-4], "flip": content, "empty": b"", "garbage": b"x" * 100}[damage])
    with pytest.warns(DamagedCheckpointWarning, match=rf"damaged checkpoint {newer}.*an older one is tried"):
        found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.path == older


def test_no_readable_checkpoint_stops_with_what_to_do(tmp_path: Path) -> None:
    for path in two(tmp_path):
        path.write_bytes(b"")
    with pytest.warns(DamagedCheckpointWarning), pytest.raises(DamagedFileError, match="no older one can be read; remove"):
        newest_checkpoint(tmp_path / "checkpoints")


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"thalweg": json.dumps({"format": 99, "sha256": ""})})
    with pytest.raises(DamagedFileError, match="format 99, expected 1"):
        read_checkpoint(path)


def test_header_is_readable_without_thalweg(tmp_path: Path) -> None:
    _, newer = two(tmp_path)
    with safe_open(newer, framework="pt") as file:
        assert json.loads(file.metadata()["thalweg"])["step"] == 2


def test_digest_sees_names_shapes_and_values() -> None:
    base = {"a": torch.zeros(4)}
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.tensor([0.0, 0, 0, 1e-38])}, {"a": -torch.zeros(4)}]
    assert len({digest(t) for t in [base, *others]}) == 5
