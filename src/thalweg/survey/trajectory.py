"""Replay of a window of training from a snapshot, update by update.

Shape letters: W updates of a window, P number of parameters, N sequences, L tokens of a sequence.

All W + 1 points of the window are kept in float64; a window that does not fit into the memory is refused.
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
from thalweg.errors import BadInputError, NonFiniteError, require
from thalweg.landscape.edge import adam_preconditioner
from thalweg.landscape.flips import SHORTEST
from thalweg.records.landscape import ConditionRecord
from thalweg.survey.snapshot import Passes
from thalweg.threads import threads
from thalweg.train.checkpoint import Checkpoint, scatter
from thalweg.train.config import RunConfig
from thalweg.train.state import Run
from thalweg.train.trainer import advance, warm_up

_ARRAYS = 6
"""Arrays ``(W + 1, P)`` that are alive at once: points, gradients, and the temporaries of `thalweg.landscape.geometry`."""

Progress = Callable[[int, int], None]
"""Called with (number of updates done, number of all updates)."""


@dataclass(frozen=True)
class Trajectory:
    """W updates of training and the W + 1 points between them."""

    step: int
    """Number of updates made before the first of them."""
    points: Tensor
    """Weights theta_0 ... theta_W, ``(W + 1, P)``; float64 represents float32 weights exactly."""
    gradients: Tensor
    """Gradient of the loss on the fixed batch at every point, ``(W + 1, P)``."""
    losses: Tensor
    """Loss on the fixed batch at every point in nats, ``(W + 1,)``."""
    rates: tuple[float, ...]
    """Learning rate eta of every update, ``(W,)``."""
    shrunk: tuple[float, ...]
    """Factor by which clipping scaled the gradient of every update, at most 1, ``(W,)``."""
    passes: tuple[Passes, ...]
    """Passes of every update, ``(W,)``; the last point is evaluated with those of the last update."""
    diagonals: dict[int, Tensor]
    """Point -> diagonal ``(P,)`` of the optimizer's preconditioner there, ones for SGD; at least one point."""
    momentum: float
    """Coefficient of the momentum; beta1 of AdamW."""
    form: str
    """Form of the momentum: "heavy-ball" (SGD) or "ema" (AdamW)."""

    @property
    def window(self) -> int:
        """Number of updates W."""
        return len(self.rates)

    def loss_at(self, point: int) -> Callable[[nn.Module, Tensor], Tensor]:
        """The loss function at a point, with the passes of the update made from it."""
        return self.passes[min(point, self.window - 1)].loss

    @property
    def one_loss(self) -> ConditionRecord:
        """The condition that all updates have the same passes and gains, and so minimise the same loss."""
        others = sum(passes != self.passes[0] for passes in self.passes)
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
    """Repeat the updates that training made after a snapshot, and record every point.

    Equal to the updates of the run bit for bit, on the same machine with the same number of threads.

    Args:
        config: config of the run; trusted to be the one that the checkpoint was made with.
        checkpoint: a snapshot, from `thalweg.train.checkpoint.read_checkpoint`.
        batch: the fixed sequences ``(N, L)``.
        window: number of updates W.
        memory: number of bytes that may be used; None takes half of what is free.
        progress: see `Progress`.
        data: data of the run, if it is loaded already.
    Raises:
        BadInputError: W is below 20, or the run has fewer updates left.
        MemoryLimitError: the points of the window do not fit into the memory.
        NonFiniteError: a loss or gradient is not finite although those of the run were: another machine or another config.
    """
    with restored_run(config, checkpoint, window, data) as run:
        return record_updates(run, batch.to(run.device), window, memory, progress)


@contextlib.contextmanager
def restored_run(config: RunConfig, checkpoint: Checkpoint, window: int, data: Data | None = None) -> Iterator[Run]:
    """The run as it stood at a snapshot, for the time of a ``with`` block; nothing is written to its folder.

    The number of threads and PyTorch's random state are restored afterwards.
    """
    step = checkpoint.facts["step"]
    require(window >= SHORTEST, "window", window, f"at least {SHORTEST} updates")
    left = config.training.steps - step
    advice = f"at most the {left} updates that the run has left after {step}; take an earlier snapshot or a shorter window"
    require(window <= left, "window", window, advice)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with threads(), torch.random.fork_rng(devices):
        run = Run(config, checkpoint.path.parent, data=data)
        scatter(checkpoint, run.model, run.optimizer)
        run.shift.load_state_dict(checkpoint.facts["shift"])
        warm_up(run)
        yield run


