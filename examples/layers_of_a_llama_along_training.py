"""Measure every layer of a Hugging Face Llama along its training on real text, and how many batches and probes are enough.

`thalweg.LayerProbe` measures the diagonal blocks of the Hessian, by the model's own names, at five checkpoints; the last lines say
what `LandscapeProbe.converge` finds at the end. The text is the source of Python's standard library, one token a byte; the model is
built from a config with random weights, so nothing is downloaded. It takes a minute; with `10 4` it makes ten updates and compares
four batches.
"""

import copy
import sys
import sysconfig
from pathlib import Path

import torch

import thalweg as tw

try:
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError:
    sys.exit(print("not run: this example needs Hugging Face transformers: pip install 'thalweg[hf]'"))

LENGTH, STEPS = 32, (0, 10, 30, 100, 300)


def windows(count: int) -> torch.Tensor:
    """The first windows of the standard library's files, as bytes ``(count, LENGTH)``."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)[: count * LENGTH]
    return torch.tensor(list(text)).view(count, LENGTH)


def loss_fn(model: torch.nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Compute the summed loss of the next bytes, and their number."""
    logits = model(input_ids=tokens).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    return total, tokens[:, 1:].numel()


def main(updates: int = 300, batches: int = 8) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=LENGTH, use_cache=False, **shape))
    data = windows(8 * updates + 8 + 32)
    fixed = data[-32:]  # not trained on
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    checkpoints = []
    for step in range(updates + 1):
        if step in STEPS:
            checkpoints.append((step, copy.deepcopy(model)))
        total, count = loss_fn(model, data[8 * step : 8 * step + 8])
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()

    probe = tw.LandscapeProbe(top=1, lanczos=12, probes=2, forms=0, method="matrix-free")
    layers = tw.LayerProbe(by="layer", probe=probe)
    records = [layers.measure(loss_fn, at, [fixed], step=step) for step, at in checkpoints]
    print(f"{'layer':28}" + "".join(f"{record.step:>9}" for record in records) + "   (largest eigenvalue, by update)")
    for name in records[0].layers:
        print(f"{name:28}" + "".join(f"{record.layers[name].largest[0]:9.3f}" for record in records))
    tw.plot(records).savefig("layers_of_a_llama_along_training.png")

    report = tw.LandscapeProbe(top=1, lanczos=12, probes=4).converge(loss_fn, model, list(fixed.chunk(batches)), tolerance=0.1)
    print(report)
    tw.plot(report).savefig("how_many_batches_of_a_llama.png")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
