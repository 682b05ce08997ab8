import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("lightning", reason="the extra lightning is not installed")

import torch
from tests.integrations.architectures import made, quiet
from tests.integrations.hf_training import STEPS, SWITCH, Rows, ramped

import thalweg as tw
from thalweg.errors import BadInputError
from thalweg.integrations.huggingface import loop
from thalweg.integrations.lightning import ShiftCallback

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet_lightning")]


@pytest.fixture
def quiet_lightning() -> None:
    import logging

    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Resumable(torch.utils.data.DataLoader):
    """A loader that knows where it is; a plain one begins its epoch again after a restart of Lightning."""

    position = 0

    def __iter__(self) -> Any:
        batches = list(super().__iter__())
        while self.position < len(batches):
            self.position += 1
            yield batches[self.position - 1]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def fit(
    folder: Path,
    shift: tw.Shift,
    name: str = "lightning.pytorch",
    resume: Path | None = None,
    seen: list[int] | None = None,
    manual: bool = False,
    callbacks: Sequence[Any] = (),
    fused: bool = False,
    **more: Any,
) -> Any:
    """Train ten updates, with a checkpoint after each; returns module, the schedule's trace and the learning rates."""
    pl = importlib.import_module(name)
    quiet().set_seed(0)
    model = made("llama").train()
    looped = loop(model, 1, 3)
    trace: list[tuple[Any, ...]] = []
    rates: list[float] = []
    update = shift.update
    shift.update = lambda loss, norm: (trace.append((looped.loops, loss, norm)), update(loss, norm))[1]  # type: ignore[method-assign]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.automatic_optimization = not manual

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(**batch).loss

        def validation_step(self, batch: Any, index: int) -> None:
            if seen is not None:
                seen.append(looped.loops)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, fused=fused)
            optimizer.register_step_post_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=STEPS)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    save = pl.callbacks.ModelCheckpoint(dirpath=str(folder), every_n_train_steps=1, save_top_k=-1, filename="{step}")
    options = {
        "max_steps": STEPS,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1e-3,
        "val_check_interval": 2,
        "limit_val_batches": 1,
    }
    quietly = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        callbacks=[ShiftCallback(shift, looped), save, *callbacks], num_sanity_val_steps=0, **quietly, **options | more
    )
    module = Module()
    loaders = [Resumable(Rows(), batch_size=2), torch.utils.data.DataLoader(Rows(), batch_size=2)]
    trainer.fit(module, *loaders, ckpt_path=None if resume is None else str(resume))
    return module, trace, rates


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_the_schedule_sees_every_update_before_clipping(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    seen: list[int] = []
    _, trace, rates = fit(tmp_path, ramped(), name, seen=seen)
    _, unclipped, _ = fit(tmp_path / "other", ramped(), name, gradient_clip_val=None)
    assert [passes for passes, *_ in trace] == [1] * SWITCH + [3] * (STEPS - SWITCH)
    assert trace[0] == pytest.approx(unclipped[0])
    assert seen[0] == 1
    assert seen[-1] == 3
    plain = [1e-2 * (1 - 0.5 * step / STEPS) for step in range(STEPS)]
    assert rates == pytest.approx([rate * (1 if step < SWITCH else 0.5) for step, rate in enumerate(plain)])


def test_accumulated_loss_is_the_mean_over_the_micro_batches(tmp_path: Path) -> None:
    _, trace, _ = fit(tmp_path, ramped(), max_steps=1)
    model = made("llama").train()
    rows = [Rows()[index] for index in range(4)]
    losses = [
        model(**{key: torch.stack([row[key] for row in pair]) for key in pair[0]}).loss.item() for pair in (rows[:2], rows[2:])
    ]
    assert trace[0][1] == pytest.approx(sum(losses) / 2, rel=1e-6)


def scaled() -> Any:
    """A plugin for float16 on the CPU whose first gradients overflow."""
    from lightning.pytorch.plugins import MixedPrecision

    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**20))


def test_updates_that_a_gradient_scaler_skips_do_not_count(tmp_path: Path) -> None:
    plugin = scaled()
    _, trace, rates = fit(tmp_path, ramped(), plugins=[plugin])
    skipped = round(math.log2(2.0**20 / plugin.scaler.get_scale()))  # it halves its scale with every skipped update
    assert 1 < skipped < STEPS - SWITCH - 1
    assert [passes for passes, *_ in trace] == ([1] * SWITCH + [3] * STEPS)[: STEPS - skipped]
    assert len(rates) == len(trace)
    assert all(math.isfinite(norm) for *_, norm in trace)


def test_a_fused_optimizer_with_a_gradient_scaler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="optimizer: given a fused one with a GradScaler, expected fused=False"):
        fit(tmp_path, ramped(), plugins=[scaled()], fused=True, gradient_clip_val=None)


def test_another_criterions_state_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, ramped(), max_steps=2)
    with pytest.raises(BadInputError, match="saved criteria: given 'at-step', expected plateau"):
        fit(tmp_path, ramped(criterion=tw.Plateau()), resume=tmp_path / "step=2.ckpt")


def test_manual_optimization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="module: given manual optimization, expected automatic_optimization = True"):
        fit(tmp_path, ramped(), manual=True, accumulate_grad_batches=1, gradient_clip_val=None)


def test_the_last_update_of_an_epoch_has_the_loss_of_its_micro_batches(tmp_path: Path) -> None:
    """Five batches in updates of four: the last of an epoch has one, and its loss is not a quarter."""
    _, trace, _ = fit(tmp_path, ramped(), accumulate_grad_batches=4, limit_train_batches=5, max_steps=4)
    losses = [loss for _, loss, _ in trace]
    assert max(losses) < 1.2 * min(losses)


def test_a_checkpoint_is_validated_with_the_passes_of_its_stage(tmp_path: Path) -> None:
    from types import SimpleNamespace

    shift = ramped(onset=tw.Hard())
    for _ in range(SWITCH):
        shift.update(1.0, 1.0)
    saved = ShiftCallback(shift, loop(made("llama"), 1, 3)).state_dict()
    looped = loop(made("llama"), 1, 3)
    callback = ShiftCallback(ramped(onset=tw.Hard()), looped)
    callback.load_state_dict(saved)
    callback.on_validation_start(SimpleNamespace(), SimpleNamespace())
    assert looped.loops == 3
