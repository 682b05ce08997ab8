"""Compute the curvature of a Hugging Face GPT-2 before and after training: extreme eigenvalues and spectral density.

The batches have the form that Hugging Face trainers use: dicts of ``input_ids`` and ``labels``, where the label -100 marks tokens
that do not count. The model is built from a config with random weights, so nothing is downloaded.
"""

import sys

import matplotlib.pyplot as plt
import torch

import thalweg as tw

try:
    from transformers import GPT2Config, GPT2LMHeadModel
except ImportError:
    sys.exit(print("not run: this example needs Hugging Face transformers: pip install 'thalweg[bench]'"))

torch.manual_seed(0)
config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, use_cache=False)
model = GPT2LMHeadModel(config)
batches = []
for length in (16, 12):  # batches of different length
    start = torch.randint(32, (8, 1))
    tokens = (start + 3 * torch.arange(length)) % 32  # each token is the previous token plus 3
    labels = tokens.clone()
    labels[:, : length // 4] = -100  # the prompt does not count
    batches.append({"input_ids": tokens, "labels": labels})


def loss_fn(model, batch):
    """Return the summed loss and the number of targets that count, so that thalweg weights batches of different size correctly."""
    logits, targets = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total, int((targets != -100).sum())


figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")


def show(when):
    """Print the spectrum of the Hessian and of the Gauss-Newton matrix."""
    # For each product thalweg sets evaluation mode, and an attention kernel that has second derivatives.
    hessian = tw.Hessian(loss_fn, model, batches)
    gauss_newton = tw.GaussNewton(lambda m, b: (m(input_ids=b["input_ids"]).logits[:, :-1], b["labels"][:, 1:]), model, batches)
    density = tw.spectral_density(hessian, steps=30, probes=3)
    print(f"{when}: loss {hessian.loss:.3f}; {hessian.explain()}")
    for name, operator in {"Hessian": hessian, "Gauss-Newton": gauss_newton}.items():
        pairs = tw.eigenpairs(operator, 5, tolerance=1e-4)
        print(f"  {name}: largest in magnitude {pairs.values.numpy().round(3)}, {pairs.products} products")
    low, high = density.extremes
    grid = torch.linspace(density.extremes[0] - 1, density.extremes[1] + 1, 400)
    axes.semilogy(grid, density.curve(grid), label=when)
    share, error = density.mass(-density.resolution, density.resolution)
    print(f"  from {low:.3f} to {high:.3f}; within one resolution ({density.resolution:.3f}) of zero: {share:.1%} +- {error:.1%}")


show("at the start")
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(60):
    total, count = loss_fn(model.train(), batches[0])
    optimizer.zero_grad()
    (total / count).backward()
    optimizer.step()
show("after 60 updates")

axes.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(1e-4, None))
axes.legend()
figure.savefig("spectrum_of_a_hugging_face_gpt2.png")
