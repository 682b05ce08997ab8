import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytest.importorskip("accelerate", reason="the extra hf is not installed")

import torch
from tests.integrations import killed_training
from tests.integrations.architectures import made
from tests.integrations.hf_training import STEPS, ramped
from tests.integrations.killed_training import MOMENTS

import thalweg as tw
from thalweg.errors import BadInputError
from thalweg.integrations.huggingface import loop
from thalweg.integrations.updates import ShiftUpdates

KINDS = ["trainer", *(["lightning"] if importlib.util.find_spec("lightning") else [])]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """Folder of the trainings of `killed_training`, and the exit statuses of their processes."""
    root, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("killed")
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(killed_training.__file__)), str(folder), *KINDS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trainer", "lightning"])
def test_a_training_that_is_killed_three_times_is_bit_equal(killed: tuple[Path, dict[str, Any]], kind: str) -> None:
    if kind not in KINDS:
        pytest.skip("the extra lightning is not installed")
    folder, statuses = killed
    assert statuses[kind] == [0, *[-signal.SIGKILL] * len(MOMENTS), 0]
    whole, undisturbed = torch.load(folder / kind / "whole.pt", weights_only=False)
    resumed, trace = torch.load(folder / kind / "killed.pt", weights_only=False)
    assert (len(undisturbed), len(trace)) == (STEPS, STEPS - MOMENTS["after a checkpoint"])
    assert undisturbed[-len(trace) :] == trace
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# What is refused.


def test_an_optimizer_without_the_gains_is_refused() -> None:
    model = made("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    looped = loop(model, 1, 3, learned_gains="shared")
    with pytest.raises(BadInputError, match="given one without pass_gains, expected one that is made after loop"):
        ShiftUpdates(ramped(), looped).watch(optimizer)


def test_an_update_without_a_loss_is_refused() -> None:
    updates = ShiftUpdates(ramped(), loop(made("llama"), 1, 3))
    with pytest.raises(BadInputError, match="without a loss and a gradient norm"):
        updates.end(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))


def test_beginning_again_in_one_process_counts_nothing_twice() -> None:
    """A training that was interrupted within an update, and is resumed without a new schedule or optimizer."""
    model = made("llama")
    looped = loop(model, 1, 3)
    updates = ShiftUpdates(tw.Shift(loops=3, criterion=tw.AtStep(1), onset=tw.Hard(), handover=tw.Handover(rate=0.5)), looped)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rates = []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    updates.watch(optimizer)
    updates.shift.update(1.0, 1.0)  # the switch
    saved = updates.state_dict()
    updates.add_loss(torch.tensor(9.0))  # of a micro-batch of an update that never ends
    updates.watch(optimizer)
    updates.resume(saved, 1)
    assert updates.loss is None
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
    optimizer.step()
    assert seen == [0.5]
