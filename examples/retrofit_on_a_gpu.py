"""Retrofit: train a Llama-style model, loop its middle layers, and train on in three ways at equal operations.

The ways are: without loops, looped at once, and with SHIFT. Each is run with several seeds; the table shows held-out bits per
byte with 95 % intervals, and by how much the loss rose when the loops were added. The text is the source of Python's standard
library, as bytes.

    python retrofit_on_a_gpu.py          # seconds on a CPU, to see that it works; its numbers mean nothing
    python retrofit_on_a_gpu.py --quick  # 1.3M parameters, half an hour on one core
    python retrofit_on_a_gpu.py --gpu    # 100M parameters in ten minutes on one GPU

Needs the extra ``hf``.
"""

import argparse
import math
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

import thalweg as tw
from thalweg.intervals import interval

try:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
    from transformers.trainer_callback import PrinterCallback

    from thalweg.integrations.huggingface import loop
    from thalweg.integrations.trainer import attach
except ImportError as error:
    print(f"not run: {error}")
    raise SystemExit(0) from None


@dataclass(frozen=True)
class Size:
    """One size of the experiment."""

    width: int
    layers: int
    batch: int
    length: int
    updates: int
    """Updates before the loops."""
    further: int
    """Updates after them without loops; the other ways make as many operations."""
    seeds: int
    rate: float
    megabytes: float
    held_out: int
    """Sequences that are held out."""


SIZES = {
    "demo": Size(32, 4, 8, 64, 20, 12, 3, 3e-3, 0.2, 16),
    "quick": Size(128, 6, 16, 128, 700, 150, 3, 2e-3, 16, 128),
    "gpu": Size(832, 12, 64, 512, 1500, 400, 3, 6e-4, 100, 256),
}
LOOPS = 3


def read_text(megabytes: float) -> torch.Tensor:
    """The bytes of Python's standard library, at most so many, shuffled by file with a fixed seed."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    content, most = bytearray(), int(megabytes * 1e6)
    for index in order:
        if len(content) < most:
            content += files[index].read_bytes()
    return torch.frombuffer(content, dtype=torch.uint8)[:most]


class Rows(torch.utils.data.Dataset):
    """Sequences of a fixed length, one after the other."""

    def __init__(self, text: torch.Tensor, length: int) -> None:
        self.rows = text[: len(text) // length * length].view(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index].long()
        return {"input_ids": row, "labels": row}


def trainer_for(model: Any, size: Size, data: tuple[Rows, Rows], updates: int, seed: int, folder: str) -> Trainer:
    """A Trainer with a complete schedule of the learning rate over its updates."""
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=updates,
        per_device_train_batch_size=size.batch,
        per_device_eval_batch_size=size.batch,
        learning_rate=size.rate,
        warmup_steps=max(1, updates // 20),
        lr_scheduler_type="cosine",
        bf16=torch.cuda.is_available(),
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data[0], eval_dataset=data[1])
    trainer.remove_callback(PrinterCallback)
    return trainer


def bits(trainer: Trainer) -> float:
    """Held-out bits per byte."""
    return trainer.evaluate()["eval_loss"] / math.log(2)


def updates_for(shift: tw.Shift, size: Size, budget: float) -> int:
    """Number of updates of a schedule that make as many operations as a budget of layer calls; skipped passes cost nothing."""
    spent, updates, block = 0.0, 0, size.layers // 3
    while spent < budget:
        active = sum(gain != 0 for gain in shift.gains)
        spent += size.layers + (active - 1) * block
        shift.update(loss=1.0, grad_norm=1.0)
        updates += 1
    return updates


def schedules(size: Size) -> dict[str, Any]:
    """Way -> a function that makes its schedule."""
    return {
        "unlooped": lambda: tw.Shift(stages=(1,)),
        "looped at once": lambda: tw.Shift(stages=(LOOPS,)),
        "SHIFT": lambda: tw.Shift(
            loops=LOOPS, criterion=tw.AtStep(max(1, size.further // 10)), onset=tw.Ramp(max(2, size.further // 4), order="in turn")
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="1.3M parameters, half an hour on one core")
    choice.add_argument("--gpu", action="store_true", help="100M parameters, on one GPU")
    given = parser.parse_args()
    size = SIZES["gpu" if given.gpu else "quick" if given.quick else "demo"]
    text = read_text(size.megabytes)
    cut = len(text) - size.held_out * size.length
    data = Rows(text[:cut], size.length), Rows(text[cut:], size.length)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in schedules(size)}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        set_seed(0)
        shape = {"hidden_size": size.width, "intermediate_size": 3 * size.width, "num_hidden_layers": size.layers}
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=256, num_attention_heads=max(2, size.width // 64), pad_token_id=None, **shape)
        )
        first = trainer_for(model, size, data, size.updates, 0, folder)
        first.train()
        before = bits(first)
        count = sum(p.numel() for p in model.parameters())
        seconds = time.perf_counter() - started
        print(f"{count / 1e6:.1f}M parameters, {size.updates} updates: {before:.3f} bits per byte, {seconds:.0f} s")
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        looped = loop(model, size.layers // 3, 2 * size.layers // 3)
        for seed in range(1, size.seeds + 1):
            for name, make in schedules(size).items():
                model.load_state_dict(weights)
                updates = updates_for(make(), size, size.further * size.layers)
                trainer = trainer_for(model, size, data, updates, seed, folder)
                shift = make()
                attach(trainer, shift, looped)
                looped.set(shift.depth, shift.depth_gains)
                drop = bits(trainer) - before
                trainer.train()
                found[name].append((drop, bits(trainer)))
    print(f"{'way':16} {'rise at the start':>18} {'bits per byte at the end, 95 % interval':>42}")
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for name, pairs in found.items():
        end = interval([last for _, last in pairs])
        print(f"{name:16} {pairs[0][0]:18.3f} {f'{end.mean:.3f} [{end.low:.3f}, {end.high:.3f}]':>42}")
        axes.errorbar(end.mean, name, xerr=end.mean - end.low, fmt="o", capsize=4)
    axes.set(xlabel=f"held-out bits per byte at equal operations, {size.seeds} seeds, {count / 1e6:.1f}M parameters")
    axes.margins(y=0.3)
    figure.savefig("retrofit_on_a_gpu.png")


if __name__ == "__main__":
    main()
