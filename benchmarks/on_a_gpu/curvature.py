"""On a GPU, what does the curvature of GPT-2 (124 million parameters, 8 x 1,024 tokens) cost, beside double backward and a rival?

GPT-2 is built from its config with random weights and trained for 60 updates on the source of Python's standard library, its bytes
as tokens among 50,257 words. Then, in float32 without TF32:

* one product with the Hessian: thalweg as it chooses, thalweg rebuilt each time, double backward by hand, hessian-eigenthings;
  seconds, peak memory over that of a gradient, and the error against central differences of the gradient in float64;
* ten eigenpairs of largest magnitude, with residuals below 1e-3 of the largest: thalweg, and hessian-eigenthings with fixed steps;
* the spectral density; and the trace by bfloat16 products with its error bar.

    python benchmarks/on_a_gpu/curvature.py                # at most 8 minutes on a GPU of 80 GB or more
    python benchmarks/on_a_gpu/curvature.py --size cpu     # 26 million parameters, 2 x 128 tokens, on two cores
    python benchmarks/on_a_gpu/curvature.py --size tiny    # seconds, to try the script
"""

from __future__ import annotations

import argparse
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GPT2Config, GPT2LMHeadModel

import thalweg as tw

VOCABULARY, TOLERANCE, COUNT = 50_257, 1e-3, 10


class Size(NamedTuple):
    """Width, layers, heads, sequences, tokens of each, sequences of a batch, updates before, vocabulary."""

    width: int
    layers: int
    heads: int
    sequences: int
    length: int
    batch: int
    updates: int
    vocabulary: int = VOCABULARY


SIZES = {
    "gpt2": Size(768, 12, 12, 8, 1024, 2, 60),
    "cpu": Size(384, 4, 6, 2, 128, 1, 60),
    "tiny": Size(32, 2, 2, 2, 32, 1, 20, 300),
}
Product = Callable[[Tensor], Tensor]


def text(count: int) -> Tensor:
    """The first bytes of Python's standard library, as tokens ``(count,)``."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.tensor(list(b"".join(file.read_bytes() for file in files)[:count]))


def total_and_count(model: nn.Module, tokens: Tensor) -> tuple[Tensor, int]:
    """The summed next-token loss and the number of targets."""
    logits = model(input_ids=tokens).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"), tokens[:, 1:].numel()


def mean_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean next-token loss."""
    total, count = total_and_count(model, tokens)
    return total / count


