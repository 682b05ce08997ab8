import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("accelerate", reason="the extra hf is not installed")

import torch
from tests.integrations import hf_training
from tests.integrations.architectures import made
from tests.integrations.hf_training import STEPS, SWITCH, TRACE, by_hand, checkpointed, ramped, trainer

import thalweg as tw
from thalweg.errors import BadInputError, NoSwitchWarning
from thalweg.integrations.huggingface import loop, looped_layers_of
from thalweg.integrations.saving import load
from thalweg.integrations.trainer import attach
from thalweg.shift.net import SafetyNet

APART = 1e-6
"""Largest relative difference between two ranks and one process: rounding of another order of sums."""
SHARDED_APART = 1e-5
"""The same after ten updates of AdamW, which divides by small second moments."""
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def weights_of(one: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in one.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_schedule_sees_every_update_once(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(), max_grad_norm=1e-3)
    one.train()
    logs = [entry for entry in one.state.log_history if "loss" in entry]
    assert [passes for _, passes, _, _ in TRACE] == [1] * SWITCH + [3] * (STEPS - SWITCH)
    for entry, (_, _, loss, norm) in zip(logs, TRACE, strict=True):
        assert entry["loss"] == pytest.approx(loss, abs=1e-4)
        assert entry["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert [entry["loops"] for entry in logs] == [1] * SWITCH + [3] * (STEPS - SWITCH)
    assert [entry["loop_gain"] for entry in logs[SWITCH:]] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [entry["shift_stage"] for entry in logs] == [1] * SWITCH + [2] * (STEPS - SWITCH)


def test_norm_is_seen_where_nothing_is_clipped(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(), max_grad_norm=0, max_steps=2)
    one.train()
    clipped = list(TRACE)
    trainer(tmp_path / "other", ramped(), max_grad_norm=1e9, max_steps=2).train()
    assert [norm for *_, norm in clipped] == pytest.approx([norm for *_, norm in TRACE], rel=1e-6)


def test_evaluation_has_the_passes_of_the_stage(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(spread=0.5, onset=tw.Hard()), eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=96)
    seen: list[int] = []
    looped = one.callback_handler.callbacks[-1].updates.looped
    one.model.register_forward_pre_hook(lambda model, args: None if model.training else seen.append(looped.loops))
    one.train()
    assert seen == [1] * (SWITCH - 1) + [3] * (STEPS - SWITCH + 1)
    assert len({passes for _, passes, _, _ in TRACE[SWITCH:]}) > 1


def test_rate_factor_acts_on_the_step_and_not_on_the_scheduler(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(handover=tw.Handover(rate=0.25)), lr_scheduler_type="constant", optim="sgd")
    used: list[float] = []
    one.create_optimizer()
    one.optimizer.register_step_post_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    one.train()
    assert used == pytest.approx([1e-2] * SWITCH + [2.5e-3] * (STEPS - SWITCH))
    assert [entry["learning_rate"] for entry in one.state.log_history if "loss" in entry] == [1e-2] * STEPS


def test_handover_resets_the_moments(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(handover=tw.Handover(moments="reset")), max_steps=SWITCH)
    one.train()
    states = list(one.optimizer.state.values())
    assert states
    assert all(state["exp_avg"].abs().max() == 0 for state in states)


def test_learned_gains_have_no_weight_decay(tmp_path: Path) -> None:
    looping = {"learned_gains": "each", "gain_start": 1.0, "most_loops": 3, "norm": True}
    one = trainer(tmp_path, ramped(), looping, weight_decay=0.1)
    one.create_optimizer()
    decay = {id(p): group["weight_decay"] for group in one.optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in one.model.named_parameters() if "thalweg" in name} == {
        "thalweg.pass_gains": 0,
        "thalweg.norm.weight": 0,
    }
    assert decay[id(one.model.lm_head.weight)] == 0.1


def test_checkpoint_loads_with_its_loops(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(), {"learned_gains": "each", "most_loops": 3}, save_steps=STEPS)
    one.train()
    loaded, looped = load(tmp_path / f"checkpoint-{STEPS}")
    assert (looped.loops, looped.gains) == (3, (1, 1, 1))
    assert same(loaded.state_dict(), weights_of(one))


def test_what_the_trainer_itself_saves_in_the_end_loads_with_its_loops(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(), {"learned_gains": "each", "most_loops": 3})
    one.train()
    one.save_model(str(tmp_path / "mine"))
    loaded, looped = load(tmp_path / "mine")
    assert (looped.loops, looped.gains) == (3, (1, 1, 1))
    assert same(loaded.state_dict(), weights_of(one))


def test_a_training_that_ends_before_its_switch_says_why(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(criterion=tw.AtStep(3000)))
    with pytest.warns(NoSwitchWarning) as told:
        one.train()
    assert [str(each.message) for each in told if each.category is NoSwitchWarning] == [
        f"SHIFT: the switch at update 3000 is not before the last one, {STEPS}",
        f"SHIFT: the training ended before the last stage; no switch in {STEPS} updates: 1 loop; "
        "next switch: at update 3000 of the run",
    ]


def test_a_share_of_another_number_of_updates_is_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(criterion=tw.AtFraction(0.5, 1000)))
    with pytest.raises(BadInputError, match=f"AtFraction total_steps: given 1000, expected the {STEPS} updates of this training"):
        one.train()


@pytest.mark.parametrize("more", [{"bf16": True}, {"gradient_checkpointing": True}], ids=["bf16", "checkpointing"])
def test_trains_with(tmp_path: Path, more: dict[str, Any]) -> None:
    trainer(tmp_path, ramped(onset=tw.Ramp(2)), max_steps=7).train()
    plain = list(TRACE)
    trainer(tmp_path, ramped(onset=tw.Ramp(2)), max_steps=7, **more).train()
    tolerance = 0.02 if "bf16" in more else 1e-5
    assert [loss for _, _, loss, _ in TRACE] == pytest.approx([loss for _, _, loss, _ in plain], rel=tolerance)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
def test_updates_that_a_gradient_scaler_skips_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """Accelerate scales gradients on GPUs only, so that its scaler is set by hand here."""
    options: dict[str, Any] = {"optim": optimizer, "max_grad_norm": 0.0}
    trainer(tmp_path, ramped(), **options | {"learning_rate": 0.0, "optim": "sgd"}).train()
    unscaled = list(TRACE)
    for resume in (None, str(tmp_path / "checkpoint-8")):
        one = trainer(tmp_path, ramped(), save_steps=8, **options)
        scaler = one.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
        one.accelerator.native_amp = True
        monkeypatch.setattr(type(one.accelerator), "mixed_precision", "fp16")
        with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
            one.train(resume_from_checkpoint=resume)
        skipped = round(math.log2(2.0**20 / scaler.get_scale()))  # it halves its scale with every skipped update
        assert 1 < skipped < STEPS - SWITCH - 1
        updates = one.callback_handler.callbacks[-1].updates
        assert (updates.skipped, updates.shift.step) == (skipped, STEPS - skipped)
        assert [passes for _, passes, *_ in TRACE] == ([1] * SWITCH + [3] * STEPS)[: STEPS - skipped][-len(TRACE) :]
        if resume is None:  # the first update that counts has the weights of the beginning and a gradient without the scale
            norms = [entry["grad_norm"] for entry in one.state.log_history if "grad_norm" in entry]
            first = next(index for index, norm in enumerate(norms) if math.isfinite(norm))
            assert TRACE[0][2:] == pytest.approx(unscaled[first][2:], rel=0.02)
            whole = list(TRACE)
    assert whole[-len(TRACE) :] == TRACE


# What is refused.


def test_another_criterions_state_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, ramped(), save_steps=2, max_steps=2).train()
    other = trainer(tmp_path, ramped(criterion=tw.Plateau()))
    with pytest.raises(BadInputError, match=r"^saved criteria: given 'at-step', expected plateau.*[^\n]$"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_without_shift_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, save_steps=2, max_steps=2).train()
    with pytest.raises(BadInputError, match="after 2 updates without a state of SHIFT"):
        trainer(tmp_path, ramped()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_safety_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="SafetyNet tries: given 1, expected 0: this trainer cannot take weights back"):
        trainer(tmp_path, ramped(net=SafetyNet(tries=1)))


