import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("accelerate", reason="the extra hf is not installed")

import torch
from tests.integrations import hf_training
from tests.integrations.architectures import made, quiet
from tests.integrations.hf_training import RAMP, STEPS, SWITCH, TRACE, ramped, trainer

import thalweg as tw
from thalweg.errors import BadInputError
from thalweg.integrations.huggingface import loop
from thalweg.integrations.saving import load
from thalweg.integrations.trainer import attach
from thalweg.integrations.updates import ShiftUpdates
from thalweg.shift.net import SafetyNet

APART = 1e-6
"""Largest relative difference between two ranks and one process: rounding of another order of sums."""
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


@pytest.mark.parametrize("moment", [2, SWITCH + RAMP // 2, STEPS - 1], ids=["before the switch", "in the ramp", "after it"])
def test_resumed_run_is_bit_equal(tmp_path: Path, moment: int) -> None:
    whole = trainer(tmp_path, ramped(), save_steps=moment, save_total_limit=10)
    whole.train()
    undisturbed = list(TRACE)
    resumed = trainer(tmp_path / "resumed", ramped())
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{moment}"))
    assert undisturbed[moment:] == TRACE
    assert same(weights_of(whole), weights_of(resumed))


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


@pytest.mark.parametrize("more", [{"bf16": True}, {"gradient_checkpointing": True}], ids=["bf16", "checkpointing"])
def test_trains_with(tmp_path: Path, more: dict[str, Any]) -> None:
    trainer(tmp_path, ramped(onset=tw.Ramp(2)), max_steps=7).train()
    plain = list(TRACE)
    trainer(tmp_path, ramped(onset=tw.Ramp(2)), max_steps=7, **more).train()
    tolerance = 0.02 if "bf16" in more else 1e-5
    assert [loss for _, _, loss, _ in TRACE] == pytest.approx([loss for _, _, loss, _ in plain], rel=tolerance)


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
    with pytest.raises(BadInputError, match=r"looped: given 'the loops of another model', expected what loop\(\) returned"):
        attach(plain, ramped(), loop(made("llama"), 1, 3))


def test_a_schedule_is_for_one_training(tmp_path: Path) -> None:
    one = trainer(tmp_path, ramped(), max_steps=2)
    one.train()
    with pytest.raises(BadInputError, match="shift: given 'a schedule that has made 2 updates', expected a new one"):
        one.train()


def test_an_optimizer_without_the_gains_is_refused(tmp_path: Path) -> None:
    transformers = quiet()
    model = made("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    looped = loop(model, 1, 3, learned_gains="shared")
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    one = transformers.Trainer(model=model, args=arguments, optimizers=(optimizer, None))
    with pytest.raises(BadInputError, match="given 'one without pass_gains', expected one that is made after loop"):
        attach(one, ramped(), looped)


def test_no_trainer_is_refused() -> None:
    with pytest.raises(BadInputError, match="expected a Trainer of transformers"):
        attach(object(), ramped(), loop(made("llama"), 1, 3))  # type: ignore[arg-type]


def test_an_update_without_a_loss_is_refused() -> None:
    updates = ShiftUpdates(ramped(), loop(made("llama"), 1, 3))
    with pytest.raises(BadInputError, match="without a loss and a gradient norm"):
        updates.end(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))


# Processes of their own.


def started(command: list[str], folder: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_ranks_equal_one_process_that_accumulates_two_batches(tmp_path: Path) -> None:
    script = str(Path(hf_training.__file__))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", script]
    process = started(torchrun, tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    trace, weights = torch.load(tmp_path / "rank0.pt", weights_only=False)
    looping = {"learned_gains": "each", "most_loops": 3}
    one = trainer(tmp_path / "one", ramped(onset=tw.Hard()), looping, gradient_checkpointing=True, save_strategy="no", max_steps=7)
    for layer in one.model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    one.train()
    assert [entry[:2] for entry in trace] == [entry[:2] for entry in TRACE]
    for ours, theirs in zip(trace, TRACE, strict=True):
        assert ours[2:] == pytest.approx(theirs[2:], rel=APART)
    for name, value in weights_of(one).items():
        assert (value - weights[name]).abs().max() <= APART * value.abs().max(), name
