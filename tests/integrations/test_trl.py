"""TRL's SFTTrainer and PEFT's adapters with a looped model, without a change to either."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("trl", reason="TRL is not installed")
pytest.importorskip("peft", reason="peft is not installed")

import torch
from tests.integrations.architectures import made, quiet
from tests.integrations.hf_training import RAMP, STEPS, SWITCH, Rows, ramped

from thalweg.integrations.huggingface import loop
from thalweg.integrations.trainer import attach

pytestmark = pytest.mark.filterwarnings("ignore")
CLOSE = 1e-5
"""Largest relative difference of a loss: the same rows in the same order, with a mean that is computed in another order."""


def tokenizer() -> Any:
    """Words "0" to "63" are the tokens 0 to 63."""
    import tokenizers
    import transformers

    vocabulary = {str(index): index for index in range(64)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="3"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="0", bos_token="1", eos_token="2")


def rows() -> list[dict[str, list[int]]]:
    return [{"input_ids": Rows()[index]["input_ids"].tolist()} for index in range(len(Rows()))]


def fine_tuned(kind: str, folder: Path, **more: Any) -> tuple[Any, list[float]]:
    """Ten updates with SHIFT under TRL's trainer, or under the Trainer on the same rows; the trainer and the schedule's losses."""
    import datasets
    import trl

    transformers = quiet()
    transformers.set_seed(0)
    model = made("llama").train()
    looped = loop(model, 1, 3)
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": STEPS,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    if kind == "trl":
        data = datasets.Dataset.from_list(rows())
        one = trl.SFTTrainer(model, trl.SFTConfig(**options), train_dataset=data, processing_class=tokenizer(), **more)
    else:
        data = [row | {"labels": row["input_ids"]} for row in rows()]
        one = transformers.Trainer(model, transformers.TrainingArguments(**options), train_dataset=data)
    shift, losses = ramped(), []
    update = shift.update
    shift.update = lambda loss, norm: (losses.append(loss), update(loss, norm))[1]  # type: ignore[method-assign]
    attach(one, shift, looped)
    one.train()
    return one, losses


def test_sft_with_shift_has_the_losses_of_the_trainer(tmp_path: Path) -> None:
    ours, losses = fine_tuned("trl", tmp_path / "trl")
    _, plain = fine_tuned("trainer", tmp_path / "trainer")
    assert losses == pytest.approx(plain, rel=CLOSE)
    logs = [entry for entry in ours.state.log_history if "loss" in entry]
    assert [entry["loops"] for entry in logs] == [1] * SWITCH + [3] * (STEPS - SWITCH)
    assert [entry["loop_gain"] for entry in logs[SWITCH : SWITCH + RAMP]] == [0, 0.25, 0.5, 0.75]


def test_sft_of_a_lora_adapter_trains_the_adapter_alone(tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    one, losses = fine_tuned("trl", tmp_path, peft_config=config)
    quiet().set_seed(0)
    before = made("llama").state_dict()
    adapted = {name: value for name, value in one.model.named_parameters() if value.requires_grad}
    assert all("lora_" in name for name in adapted)
    assert any(float(value.abs().max()) > 0 for name, value in adapted.items() if "lora_B" in name)
    frozen = {name.replace(".base_layer", ""): value for name, value in one.model.get_base_model().state_dict().items()}
    assert all(torch.equal(frozen[name], value) for name, value in before.items())
    assert losses[-1] < losses[0]
