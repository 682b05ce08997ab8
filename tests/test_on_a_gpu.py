"""The same numbers on a GPU as on the CPU, and runs that go on bit for bit there; skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thalweg as tw
from thalweg.curvature.cuda_replay import as_graph
from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.data.task_data import IGNORED, TaskConfig
from thalweg.landscape.probe import LandscapeProbe
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.records.run import read_lengths
from thalweg.shift.criterion import LossBelow
from thalweg.shift.onset import Hard
from thalweg.train.callbacks import Callback
from thalweg.train.config import RunConfig, ShiftConfig
from thalweg.train.graphs import Graphs
from thalweg.train.step import InBFloat16, TaskBatch, mean_loss
from thalweg.train.trainer import train

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

CONFIGS = {
    "attention": ModelConfig(vocabulary=7, length=9, width=8),
    "gpt": ModelConfig(vocabulary=7, length=9, width=8, heads=2, block="gpt", layers=2, positions="rotary", injection=True),
}
LOOPS = torch.tensor([3, 1, 6, 3, 2, 6])


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, facts) -> None:
        if facts.step == self.step:
            raise KeyboardInterrupt


def twins(name: str) -> tuple[LoopedTransformer, LoopedTransformer]:
    """The same weights in float64 on both devices."""
    first, second = (LoopedTransformer(CONFIGS[name], torch.Generator().manual_seed(0)).double() for _ in range(2))
    return first, second.to(GPU)


def tokens() -> torch.Tensor:
    return torch.randint(7, (6, 9), generator=torch.Generator().manual_seed(2))


def loss_fn(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch[:, :-1], loops=2)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@pytest.mark.parametrize("loops", [4, LOOPS], ids=["one number", "one for each"])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_are_those_of_the_cpu(name, loops):
    here, there = twins(name)
    found = [model(tokens().to(device), loops=loops) for model, device in ((here, "cpu"), (there, GPU))]
    torch.testing.assert_close(found[1].cpu(), found[0])
    gradients = [torch.autograd.grad(one.square().sum(), list(m.parameters())) for one, m in zip(found, (here, there), strict=True)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other.cpu(), one)


@pytest.mark.parametrize("name", CONFIGS)
def test_products_and_spectra_of_the_hessian_are_those_of_the_cpu(name):
    here, there = twins(name)
    both = ((here, [tokens()]), (there, [tokens().to(GPU)]))
    hessians = [Hessian(loss_fn, model, batches) for model, batches in both]
    direction = torch.randn(hessians[0].dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close((hessians[1] @ direction.to(GPU)).cpu(), hessians[0] @ direction)
    spectra = [torch.linalg.eigvalsh(dense_hessian(loss_fn, model, batches).matrix.cpu()) for model, batches in both]
    torch.testing.assert_close(spectra[1], spectra[0])
    top = eigenpairs(hessians[1], 2)
    torch.testing.assert_close(
        top.values.cpu().sort().values, spectra[0][spectra[0].abs().argsort()[-2:]].sort().values, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_a_landscape_measured_there_is_the_one_measured_here(method):
    here, there = twins("attention")
    options = {"top": 2, "lanczos": 20, "forms": 0, "dtype": torch.float64, "method": method}
    records = [
        LandscapeProbe(**options).measure(loss_fn, model, [tokens().to(device)]) for model, device in ((here, "cpu"), (there, GPU))
    ]
    assert records[1].largest == pytest.approx(records[0].largest, rel=1e-4)
    assert records[1].entropy.value == pytest.approx(records[0].entropy.value, rel=1e-6 if method == "exact" else 0.2)


def on_gpu(config: RunConfig) -> RunConfig:
    return replace(config, training=replace(config.training, device=GPU, graphs=False))


def test_a_run_ends_near_the_same_run_on_the_cpu(tmp_path: Path, tiny: RunConfig):
    here, there = train(tiny, tmp_path / "here"), train(on_gpu(tiny), tmp_path / "there")
    losses = [one.final["held-out"]["all"].loss for one in (here, there)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def task_run(tiny: RunConfig) -> RunConfig:
    data = TaskConfig("parity", longest=4, start=2, lengths="stage", samples=10, tested=(4, 6), tests=20)
    model = ModelConfig(vocabulary=3, width=8, heads=2, block="gpt", positions="none", injection=True)
    shift = ShiftConfig((1, 2, 3, 4), LossBelow(0.01, 3, most=8), Hard())
    return on_gpu(replace(tiny, data=data, model=model, shift=shift))


def with_graphs(config: RunConfig) -> RunConfig:
    return replace(config, training=replace(config.training, graphs=True))


@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "graphs"])
@pytest.mark.parametrize(("made", "stop"), [(on_gpu, 22), (task_run, 21)], ids=["tokens", "task"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path, tiny: RunConfig, made, stop, graphs):
    eager = made(tiny)
    config = with_graphs(eager) if graphs else eager
    whole = train(config, tmp_path / "whole")
    assert whole.provenance.device.startswith(GPU)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", [StopAt(stop)])
    assert train(config, tmp_path / "cut").weights_sha256 == whole.weights_sha256
    if graphs:
        losses = [one.final["held-out"]["all"].loss for one in (train(eager, tmp_path / "eager"), whole)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_run_on_a_task_is_asked_every_tested_length(tmp_path: Path, tiny: RunConfig):
    train(task_run(tiny), tmp_path / "run")
    assert [one.length for one in read_lengths(tmp_path / "run")] == [4, 6]


@pytest.mark.parametrize("gains", [None, (1.0, 0.7, 0.3, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("name", CONFIGS)
def test_graphs_give_the_losses_and_gradients_that_they_were_recorded_from(name, gains):
    """One after the other at two shapes and numbers of passes, so that graphs are replayed with new values in between."""
    here, there = twins(name)
    graphs = Graphs(there)
    for seed, rows, loops in ((0, 6, 6), (1, 6, 6), (2, 4, 3), (3, 6, 6), (4, 4, 3)):
        batch = torch.randint(7, (rows, 9), generator=torch.Generator().manual_seed(seed))
        factors = None if gains is None else gains[:loops]
        expected = mean_loss(here, batch, loops, factors)
        gradients = torch.autograd.grad(expected, list(here.parameters()))
        torch.testing.assert_close(graphs.backward(batch.to(GPU), loops, factors).cpu(), expected.detach())
        for parameter, gradient in zip(there.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad.cpu(), gradient)
    assert len(graphs.recorded) == 2


def test_graphs_in_bfloat16_give_what_the_same_model_gives_without_graphs():
    _, there = twins("gpt")
    forward = InBFloat16(there, torch.device(GPU))
    batches = [torch.randint(7, (6, 9), generator=torch.Generator().manual_seed(seed)).to(GPU) for seed in (0, 1)]

    def without_graph(batch):
        loss = mean_loss(forward, batch, 3)
        return loss.detach(), torch.autograd.grad(loss, list(there.parameters()))

    expected, graphs = [without_graph(batch) for batch in batches], Graphs(there, forward)
    for batch, (loss, parts) in zip(batches, expected, strict=True):
        torch.testing.assert_close(graphs.backward(batch, 3, None), loss)
        for parameter, gradient in zip(there.parameters(), parts, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_products_of_a_small_model_are_replayed_as_a_graph():
    here, there = twins("gpt")
    hessians = [Hessian(loss_fn, model, [tokens().to(device)]) for model, device in ((here, "cpu"), (there, GPU))]
    vectors = torch.randn(hessians[0].dim, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for vector in (*vectors.T, *vectors.T):
        torch.testing.assert_close((hessians[1] @ vector.to(GPU)).cpu(), hessians[0] @ vector)
    assert [graph.__name__ for graph in hessians[1].graphs.values()] == ["replay"]


def test_a_product_whose_graph_gives_something_else_is_not_replayed_as_a_graph():
    moving = iter(range(10))
    assert as_graph(lambda v: v * next(moving), torch.ones(3, device=GPU), torch.cuda.graph_pool_handle()) is None


def test_graphs_mask_samples_with_passes_of_their_own():
    here, there = twins("gpt")
    graphs, targets = Graphs(there), torch.full((6, 9), IGNORED)
    targets[:, -2:] = 3
    for seed, loops in (
        (0, LOOPS),
        (1, LOOPS.flip(0)),
        (2, torch.tensor([6, 6, 1, 1, 1, 2])),
        (3, torch.tensor([2, 1, 2, 1, 2, 2])),
    ):
        inputs = torch.randint(7, (6, 9), generator=torch.Generator().manual_seed(seed))
        expected = mean_loss(here, TaskBatch(inputs, targets, loops), 5)
        gradients = torch.autograd.grad(expected, list(here.parameters()))
        found = graphs.backward(TaskBatch(inputs.to(GPU), targets.to(GPU), loops), 5, None)
        torch.testing.assert_close(found.cpu(), expected.detach())
        for parameter, gradient in zip(there.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad.cpu(), gradient)
    assert len(graphs.recorded) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
def test_a_compiled_run_ends_near_the_one_that_was_not(tmp_path: Path, tiny: RunConfig):
    config = on_gpu(tiny)
    compiled = replace(config, training=replace(config.training, compile=True))
    losses = [train(c, tmp_path / str(k)).final["held-out"]["all"].loss for k, c in enumerate((config, compiled))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_public_face_takes_a_model_on_a_gpu():
    _, model = twins("attention")
    assert tw.Hessian(loss_fn, model, [tokens().to(GPU)]).dim == sum(parameter.numel() for parameter in model.parameters())