def test_more_loops_than_learned_gains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="shift loops: given 3, expected at most most_loops of the looped layers, 2"):
        trainer(tmp_path, ramped(), {"learned_gains": "each", "most_loops": 2})


def test_attaching_twice_is_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped())
    with pytest.raises(BadInputError, match="a trainer that has a schedule"):
        attach(one, ramped(), loop(made("llama"), 1, 3))


def test_loops_of_another_model_are_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped())
    plain = type(one)(model=made("llama"), args=one.args)
    with pytest.raises(BadInputError, match=r"looped: given the loops of another model, expected what loop\(\) returned"):
        attach(plain, ramped(), loop(made("llama"), 1, 3))


def test_a_schedule_is_for_one_training(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(), max_steps=2)
    one.train()
    with pytest.raises(BadInputError, match="shift: given a schedule that has made 2 updates, expected a new one"):
        one.train()


@pytest.mark.parametrize(("fsdp", "deepspeed"), [(True, False), (False, True)], ids=["FSDP 1", "DeepSpeed"])
def test_other_shards_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsdp: bool, deepspeed: bool) -> None:
    one = trainer(tmp_path)
    one.is_fsdp_enabled, one.is_deepspeed_enabled = fsdp, deepspeed
    monkeypatch.setattr(one.accelerator.state, "fsdp_plugin", SimpleNamespace(fsdp_version=1), raising=False)
    name = "FSDP 1" if fsdp else "DeepSpeed"
    with pytest.raises(BadInputError, match=f"attach: given a trainer with {name}, expected one process, DDP, or FSDP 2"):
        attach(one, ramped(), looped_layers_of(one.model))