def record_updates(run: Run, batch: Tensor, window: int, memory: int | None, progress: Progress | None) -> Trajectory:
    """Make W updates as the trainer does, and record the point before each update and after the last one.

    Args:
        run: the run at the start of the window; trained further by this.
        batch: the fixed sequences ``(N, L)``, on the run's device.
        window, memory, progress: see `trajectory`.
    Raises:
        BadInputError: the run uses Muon.
        MemoryLimitError, NonFiniteError: see `trajectory`.
    """
    if run.config.optimizer.name == "muon":
        raise BadInputError(
            'optimizer.name: given "muon", expected "adamw" or "sgd": the motion along a run assumes steps that are a fixed '
            "matrix times the mean gradient, which Muon's are not"
        )
    optimizer, first = run.config.optimizer, run.shift.step
    dim = sum(parameter.numel() for parameter in run.model.parameters())
    what = f"replay: {window} updates of {dim:,} weights in float64"
    limits.ensure(8 * _ARRAYS * (window + 1) * dim, limits.budget(memory), what, "shorten the window or give more memory")
    points, gradients = torch.empty(2, window + 1, dim, dtype=torch.float64)
    losses, exact = torch.empty(window + 1, dtype=torch.float64), copy.deepcopy(run.model).double()
    rates, shrunk, passes, diagonals = [], [], [], {}

    def record_point(point: int) -> None:
        """Record weights, loss and gradient at a point, in float64 on a copy of the model."""
        points[point] = nn.utils.parameters_to_vector(run.model.parameters()).detach()
        load(exact, points[point])
        losses[point], gradients[point] = _loss_and_gradient(exact, passes[-1], batch)
        if point in preconditioned and (diagonal := preconditioner(run)) is not None:
            diagonals[point] = diagonal
        if progress is not None:
            progress(point, window)

    # The preconditioner is recorded at the begin, in the middle and at the end; Adam has none before its first update.
    preconditioned = {0 if preconditioner(run) is not None else 1, window // 2, window}
    for point in range(window):
        step, gains = run.shift.step, run.gains()
        passes.append(Passes(run.shift.loops, None if gains is None else run.shift.gains))
        record_point(point)
        rate, tokens = run.rate(), run.batch(step)
        outcome = run.train_on(tokens, run.shift.loops, gains)
        if not outcome.finite:
            given = f"loss {outcome.loss}, gradient norm {outcome.grad_norm} in update {step + 1}"
            raise NonFiniteError(f"replay: {given}, expected the finite ones of the run; replay it on the machine that trained it")
        advance(run, outcome)
        rates.append(rate)
        shrunk.append(optimizer.clip / outcome.grad_norm if 0 < optimizer.clip < outcome.grad_norm else 1.0)
    record_point(window)
    adam = optimizer.name == "adamw"
    momentum, form = (optimizer.beta1, "ema") if adam else (optimizer.momentum, "heavy-ball")
    return Trajectory(first, points, gradients, losses, tuple(rates), tuple(shrunk), tuple(passes), diagonals, momentum, form)


def load(model: nn.Module, point: Tensor) -> None:
    """Copy a flat vector ``(P,)`` into the parameters of a model, in their order."""
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), point.split([p.numel() for p in model.parameters()]), strict=True):
            parameter.copy_(part.view_as(parameter))


def _loss_and_gradient(model: nn.Module, passes: Passes, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Loss on the fixed batch, ``()``, and its gradient at the model's weights, ``(P,)``."""
    parameters = list(model.parameters())
    with quiet(model):
        loss = passes.loss(model, batch)
        parts = torch.autograd.grad(loss, parameters, materialize_grads=True)  # learned gains are not used by one pass
    return loss.detach(), torch.cat([part.flatten() for part in parts])


def preconditioner(run: Run) -> Tensor | None:
    """Diagonal D of the preconditioner ``(P,)``: an update moves by ``-eta D^-1`` times the mean gradient.

    For SGD it is 1, for AdamW ``sqrt(v) + epsilon`` with bias correction, each divided by the rate factor of the parameter's group.
    None for AdamW before its first update.
    """
    diagonals = {}
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            diagonal = torch.ones(parameter.numel(), dtype=torch.float64)
            if "betas" in group:
                state = run.optimizer.state.get(parameter, {})
                if "exp_avg_sq" not in state:
                    return None
                second = state["exp_avg_sq"].flatten().cpu()
                diagonal = adam_preconditioner(second, int(state["step"]), group["betas"][1], group["eps"])
            diagonals[parameter] = diagonal / group["rate_factor"]
    return torch.cat([diagonals[parameter] for parameter in run.model.parameters()])
