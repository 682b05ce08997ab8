import logging
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")

import torch
import transformers
from safetensors.torch import save_file
from tests.integrations.architectures import logits, made, quiet

from thalweg.errors import BadInputError, DamagedFileError
from thalweg.integrations.huggingface import loop, looped_layers_of
from thalweg.integrations.saving import load, save

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

OPTIONS = {"learned_gains": "each", "gain_start": 0.5, "most_loops": 4, "norm": True, "injection": True, "backprop": 2}


def saved(folder: Path):
    model = made("llama")
    loop(model, 1, 3, loops=3, gains=(1, 0.5, 0.25), **OPTIONS)
    with torch.no_grad():
        looped_layers_of(model).pass_gains.copy_(torch.tensor([0.1, 0.2, 0.3]))
    save(model, folder)
    return model


def test_loading_gives_model_loops_and_learned_gains_back(tmp_path: Path) -> None:
    model = saved(tmp_path / "new" / "folder")
    loaded, looped = load(tmp_path / "new" / "folder")
    assert torch.equal(logits(loaded.eval()), logits(model))
    assert (looped.loops, looped.gains, looped.options) == (3, (1.0, 0.5, 0.25), looped_layers_of(model).options)


def test_plain_transformers_loads_every_key(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    loaded, report = quiet().AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(logits(loaded.eval()), logits(made("llama")))


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "and another's"])
def test_keys_of_ours_in_a_checkpoint_are_not_reported_and_others_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    model = saved(tmp_path / "model")
    weights = model.state_dict() | ({"another.weight": torch.ones(1)} if foreign else {})
    assert any(name.startswith("thalweg.") for name in weights)
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, tmp_path / "model" / "model.safetensors", {"format": "pt"}
    )
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers.logging.set_verbosity_warning()
    with caplog.at_level(logging.WARNING):
        loaded, _ = load(tmp_path / "model")
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert ("another.weight" in told, "UNEXPECTED" in told, "thalweg." in told) == (foreign, foreign, False)
    assert torch.equal(logits(loaded.eval()), logits(model))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert "thalweg." in "\n".join(record.getMessage() for record in caplog.records)  # plain transformers is left as it is
    transformers.logging.set_verbosity_error()


def test_nothing_but_the_folder_is_left(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    kinds = {path.suffix for path in (tmp_path / "model").iterdir()}
    assert kinds == {".json", ".safetensors"}


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama")
    loop(model, 1, 3)
    monkeypatch.setattr("thalweg.integrations.saving.save_loops", lambda looped, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    with pytest.raises(BadInputError, match="does not exist or is empty"):
        save(model, tmp_path / "model")


def test_a_folder_without_loops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"expected a folder with thalweg\.json"):
        load(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    weights, settings = tmp_path / "model" / "thalweg.safetensors", tmp_path / "model" / "thalweg.json"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(DamagedFileError, match=r"damaged arrays .*thalweg\.safetensors"):
        load(tmp_path / "model")
    weights.unlink()
    with pytest.raises(DamagedFileError, match=r"thalweg\.safetensors"):
        load(tmp_path / "model")
    settings.write_text('{"first": 1}')
    with pytest.raises(DamagedFileError, match=r"thalweg\.json"):
        load(tmp_path / "model")


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(made("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    loop(model, 1, 3)
    with pytest.raises(BadInputError, match="merge the adapter first"):
        save(model, tmp_path / "model")
