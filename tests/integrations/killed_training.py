"""A training that SIGKILL ends three times and that is started again each time, beside one that runs undisturbed.

As a script, it imports the trainers once and forks a process for every start.
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.integrations.architectures import made
from tests.integrations.hf_training import RAMP, STEPS, SWITCH, TRACE, ramped, trainer

MOMENTS = {"between micro-batches": 2, "in the ramp": SWITCH + RAMP // 2, "after a checkpoint": STEPS - 1}
"""Moment at which the process is killed -> number of updates that it has made by then."""
_HOOKS = {
    "trainer": ("on_substep_end", "on_step_end", "on_save"),
    "lightning": ("on_after_backward", "on_before_optimizer_step", "on_train_batch_start"),
}
"""Events of each trainer at which the process is killed, in the order of `MOMENTS`."""
Trained = tuple[dict[str, torch.Tensor], list[tuple[Any, ...]]]
"""The weights in the end, and what the schedule saw in every update of the last process."""


def killing(base: Any, hook: str, updates: int) -> Any:
    """A callback that kills its own process at the first call of a hook after some updates."""

    def kill(self: Any, *given: Any, **named: Any) -> None:
        step = next(one.global_step for one in given if hasattr(one, "global_step"))
        if step == updates:
            os.kill(os.getpid(), signal.SIGKILL)

    return type("Killing", (base,), {hook: kill})()


def with_trainer(folder: Path, kill: tuple[str, int] | None) -> Trained:
    from transformers import TrainerCallback

    one = trainer(folder, ramped(), save_steps=1)
    if kill is not None:
        one.add_callback(killing(TrainerCallback, *kill))
    one.train(resume_from_checkpoint=True if any(folder.glob("checkpoint-*")) else None)
    return one.model.state_dict(), list(TRACE)


def with_lightning(folder: Path, kill: tuple[str, int] | None) -> Trained:
    import lightning
    from tests.integrations.test_lightning import fit

    saved = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    more = [] if kill is None else [killing(lightning.pytorch.Callback, *kill)]
    module, trace, _ = fit(folder, ramped(), resume=saved[-1] if saved else None, callbacks=more)
    return module.model.state_dict(), trace


def forked(work: Callable[[], Any]) -> int:
    """Exit status of a process that does some work; minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def statuses(kind: str, folder: Path) -> list[int]:
    """Exit statuses of the undisturbed training, of those that are killed, and of the last start."""
    training = {"trainer": with_trainer, "lightning": with_lightning}[kind]
    ended = [forked(lambda: torch.save(training(folder / "whole", None), folder / "whole.pt"))]
    for kill in zip(_HOOKS[kind], MOMENTS.values(), strict=True):
        ended.append(forked(lambda kill=kill: training(folder / "killed", kill)))
    ended.append(forked(lambda: torch.save(training(folder / "killed", None), folder / "killed.pt")))
    return ended


def main(folder: Path, kinds: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made("llama")  # imported here, so that no fork has to
    if "lightning" in kinds:
        import tests.integrations.test_lightning  # noqa: F401
    print(json.dumps({kind: statuses(kind, folder / kind) for kind in kinds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