def test_no_trainer_is_refused() -> None:
    with pytest.raises(BadInputError, match="expected a Trainer of transformers"):
        attach(object(), ramped(), loop(made("llama"), 1, 3))  # type: ignore[arg-type]


# Processes of their own.


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What rank 0 of two found, see `hf_training.main`."""
    root, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(Path(hf_training.__file__)), str(folder)]
    done = subprocess.run([sys.executable, *torchrun], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "rank0.pt", weights_only=False)


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of a weight, relative to the largest of its tensor."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max() / one[name].abs().max()) for name in one)


@pytest.mark.slow
def test_two_ranks_equal_one_process_that_accumulates_two_batches(two_ranks: dict[str, Any], tmp_path: Path) -> None:
    trace, weights, gains = two_ranks["ddp"]
    expected_trace, expected_weights, expected_gains = checkpointed(tmp_path)
    assert [entry[:2] for entry in trace] == [entry[:2] for entry in expected_trace]
    for ours, theirs in zip(trace, expected_trace, strict=True):
        assert ours[2:] == pytest.approx(theirs[2:], rel=APART)
    assert apart(expected_weights, weights) <= APART
    assert gains[-1] == pytest.approx(expected_gains[-1], rel=APART)


@pytest.mark.slow
def test_weight_decay_leaves_gains_that_have_no_gradient_yet_under_ddp_with_checkpointing(two_ranks: dict[str, Any]) -> None:
    _, _, gains = two_ranks["ddp"]
    assert gains[:SWITCH] == [[1.0, 1.0]] * SWITCH
    assert gains[-1] != [1.0, 1.0]


@pytest.mark.slow
def test_a_looped_model_under_fully_shard_equals_one_process(two_ranks: dict[str, Any]) -> None:
    trace, weights = two_ranks["sharded"]
    expected_trace, expected_weights, _ = by_hand(sharded=False)
    assert [passes for passes, *_ in trace] == [1] * SWITCH + [3] * (STEPS - SWITCH)
    for ours, theirs in zip(trace, expected_trace, strict=True):
        assert ours == pytest.approx(theirs, rel=SHARDED_APART)
    assert apart(expected_weights, weights) <= SHARDED_APART


@pytest.mark.slow
def test_loops_come_before_shards_and_stay(two_ranks: dict[str, Any]) -> None:
    assert two_ranks["loop"].startswith(
        "loop: given a model under fully_shard, expected one that is not sharded yet; loop it before"
    )
    assert "expected layers whose class nothing else has changed since loop()" in two_ranks["remove"]


def test_the_best_weights_run_with_the_passes_that_they_were_trained_with(tmp_path: Path) -> None:
    more = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "metric_for_best_model": "loss", "greater_is_better": True}
    one = trainer(tmp_path, ramped(onset=tw.Hard()), load_best_model_at_end=True, **more)
    one.eval_dataset = hf_training.Rows()
    one.train()
    best = Path(one.state.best_model_checkpoint)
    assert one.state.global_step > SWITCH
    assert looped_layers_of(one.model).loops == load(best)[1].loops
    assert one.evaluate()["eval_loss"] == pytest.approx(one.state.best_metric, abs=1e-4)
