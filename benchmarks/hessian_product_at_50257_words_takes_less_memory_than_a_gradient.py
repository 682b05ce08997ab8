"""At a vocabulary of 50,257 a Hessian-vector product of a GPT takes less memory than a gradient by plain autograd.

Model: 4 blocks, 4 heads, width 128, tied head, 7.2 million parameters, 8 x 128 tokens of 50,257, float32, next-token cross-entropy.
The logits alone take 206 MB. Every candidate runs in a process of its own. Peak: largest resident memory of the process above
what it was before the operator was built, with the model and the tokens there. "product" is a second product, after the operator
was built and has made one; what the operator keeps counts. "with building" is the peak over all of it.

Products of thalweg cut the head and the cross-entropy into pieces (`thalweg.curvature.head`). Errors are relative to central
differences of the gradient in float64, by plain autograd. Linux only: peaks are read from /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import rivals
import timing  # before torch
import torch
from torch import Tensor, nn

from thalweg.curvature.hessian import Hessian
from thalweg.models.cost import parameters
from thalweg.models.looped import LoopedTransformer

Product = Callable[[Tensor], Tensor]
MODEL = replace(rivals.GPT, vocabulary=50_257)


def gradient(model: nn.Module, tokens: Tensor) -> Product:
    """One gradient by plain autograd; the vector is not used."""
    weights = list(model.parameters())
    return lambda vector: nn.utils.parameters_to_vector(torch.autograd.grad(rivals.mean_loss(model, tokens), weights))


def double_backward(model: nn.Module, tokens: Tensor) -> Product:
    """Double backward, the graph made anew for each product."""
    weights = list(model.parameters())

    def product(vector: Tensor) -> Tensor:
        with rivals.attention_by_products():
            first = torch.autograd.grad(rivals.mean_loss(model, tokens), weights, create_graph=True)
            flat = torch.cat([part.reshape(-1) for part in first])
            return torch.cat([part.reshape(-1) for part in torch.autograd.grad(flat, weights, vector)])

    return product


CANDIDATES: dict[str, Callable[[nn.Module, Tensor], Product]] = {
    "gradient": gradient,
    "thalweg": lambda model, tokens: Hessian(rivals.total_and_count, model, [tokens], check=False).__matmul__,
    "thalweg, rebuilt": lambda model, tokens: (
        Hessian(rivals.total_and_count, model, [tokens], method="rebuilt", check=False).__matmul__
    ),
    "double backward": double_backward,
    "hessian-eigenthings": lambda model, tokens: rivals.inside(rivals.eigenthings(model, tokens)),
    "curvlinops": lambda model, tokens: rivals.inside(rivals.curvlinops(model, tokens)),
}


def memory(kind: str) -> int:
    """Read the resident memory of this process in bytes: "VmRSS" now, "VmHWM" its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return 1024 * int(line.split()[1])


def forget_peak() -> None:
    """Set the peak of this process to its present memory."""
    Path("/proc/self/clear_refs").write_text("5")


def case(batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Make the model, the tokens and the vector, the same in every process."""
    torch.manual_seed(0)
    model = LoopedTransformer(MODEL)
    return model, torch.randint(MODEL.vocabulary, (batch, MODEL.length + 1)), torch.randn(parameters(model))


def differences(batch: int) -> Tensor:
    """Compute the product from central differences of the gradient in float64."""
    model, tokens, vector = case(batch)
    model.double()
    weights, width = list(model.parameters()), 1e-4 / float(vector.norm())
    start = nn.utils.parameters_to_vector(weights).detach()

    def at(shift: float) -> Tensor:
        nn.utils.vector_to_parameters(start + shift * vector.double(), weights)
        return nn.utils.parameters_to_vector(torch.autograd.grad(rivals.mean_loss(model, tokens), weights))

    return (at(width) - at(-width)) / (2 * width)


def measure(name: str, batch: int, kept: str) -> dict[str, float]:
    """Measure one candidate in this process: peaks in bytes, and seconds; keep its product in a file."""
    model, tokens, vector = case(batch)
    rivals.mean_loss(model, tokens[:1, :9]).backward()  # what the first call of anything loads
    model.zero_grad(set_to_none=True)
    forget_peak()
    before = memory("VmRSS")
    product = CANDIDATES[name](model, tokens)
    product(vector)
    building = memory("VmHWM") - before
    forget_peak()
    seconds = timing.seconds(lambda: product(vector))
    alone = memory("VmHWM") - before
    if name != "gradient":
        numpy.save(kept, product(vector).detach().numpy())
    return {"building": building, "product": alone, "seconds": seconds}


def main() -> None:
    parser = timing.arguments(__doc__, rounds=1)
    parser.add_argument("--batch", type=int, default=8, help="number of sequences")
    parser.add_argument("--one", nargs=2, help="measure one candidate in this process, keep its product in a file, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.batch, options.one[1])))
        return
    names = ["gradient", "thalweg", "thalweg, rebuilt", "double backward"]
    names += [name for name in ("hessian-eigenthings", "curvlinops") if rivals.installed(name.replace("-", "_"))]
    at_once = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": "0"}  # freed memory leaves the process at once
    made: dict[str, dict[str, float]] = {}
    truth = differences(options.batch)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            kept = f"{folder}/product.npy"
            command = [sys.executable, __file__, "--one", name, kept, "--batch", str(options.batch)]
            done = subprocess.run(command, env=os.environ | at_once, check=True, capture_output=True, text=True)
            made[name] = json.loads(done.stdout.splitlines()[-1])
            if name != "gradient":
                made[name]["error"] = rivals.relative_error(torch.from_numpy(numpy.load(kept)), truth)
    unit = made["gradient"]["product"]
    rows = [
        [
            name,
            f"{one['product'] / 1e6:,.0f}",
            f"{one['product'] / unit:.2f}",
            f"{one['building'] / 1e6:,.0f}",
            f"{one['seconds']:.2f}",
            "" if name == "gradient" else f"{one['error']:.0e}",
        ]
        for name, one in made.items()
    ]
    timing.print_table(["peak memory of", "product, MB", "gradients", "with building, MB", "seconds", "relative error"], rows)
    right = {name: one["product"] for name, one in made.items() if "thalweg" not in name and one.get("error", 1.0) < 1e-4}
    rival = min(right, key=right.__getitem__)
    ours = made["thalweg"]["product"]
    print(
        f"\nthalweg: {ours / unit:.2f} gradients (claim: below 1); {right[rival] / ours:.1f} times less than {rival}, the smallest "
        "right one that is not ours"
    )


if __name__ == "__main__":
    main()
