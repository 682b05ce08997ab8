"""A window of real training gone over again from a snapshot, update by update.

Shape letters: W updates of a window, P number of parameters, N sequences, L tokens of a sequence.

All points of the window are kept, in float64, and a window that does not fit is refused.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.curvature import memory as limits
from thalweg.curvature.context import quiet
from thalweg.data.batches import Data
from thalweg.errors import NonFiniteError, require
from thalweg.landscape.edge import adam_preconditioner
from thalweg.landscape.flips import SHORTEST
from thalweg.records.landscape import ConditionRecord
from thalweg.survey.snapshot import Passes
from thalweg.train.checkpoint import Checkpoint, scatter
from thalweg.train.config import RunConfig
from thalweg.train.state import Run
from thalweg.train.trainer import advance, warm_up

_ROOM = 6
"""Arrays of the points' size that are alive at once: points and gradients, and what `thalweg.landscape.geometry` makes of them."""

Progress = Callable[[int, int], None]
"""Called with (updates done, updates in all)."""


@dataclass(frozen=True)
class Trajectory:
    """W updates as they were made."""

    step: int
    """Updates made before the first of them."""
    points: Tensor
    """theta_0 ... theta_W, ``(W + 1, P)``; float64 holds float32 weights to the bit."""
    gradients: Tensor
    """On the fixed batch at each of them, ``(W + 1, P)``."""
    losses: Tensor
    """Likewise, ``(W + 1,)``."""
    rates: tuple[float, ...]
    """eta of each update, ``(W,)``."""
    shrunk: tuple[float, ...]
    """Factor of clipping on each update's gradient, at most 1, ``(W,)``."""
    passes: tuple[Passes, ...]
    """Of each update, ``(W,)``; the last point is seen with those of the last update."""
    diagonals: dict[int, Tensor]
    """Point -> the preconditioner's diagonal there ``(P,)``; ones without one. At least one point."""
    momentum: float
    form: str
    """"heavy-ball" or "ema" (Adam's)."""

    @property
    def window(self) -> int:
        """W."""
        return len(self.rates)

    def loss_at(self, point: int) -> Callable[[nn.Module, Tensor], Tensor]:
        """The loss function with which a point is seen."""
        return self.passes[min(point, self.window - 1)].loss

    @property
    def one_loss(self) -> ConditionRecord:
        """Whether all updates have the same passes and gains."""
        others = sum(one != self.passes[0] for one in self.passes)
        return ConditionRecord("passes and gains stay", others == 0, float(others))


def trajectory(
    config: RunConfig,
    checkpoint: Checkpoint,
    batch: Tensor,
    window: int,
    memory: int | None = None,
    progress: Progress | None = None,
    data: Data | None = None,
) -> Trajectory:
    """The updates that training made after a snapshot, bit for bit on the same machine with as many threads.

    Args:
        config: of the run; trusted to be the one that the checkpoint was made with.
        checkpoint: a snapshot, from `thalweg.train.checkpoint.read_checkpoint`.
        batch: the fixed sequences ``(N, L)``.
        window: W.
        memory: bytes that may be used; None takes half of what is free.
        data: of the run, where it is at hand.
    Raises:
        BadInputError: W below 20, or more updates than the run has left.
        MemoryLimitError: the points of the window do not fit.
        NonFiniteError: loss or gradient not finite, which those of the run were: another machine, or another config.
    """
    with rerun(config, checkpoint, window, data) as run:
        return go_over(run, batch.to(run.device), window, memory, progress)


@contextlib.contextmanager
def rerun(config: RunConfig, checkpoint: Checkpoint, window: int, data: Data | None = None) -> Iterator[Run]:
    """The run as it stood at the snapshot; threads and random state are as before afterwards. Nothing is written."""
    step, threads = checkpoint.facts["step"], torch.get_num_threads()
    require(window >= SHORTEST, "window", window, f"at least {SHORTEST} updates")
    left = config.training.steps - step
    advice = f"at most the {left} that the run has left after {step}; take an earlier snapshot or a shorter window"
    require(window <= left, "window", window, advice)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            run = Run(config, checkpoint.path.parent, data=data)
            scatter(checkpoint, run.model, run.optimizer)
            run.shift.load_state_dict(checkpoint.facts["shift"])
            warm_up(run)
            yield run
    finally:
        torch.set_num_threads(threads)


