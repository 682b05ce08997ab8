"""A small training with the Trainer of Hugging Face; as a script, one of two ranks."""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from tests.integrations.architectures import made, quiet

import thalweg as tw
from thalweg.integrations.huggingface import loop
from thalweg.integrations.trainer import attach

STEPS, SWITCH, RAMP = 10, 4, 4
TRACE: list[tuple[Any, ...]] = []


class Rows(torch.utils.data.Dataset):
    """Sixteen random sequences with some tokens that do not count."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(3, 64, (9,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[: 1 + index % 3] = -100
        return {"input_ids": ids, "labels": labels}


def ramped(**more: Any) -> tw.Shift:
    options = {"loops": 3, "criterion": tw.AtStep(SWITCH), "onset": tw.Ramp(RAMP), "handover": tw.Handover(rate=0.5)}
    return tw.Shift(**options | more)


def trainer(folder: Path, shift: tw.Shift | None = None, looping: dict[str, Any] | None = None, **more: Any) -> Any:
    """A Trainer whose model is looped; `TRACE` collects loss and norm of every update."""
    transformers = quiet()
    transformers.set_seed(0)
    model = made("llama", attention_dropout=0.1).train()
    looped = loop(model, 1, 3, **looping or {})
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_steps": 1000,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "seed": 0,
        "dataloader_pin_memory": False,
    }
    made_trainer = transformers.Trainer(
        model=model, args=transformers.TrainingArguments(**options | more), train_dataset=Rows(), eval_dataset=Rows()
    )
    TRACE.clear()
    if shift is not None:
        update = shift.update
        shift.update = lambda loss, norm: (TRACE.append((shift.step, looped.loops, loss, norm)), update(loss, norm))[1]  # type: ignore[method-assign]
        attach(made_trainer, shift, looped)
    return made_trainer


def main(folder: str) -> None:
    """Two ranks, half the batch each: learned gains under DDP with checkpointing."""
    warnings.simplefilter("ignore")
    looping = {"learned_gains": "each", "most_loops": 3}
    one = trainer(
        Path(folder),
        ramped(onset=tw.Hard()),
        looping,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
        ddp_backend="gloo",
        save_strategy="no",
        max_steps=7,
    )
    one.model.config.attention_dropout = 0.0
    for layer in one.model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    one.train()
    if one.is_world_process_zero():
        weights = {name: value.detach().clone() for name, value in one.model.state_dict().items()}
        torch.save((TRACE, weights), Path(folder) / "rank0.pt")
    torch.distributed.barrier()  # so that no rank leaves while another still talks to it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
