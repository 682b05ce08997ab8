"""Run by test_several_ranks.py as each of two ranks: operators of data-parallel and sharded models, and refusals."""

import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import thalweg as tw
from thalweg import ranks
from thalweg.integrations.landscapes import LandscapeSeries

ROWS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))


def model() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2), nn.Tanh())
    made.append(nn.Linear(2, 1, bias=False))
    drawn = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        nn.init.normal_(weight, generator=drawn)
    return made


def by_sample(given: nn.Module, rows: Tensor) -> tuple[Tensor, int]:
    values = given(rows)
    return (values.square() + values.sin()).sum(), len(rows)


def mean_of(given: nn.Module, rows: Tensor) -> Tensor:
    return by_sample(given, rows)[0] / len(rows)


def sharded(by_layer: bool = False, **more: Any) -> nn.Module:
    made = model()
    for layer in made if by_layer else ():
        if list(layer.parameters()):
            fully_shard(layer, **more)
    fully_shard(made, **more)
    return made


def products(given: nn.Module, rows: Tensor) -> Tensor:
    return tw.Hessian(by_sample, given, [rows], check=False) @ VECTORS.T


def trained(given: nn.Module, rows: Tensor) -> nn.Module:
    """The model after one update, and after a forward pass that leaves its parameters gathered."""
    optimizer = torch.optim.SGD(given.parameters(), lr=0.1)
    (2 * by_sample(given, rows)[0] / len(ROWS)).backward()  # fully_shard divides by the number of ranks
    optimizer.step()
    with torch.no_grad():
        given(rows)
    return given


ARMED: set[str] = set()
"""Holds something while `failing` fails."""


def failing(given: nn.Module, rows: Tensor) -> Tensor:
    if torch.is_grad_enabled() and ARMED and ranks.rank() == 1:
        raise KeyError("only rank 1")
    return mean_of(given, rows)


def refusal(work: Any) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing refused"


def refusals(mine: Tensor) -> dict[str, str]:
    refused = {}
    with tw.alone():
        refused["alone"] = refusal(lambda: tw.Hessian(by_sample, sharded(), [ROWS]))
    odd = mine[: 3 - ranks.rank()]
    refused["ragged"] = refusal(lambda: tw.Hessian(mean_of, model(), [odd]))
    kinds = mean_of if ranks.rank() else by_sample
    refused["kinds"] = refusal(lambda: tw.Hessian(kinds, model(), [mine]))
    nowhere = mine if ranks.rank() == 0 else mine * float("nan")
    refused["nan"] = refusal(lambda: tw.Hessian(by_sample, sharded(), [nowhere]))
    operator = tw.Hessian(failing, model(), [mine], method="rebuilt", check=False)
    ARMED.add("rank 1")
    refused["product"] = refusal(lambda: operator @ VECTORS[0])
    first = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    refused["first version"] = refusal(lambda: tw.Hessian(by_sample, first, [mine]))
    by_columns = parallelize_module(nn.Linear(5, 2), init_device_mesh("cpu", (2,)), ColwiseParallel())
    refused["tensor-parallel"] = refusal(lambda: tw.Hessian(mean_of, by_columns, [mine]))
    return refused


def main(folder: Path) -> None:
    mine = ROWS[ranks.rank() :: 2]
    result: dict[str, Any] = {
        "data parallel": products(DistributedDataParallel(model()), mine),
        "sharded": products(sharded(), mine),
        "by layer": products(sharded(by_layer=True), mine),
        "half precision": products(sharded(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)), mine),
        "trained": products(trained(sharded(by_layer=True), mine), mine),
    }
    given = sharded(by_layer=True)
    result["dense"] = tw.dense_hessian(by_sample, given, [mine]).matrix
    result["some"] = tw.Hessian(by_sample, given, [mine], params="3.*") @ VECTORS[0, :14]
    for method in ("exact", "matrix-free"):
        probe = tw.LandscapeProbe(top=2, lanczos=8, probes=2, forms=3, method=method)
        result[method] = probe.measure(by_sample, given, [mine])
    batches = [ROWS[:2], ROWS[2:4], ROWS[4:]]
    series = LandscapeSeries(folder / "series", batches, loss_of=mean_of, probe=tw.LandscapeProbe(top=2, forms=0), slices=True)
    series.begin(0)
    series.finish(DistributedDataParallel(model()), 0)
    result["series"] = (len(series.own_batches), series.records[0])
    result["refusals"] = refusals(mine)
    torch.save(result, folder / f"rank{ranks.rank()}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    me, where = int(sys.argv[1]), Path(sys.argv[2])
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{where / 'store'}", rank=me, world_size=2, timeout=limit)
    main(where)
    dist.barrier()
    os._exit(0)
