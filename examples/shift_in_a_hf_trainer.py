"""Loop the middle layers of a Hugging Face decoder and train it in stages with the Trainer.

The text is a file of Python's standard library as bytes. `loop` repeats the layers 1 and 2, `attach` lets SHIFT set the number
of passes, and the saved model is loaded with and without its loops. Needs the extra ``hf``.
"""

import inspect
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import thalweg as tw

try:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from thalweg.integrations.huggingface import loop
    from thalweg.integrations.saving import load, save
    from thalweg.integrations.trainer import attach
except ImportError as error:
    print(f"not run: {error}")
    raise SystemExit(0) from None

LENGTH = 64
text = torch.tensor(list(Path(inspect.__file__).read_bytes()[:8192]))
rows = [{"input_ids": text[start : start + LENGTH], "labels": text[start : start + LENGTH]} for start in range(0, 4096, 16)]
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        pad_token_id=None,
    )
)

with tempfile.TemporaryDirectory() as folder:
    # The number of passes of layers 1 and 2 goes from one to three after 30 updates, with a ramp of 30.
    looped = loop(model, first=1, last=3)
    arguments = TrainingArguments(
        output_dir=f"{folder}/run",
        max_steps=90,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        logging_steps=15,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    attach(trainer, tw.Shift(loops=3, criterion=tw.AtStep(30), onset=tw.Ramp(30)), looped)
    trainer.train()

    save(model, f"{folder}/model")
    with_loops, again = load(f"{folder}/model")
    plain = AutoModelForCausalLM.from_pretrained(f"{folder}/model")
    with torch.no_grad():
        batch = {key: torch.stack([row[key] for row in rows[::16]]) for key in rows[0]}
        for name, one in (("loaded with loops", with_loops), ("loaded by plain transformers", plain)):
            print(f"{name}: loss {one.eval()(**batch).loss.item():.3f}")
    print(f"passes {again.loops}, gains {again.gains}")

logged = [entry for entry in trainer.state.log_history if "loss" in entry]
figure, (above, below) = plt.subplots(2, 1, figsize=(6, 4), sharex=True, height_ratios=(2, 1), layout="constrained")
above.plot([entry["step"] for entry in logged], [entry["loss"] for entry in logged], "o-")
above.set(ylabel="loss (nats)")
gains = [1 + (entry["loops"] - 1) * entry["loop_gain"] for entry in logged]  # the ramp raises the gains of all new passes together
below.plot([entry["step"] for entry in logged], gains, "s-", color="tab:orange")
below.set(xlabel="update", ylabel="sum of the gains")
figure.savefig("shift_in_a_hf_trainer.png")