def synchronize(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def trained(size: Size, device: str) -> tuple[nn.Module, list[Tensor]]:
    """The model after some updates, in evaluation mode, and the batches of the curvature, which it has not seen."""
    torch.manual_seed(0)
    shape = {"n_embd": size.width, "n_layer": size.layers, "n_head": size.heads, "n_positions": size.length}
    ends = {"vocab_size": size.vocabulary, "bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    model = GPT2LMHeadModel(GPT2Config(**shape, **ends)).to(device)
    tokens = text((size.updates + 1) * size.sequences * size.length).to(device).view(-1, size.sequences, size.length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4)
    for batch in tokens[:-1]:
        with torch.autocast(device, torch.bfloat16):
            loss = mean_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, loss {float(loss.detach()):.3f} after {size.updates} updates"
    )
    return model.eval(), list(tokens[-1].split(size.batch))


def gradient_of(model: nn.Module, batches: list[Tensor], create_graph: bool = False, vector: Tensor | None = None) -> Tensor:
    """The gradient ``(P,)`` of the mean loss over batches of equal size; with a vector, the product by double backward."""
    weights, total = list(model.parameters()), torch.zeros((), device=batches[0].device)
    for batch in batches:
        parts = torch.autograd.grad(mean_loss(model, batch), weights, create_graph=create_graph)
        if vector is not None:
            along = sum((part * piece).sum() for part, piece in zip(parts, pieces(vector, weights), strict=True))
            parts = torch.autograd.grad(along, weights)
        total = total + torch.cat([part.reshape(-1) for part in parts]) / len(batches)
    return total


def pieces(vector: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """A flat vector in the shapes of the parameters."""
    parts = vector.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def double_backward(model: nn.Module, batches: list[Tensor]) -> Product:
    """The product by two reverse passes, by hand; as in every rival, attention by plain matrix products."""

    def product(vector: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return gradient_of(model, batches, create_graph=True, vector=vector)

    return product


def eigenthings(model: nn.Module, batches: list[Tensor]) -> Any:
    """The operator of hessian-eigenthings."""
    from hessian_eigenthings import HessianOperator

    return HessianOperator(model, batches, mean_loss)


def inside(operator: Any) -> Product:
    """The product of an operator, with attention that has second derivatives."""

    def product(vector: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return operator @ vector

    return product


def differences(model: nn.Module, batches: list[Tensor], vector: Tensor) -> Tensor:
    """The product by central differences of the gradient in float64; the weights are restored."""
    weights = list(model.parameters())
    before = [weight.detach().clone() for weight in weights]
    model.double()
    width, sides = 1e-4 / float(vector.norm()), []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for weight, start, part in zip(weights, before, pieces(vector.double(), weights), strict=True):
                weight.copy_(start.double() + sign * width * part)
        sides.append(gradient_of(model, batches))
    model.float()
    with torch.no_grad():
        for weight, start in zip(weights, before, strict=True):
            weight.copy_(start)
    return (sides[0] - sides[1]) / (2 * width)


def rows_of_products(model: nn.Module, batches: list[Tensor], device: str) -> tw.Hessian:
    """Print a row for each way to a product; return thalweg's operator."""
    vector = torch.randn(sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(1)).to(device)
    truth = differences(model, batches, vector)
    hessians: dict[str, tw.Hessian] = {}

    def ours(name: str, method: Any) -> Product:
        hessians[name] = tw.Hessian(total_and_count, model, batches, method=method, check=False)
        return hessians[name].__matmul__

    ways: dict[str, Callable[[], Product]] = {
        "gradient": lambda: lambda _: gradient_of(model, batches),
        "thalweg": lambda: ours("thalweg", "auto"),
        "thalweg, rebuilt": lambda: ours("thalweg, rebuilt", "rebuilt"),
        "double backward": lambda: double_backward(model, batches),
        "hessian-eigenthings": lambda: inside(eigenthings(model, batches)),
    }
    unit: dict[str, float] = {}
    print(f"{'product':22s}{'building s':>12s}{'seconds':>10s}{'gradients':>11s}{'peak GB':>10s}{'gradients':>11s}{'error':>10s}")
    for name, build in ways.items():
        if device == "cuda":
            torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated() if device == "cuda" else 0
        started = time.perf_counter()
        try:
            product = build()
            value = product(vector)
            synchronize(device)
            building = time.perf_counter() - started
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = []
            for _ in range(3):
                started = time.perf_counter()
                value = product(vector)
                synchronize(device)
                times.append(time.perf_counter() - started)
        except (ImportError, torch.OutOfMemoryError) as problem:
            print(f"{name:22s}  left out: {str(problem).splitlines()[0]}", flush=True)
            continue
        seconds = statistics.median(times)
        peak = (torch.cuda.max_memory_allocated() - held) / 1e9 if device == "cuda" else float("nan")
        unit = unit or {"seconds": seconds, "peak": peak}
        error = "" if name == "gradient" else f"{float((value.double() - truth).norm() / truth.norm()):.0e}"
        print(
            f"{name:22s}{building:12.2f}{seconds:10.3f}{seconds / unit['seconds']:11.2f}{peak:10.2f}{peak / unit['peak']:11.2f}"
            f"{error:>10s}",
            flush=True,
        )
        hessians.pop("thalweg, rebuilt", None)
        del product, value
    print(hessians["thalweg"].explain(), flush=True)
    return hessians["thalweg"]


def residual(hessian: tw.Hessian, values: Tensor, vectors: Tensor) -> float:
    """The largest residual over the largest eigenvalue, by products in float32."""
    worst = 0.0
    for value, vector in zip(values.double(), vectors.double().T, strict=True):
        unit = vector / vector.norm()
        worst = max(worst, float((hessian @ unit - value * unit).norm()))
    return worst / float(values.abs().max())


def print_eigenpairs(hessian: tw.Hessian, model: nn.Module, batches: list[Tensor], device: str, steps: int) -> None:
    """Ten eigenpairs, ours and the rival's."""
    started = time.perf_counter()
    pairs = tw.eigenpairs(hessian, COUNT, tolerance=TOLERANCE)
    synchronize(device)
    seconds, shown = time.perf_counter() - started, [round(value, 2) for value in pairs.values.tolist()]
    worst = residual(hessian, pairs.values, pairs.vectors.to(device))
    print(f"ten eigenpairs, thalweg: {seconds:.1f} s, {pairs.products} products, residual {worst:.0e}, {shown}", flush=True)
    del pairs
    try:
        from hessian_eigenthings import lanczos
    except ImportError:
        return
    if device == "cuda":
        torch.cuda.empty_cache()
    started = time.perf_counter()
    with sdpa_kernel(SDPBackend.MATH):
        other = lanczos(
            eigenthings(model, batches), k=COUNT, max_iter=steps, tol=TOLERANCE, which="LM", reorthogonalize=True, seed=0
        )
    synchronize(device)
    seconds, shown = time.perf_counter() - started, [round(value, 2) for value in other.eigenvalues.tolist()]
    worst = residual(hessian, other.eigenvalues.to(device), other.eigenvectors.to(device).T)
    print(
        f"ten eigenpairs, hessian-eigenthings: {seconds:.1f} s, {other.iterations} steps, residual {worst:.0e}, {shown}", flush=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--steps", type=int, default=60, help="steps of the rival's search")
    parser.add_argument("--device", default="", help="cuda for the size gpt2, else cpu, if not given")
    options = parser.parse_args()
    device = options.device or ("cuda" if options.size == "gpt2" else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device == 'cuda' else 'the CPU'}", flush=True)
    whole = time.perf_counter()
    model, batches = trained(SIZES[options.size], device)
    hessian = rows_of_products(model, batches, device)
    print_eigenpairs(hessian, model, batches, device, options.steps)
    started = time.perf_counter()
    density = tw.spectral_density(hessian, steps=30, probes=2)
    synchronize(device)
    low, high = density.extremes
    share, error = density.mass(-density.resolution, density.resolution)
    print(
        f"density: {time.perf_counter() - started:.1f} s, {density.products} products, from {low:.2f} to {high:.2f}, "
        f"{share:.1%} +- {error:.1%} within one resolution ({density.resolution:.2g}) of zero",
        flush=True,
    )
    started = time.perf_counter()
    trace = tw.LowPrecision(hessian).trace(probes=20, references=4)
    synchronize(device)
    print(
        f"trace by bfloat16 products: {trace.value:.4g} +- {trace.bar:.2g} (of it rounding {trace.rounding_bar:.2g}), "
        f"{time.perf_counter() - started:.1f} s for {trace.products} and {trace.precise_products} products"
    )
    print(f"in all {time.perf_counter() - whole:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
