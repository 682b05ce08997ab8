"""Two gloo ranks with half the samples each have the products of one process with all of them."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.curvature import ranked_products
from tests.curvature.ranked_products import ROWS, VECTORS, by_sample, mean_of, model, products

import thalweg as tw
from thalweg.integrations.landscapes import LandscapeSeries

APART = 2e-6
"""Largest relative distance: sums of float32 in another order."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks computed."""
    folder = tmp_path_factory.mktemp("products")
    script, environment = str(Path(ranked_products.__file__)), os.environ | {"OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment, "text": True}
    started = [subprocess.Popen([sys.executable, "-W", "ignore", script, str(me), str(folder)], **options) for me in (0, 1)]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return [torch.load(folder / f"rank{me}.pt", weights_only=False) for me in (0, 1)]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("kind", ["data parallel", "sharded", "by layer", "half precision"])
def test_products_of_ranks_are_those_of_one_process(two: list[dict[str, Any]], kind: str) -> None:
    assert distance(products(model(), ROWS), two[0][kind]) < APART
    assert torch.equal(two[0][kind], two[1][kind])


def test_products_of_a_sharded_model_follow_its_training(two: list[dict[str, Any]]) -> None:
    one = model()
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    (by_sample(one, ROWS)[0] / len(ROWS)).backward()
    optimizer.step()
    assert distance(products(one, ROWS), two[0]["trained"]) < 10 * APART
    assert distance(products(model(), ROWS), two[0]["trained"]) > 0.01


def test_dense_hessian_and_blocks_of_a_sharded_model(two: list[dict[str, Any]]) -> None:
    assert distance(tw.dense_hessian(by_sample, model(), [ROWS]).matrix, two[0]["dense"]) < APART
    some = tw.Hessian(by_sample, model(), [ROWS], params="3.*") @ VECTORS[0, :14]
    assert distance(some, two[0]["some"]) < APART


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_a_probe_records_the_same_on_ranks(two: list[dict[str, Any]], method: Any) -> None:
    probe = tw.LandscapeProbe(top=2, lanczos=8, probes=2, forms=3, method=method)
    one = probe.measure(by_sample, model(), [ROWS])
    for ours in (two[0][method], two[1][method]):
        assert (ours.how, ours.dim) == (one.how, one.dim)
        assert (ours.loss, ours.gradient_norm) == pytest.approx((one.loss, one.gradient_norm), rel=1e-5)
        assert (*ours.largest, ours.smallest) == pytest.approx((*one.largest, one.smallest), rel=1e-4)
        assert (ours.trace.value, ours.entropy.value) == pytest.approx((one.trace.value, one.entropy.value), rel=1e-4)


def test_batches_that_all_ranks_were_given_are_shared_out(two: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [rank["series"][0] for rank in two] == [2, 1]  # of three batches
    series = LandscapeSeries(tmp_path, [ROWS[:2], ROWS[2:4], ROWS[4:]], loss_of=mean_of, probe=tw.LandscapeProbe(top=2, forms=0))
    one, ours = series.measure(model(), 0), two[0]["series"][1]
    assert (ours.loss, ours.gradient_norm, *ours.largest) == pytest.approx((one.loss, one.gradient_norm, *one.largest), rel=1e-5)
    assert {field.name for field in fields(one) if getattr(one, field.name) is None} == {"change", "imbalance", "resolution"}


REFUSALS = {
    "alone": ("BadInputError: model: its parameters are sharded over ranks, and this rank alone has only a part of them; ",) * 2,
    "ragged": ("BadInputError: batches: given different shapes on the ranks with a bare mean, expected a loss_fn that ",) * 2,
    "kinds": ("BadInputError: loss_fn: given a bare mean on some ranks, expected (total, count) on all ranks, or",) * 2,
    "first version": ("BadInputError: model: its parameters are sharded by FullyShardedDataParallel, expected fully_shard (FSDP2)",)
    * 2,
    "tensor-parallel": ("BadInputError: model: weight is sharded by tensor parallelism, expected fully_shard (FSDP2) alone; ",) * 2,
    "nan": ("ElsewhereError: rank 0: another rank refused its input", "NonFiniteError: loss of batch 0: nan, expected a finite"),
    "product": ("ElsewhereError: rank 0: another rank refused its input", "KeyError: 'only rank 1'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_no_rank_waits_for_one_that_failed(two: list[dict[str, Any]], case: str) -> None:
    for ours, begin in zip(two, REFUSALS[case], strict=True):
        assert ours["refusals"][case].startswith(begin)