def go_over(run: Run, batch: Tensor, window: int, memory: int | None, progress: Progress | None) -> Trajectory:
    """W updates as the trainer makes them, with what is recorded before each and after the last."""
    optimizer, first = run.config.optimizer, run.shift.step
    dim = sum(parameter.numel() for parameter in run.model.parameters())
    words = f"replay: {window} updates of {dim:,} weights in float64"
    limits.ensure(8 * _ROOM * (window + 1) * dim, limits.budget(memory), words, "shorten the window or give more memory")
    points, gradients = torch.empty(2, window + 1, dim, dtype=torch.float64)
    losses, exact = torch.empty(window + 1, dtype=torch.float64), copy.deepcopy(run.model).double()
    rates, shrunk, passes, diagonals = [], [], [], {}

    def look(point: int) -> None:
        points[point] = nn.utils.parameters_to_vector(run.model.parameters()).detach()
        load(exact, points[point])
        losses[point], gradients[point] = _loss_and_gradient(exact, passes[-1], batch)
        if point in places and (diagonal := preconditioner(run)) is not None:
            diagonals[point] = diagonal
        if progress is not None:
            progress(point, window)

    places = {0 if preconditioner(run) is not None else 1, window // 2, window}
    for point in range(window):
        step, gains = run.shift.step, run.gains()
        passes.append(Passes(run.shift.loops, None if gains is None else run.shift.gains))
        look(point)
        rate, tokens = run.rate(), run.batch(step)
        made = run.train_on(tokens, run.shift.loops, gains)
        if not made.finite:
            said = f"loss {made.loss}, gradient norm {made.grad_norm} in update {step + 1}"
            raise NonFiniteError(f"replay: {said}, expected those of the run; replay it on the machine that made it")
        advance(run, made)
        rates.append(rate)
        shrunk.append(optimizer.clip / made.grad_norm if 0 < optimizer.clip < made.grad_norm else 1.0)
    look(window)
    adam = optimizer.name == "adamw"
    momentum, form = (optimizer.beta1, "ema") if adam else (optimizer.momentum, "heavy-ball")
    return Trajectory(first, points, gradients, losses, tuple(rates), tuple(shrunk), tuple(passes), diagonals, momentum, form)


def load(model: nn.Module, point: Tensor) -> None:
    """Put a flat point ``(P,)`` into the weights."""
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), point.split([p.numel() for p in model.parameters()]), strict=True):
            parameter.copy_(part.view_as(parameter))


def _loss_and_gradient(model: nn.Module, passes: Passes, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Of the fixed batch at the model's weights: one number and ``(P,)``."""
    parameters = list(model.parameters())
    with quiet(model):
        loss = passes.loss(model, batch)
        parts = torch.autograd.grad(loss, parameters, materialize_grads=True)  # learned gains are not used by one pass
    return loss.detach(), torch.cat([part.flatten() for part in parts])


def preconditioner(run: Run) -> Tensor | None:
    """What the gradient is divided by, beside the rate, ``(P,)``; Adam has none before its first update.

    Adam's is ``sqrt(v) + epsilon`` with bias correction; a group's own factor on the rate divides it.
    """
    found = {}
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            diagonal = torch.ones(parameter.numel(), dtype=torch.float64)
            if "betas" in group:
                state = run.optimizer.state.get(parameter, {})
                if "exp_avg_sq" not in state:
                    return None
                second = state["exp_avg_sq"].flatten().cpu()
                diagonal = adam_preconditioner(second, int(state["step"]), group["betas"][1], group["eps"])
            found[parameter] = diagonal / group["rate_factor"]
    return torch.cat([found[parameter] for parameter in run.model.parameters()])
