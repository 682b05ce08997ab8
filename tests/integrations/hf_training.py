"""A small training with the Trainer of Hugging Face; as a script, one of two ranks."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.integrations.architectures import made, quiet
from torch.distributed.fsdp import fully_shard

import thalweg as tw
from thalweg import ranks
from thalweg.curvature.sharded import whole
from thalweg.errors import BadInputError
from thalweg.integrations.huggingface import loop, looped_layers_of
from thalweg.integrations.trainer import attach
from thalweg.integrations.updates import ShiftUpdates

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


def checkpointed(folder: Path, **more: Any) -> tuple[list[Any], dict[str, torch.Tensor], list[list[float]]]:
    """Train with learned gains that begin at 1, weight decay and gradient checkpointing, without dropout.

    Returns:
        `TRACE`, the weights in the end, and the learned gains after every update.
    """
    looping = {"learned_gains": "each", "most_loops": 3, "gain_start": 1.0}
    options = {"gradient_checkpointing": True, "weight_decay": 0.1, "save_strategy": "no", "max_steps": 7}
    one = trainer(folder, ramped(onset=tw.Hard()), looping, **options | more)
    for layer in one.model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    gains: list[list[float]] = []
    end_step = one.callback_handler.callbacks[-1].on_step_end
    one.callback_handler.callbacks[-1].on_step_end = lambda *given, **named: (
        gains.append(one.model.thalweg.pass_gains.tolist()),
        end_step(*given, **named),
    )[1]
    one.train()
    return list(TRACE), {name: value.detach().clone() for name, value in one.model.state_dict().items()}, gains


def by_hand(sharded: bool) -> tuple[list[Any], dict[str, torch.Tensor], Any]:
    """Train a looped model in a loop of one's own, under ``fully_shard`` or as it is; ranks share every batch of four.

    Returns:
        What the schedule saw, the whole weights in the end, and the model.
    """
    quiet().set_seed(0)
    model = made("llama").train()
    looped = loop(model, 1, 3, learned_gains="each", most_loops=3, gain_start=0.5, norm=True)
    if sharded:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    shift, trace = ramped(onset=tw.Ramp(2)), []
    update = shift.update
    shift.update = lambda loss, norm: (trace.append((looped.loops, loss, norm)), update(loss, norm))[1]  # type: ignore[method-assign]
    updates = ShiftUpdates(shift, looped)
    updates.watch(optimizer)
    for step in range(STEPS):
        updates.begin()
        ids = torch.stack([Rows()[4 * step + row]["input_ids"] for row in range(4)])[ranks.rank() :: ranks.world()]
        loss = model(ids, labels=ids).loss
        loss.backward()
        updates.add_loss(loss)
        updates.see_norm(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        optimizer.zero_grad()
        updates.end(optimizer)
    return trace, {name: whole(value.detach()).clone() for name, value in model.state_dict().items()}, model


def refusal(work: Callable[[], Any]) -> str:
    try:
        work()
    except BadInputError as error:
        return str(error)
    return "nothing refused"


def main(folder: Path) -> None:
    """Two ranks, half the batch each: the Trainer's DDP, then ``fully_shard``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, Any] = {"ddp": checkpointed(folder, gradient_accumulation_steps=1, ddp_backend="gloo")}
    trace, weights, model = by_hand(sharded=True)
    found["sharded"] = (trace, weights)
    found["remove"] = refusal(looped_layers_of(model).remove)
    plain = made("llama")
    fully_shard(plain)
    found["loop"] = refusal(lambda: loop(plain, 1, 3))
    if ranks.rank() == 0:
        torch.save(found, folder / "rank0.pt")
    torch.distributed.barrier()  # so that no rank leaves while another still talks to it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
