from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("accelerate", reason="the extra hf is not installed")

import torch
from tests.integrations.architectures import PROMPT
from tests.integrations.hf_training import SWITCH, ramped, trainer

import thalweg as tw
from thalweg.errors import BadInputError
from thalweg.integrations.landscapes import LandscapeSeries
from thalweg.integrations.trainer import LandscapeCallback
from thalweg.records.landscape import read_landscape

pytestmark = pytest.mark.filterwarnings("ignore")
BATCH = {"input_ids": PROMPT, "labels": PROMPT}
NORMS = ["model.layers.1.*norm*", "model.norm*"]


def series(folder: Path, **more: Any) -> LandscapeSeries:
    """A landscape of few parameters, so that it is measured in moments."""
    probe = tw.LandscapeProbe(top=2, forms=0, method="exact")
    return LandscapeSeries(folder, [BATCH], probe=probe, params=NORMS, **more)


def trained(folder: Path, landscape: LandscapeSeries | None, **more: Any) -> Any:
    one = trainer(folder, ramped(onset=tw.Hard()), **more)
    if landscape is not None:
        one.add_callback(LandscapeCallback(landscape))
    return one


def test_measuring_along_a_trainer(tmp_path: Path) -> None:
    landscape = series(tmp_path / "run", every=SWITCH)
    one = trained(tmp_path / "a", landscape, max_steps=4)
    one.train()
    plain = trained(tmp_path / "b", None, max_steps=4)
    plain.train()
    # Training is not changed.
    pairs = zip(one.model.state_dict().items(), plain.model.state_dict().values(), strict=True)
    assert all(torch.equal(value, other) for (_, value), other in pairs)
    # Each point has the passes of its stage.
    assert [(r.step, r.loops) for r in landscape.records] == [(0, 1), (SWITCH, 3)]
    with torch.no_grad():
        assert landscape.records[-1].loss == pytest.approx(one.model.eval()(**BATCH).loss.item(), rel=1e-5)


def linear_loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean() + 0.1 * model.weight.pow(4).sum()  # type: ignore[union-attr, operator]


def of_a_line(folder: Path, **more: Any) -> LandscapeSeries:
    probe = tw.LandscapeProbe(top=1, forms=0)
    return LandscapeSeries(folder, [torch.eye(3)], loss_of=linear_loss, probe=probe, **more)


def test_records_are_those_of_thalwegs_own_runs(tmp_path: Path) -> None:
    landscape, model = of_a_line(tmp_path, slices=True), torch.nn.Linear(3, 1)
    landscape.begin(0)
    for step in range(6):
        if landscape.due(step):
            landscape.measure(model, step)
        with torch.no_grad():
            model.weight.mul_(0.5)
    landscape.finish(model, 6)
    read = read_landscape(tmp_path)
    assert read is not None
    assert [point.step for point in read.points] == [0, 1, 2, 4, 6]
    assert read.points == tuple(landscape.records)
    assert read.summary is not None
    assert 0 < read.summary.seconds == pytest.approx(landscape.seconds)
    assert [record.name for record in read.slices] == ["eigenvectors"]
    for kind in ("numbers", "split", "spectra", "slices"):
        assert tw.plot(tmp_path, kind).axes
    assert tw.plot({"one": tmp_path, "other": [landscape.records, landscape.records]}).axes


def test_resumed_series_has_every_point_once(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    for first, steps in ((0, (0, 2, 4)), (3, (4, 6))):
        landscape = of_a_line(tmp_path, every=2)
        landscape.begin(first)
        assert [step for step in range(first, steps[-1] + 1) if landscape.due(step)] == [s for s in steps if s >= first]
        for step in steps:
            landscape.measure(model, step)
    read = read_landscape(tmp_path)
    assert read is not None
    assert [point.step for point in read.points] == [0, 2, 4, 6]


def test_report_draws_the_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from thalweg.survey.command import figures_of_series

    landscape = of_a_line(tmp_path / "run")
    landscape.begin(0)
    landscape.finish(torch.nn.Linear(3, 1), 0)
    assert figures_of_series(tmp_path / "run")
    assert "landscape of run" in capsys.readouterr().out
    assert (tmp_path / "run" / "landscape" / "figures" / "spectra.svg").exists()
    assert not figures_of_series(tmp_path)


def test_measuring_along_lightning(tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch", reason="the extra lightning is not installed")
    from thalweg.integrations.lightning import LandscapeCallback as Callback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    batch = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    probe = tw.LandscapeProbe(top=1, forms=0)
    landscape = LandscapeSeries(tmp_path, [batch], every=2, loss_of=lambda model, x: model(x).square().mean(), probe=probe)
    quietly = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    fit = pl.Trainer(max_steps=3, accelerator="cpu", accumulate_grad_batches=2, callbacks=[Callback(landscape)], **quietly)
    fit.fit(Module(), torch.utils.data.DataLoader(batch, batch_size=1))
    # The Hessian of the mean square is 2 X^T X / n with a column of ones for the bias, at every point.
    inputs = torch.cat((batch, torch.ones(4, 1)), 1).double()
    largest = torch.linalg.eigvalsh(2 * inputs.T @ inputs / 4)[-1]
    assert [record.step for record in landscape.records] == [0, 2, 3]
    assert [record.largest[0] for record in landscape.records] == pytest.approx([float(largest)] * 3, rel=1e-4)


@pytest.mark.parametrize("given", [{"batches": []}, {"batches": BATCH}, {"batches": [BATCH], "every": 0}])
def test_bad_series_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match=r"batches|every"):
        LandscapeSeries(tmp_path, **given)


def test_a_training_that_begins_anew_in_a_folder_keeps_no_point_of_the_old_one(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    loss = lambda model, batch: model(batch).square().mean()  # noqa: E731
    for one in (model, other):
        landscape = LandscapeSeries(tmp_path, [torch.eye(2)], every=1, loss_of=loss, probe=tw.LandscapeProbe(top=1, forms=0))
        landscape.begin(0)
        assert landscape.due(0)
        assert landscape.measure(one, 0).loss == pytest.approx(loss(one, torch.eye(2)).item(), rel=1e-5)
        landscape.finish(one, 1)
    assert (tmp_path / "landscape" / "journal.jsonl.old").exists()
    landscape = LandscapeSeries(tmp_path, [torch.eye(2)], every=1, loss_of=loss, probe=tw.LandscapeProbe(top=1, forms=0))
    landscape.begin(1)
    assert [record.step for record in landscape.records] == [0, 1]
    landscape.seconds += 5.0  # as if earlier sessions had measured for long
    landscape._before += 5.0
    assert landscape._summary(other).training_seconds > 0
