import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.curvature.dense import dense_hessian
from thalweg.errors import BadInputError, MemoryLimitError, NotConvergedError
from thalweg.landscape.edge import Edge
from thalweg.landscape.geometry import quadratic_tortuosity
from thalweg.models.config import ModelConfig
from thalweg.records.landscape import ReplayRecord
from thalweg.serialization import from_dict, to_dict
from thalweg.shift.criterion import AtStep, Plateau
from thalweg.shift.onset import Ramp
from thalweg.survey import replay as replay_module
from thalweg.survey.replay import Curvature, edge_ratios, judge, replay, surroundings
from thalweg.survey.snapshot import Passes
from thalweg.survey.trajectory import Trajectory, trajectory
from thalweg.train.assemble import make_data, make_model
from thalweg.train.checkpoint import Checkpoint, checkpoints, digest, read_checkpoint
from thalweg.train.config import OptimizerConfig, RunConfig, ShiftConfig
from thalweg.train.step import make_optimizer, next_token_loss
from thalweg.train.trainer import train

OPTIMIZERS = {
    "adam": OptimizerConfig(schedule="wsd", warmup=10, weight_decay=0.1, value_rate=2.0),
    "heavy ball": OptimizerConfig(name="sgd", rate=0.1, schedule="cosine"),
    "sgd": OptimizerConfig(name="sgd", rate=0.1, momentum=0.0, clip=0.0),
}


def made(config: RunConfig, folder: Path, steps: int = 80, every: int = 20, **changes) -> tuple[RunConfig, list[Checkpoint]]:
    """A run with a checkpoint every few updates (all kept), from before the first: they are its snapshots."""
    training = replace(config.training, steps=steps, checkpoint_every=every, keep=99, snapshots=2)
    config = replace(config, training=training, **changes)
    train(config, folder)
    found = [*checkpoints(folder / "snapshots")[:1], *checkpoints(folder / "checkpoints")]
    return config, [read_checkpoint(path) for path in found]


def flat(checkpoint: Checkpoint, config: RunConfig, prefix: str = "model.") -> Tensor:
    names = [name for name, _ in make_model(config).named_parameters()]
    return torch.cat([checkpoint.tensors[prefix + name].flatten() for name in names]).double()


def fixed(config: RunConfig, count: int = 16) -> Tensor:
    return torch.from_numpy(make_data(config).evaluation[0].tokens[:count])


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_replay_passes_through_the_later_snapshots_bit_for_bit(tmp_path: Path, tiny: RunConfig, optimizer, first: int) -> None:
    """The switch to three passes comes after 12 updates and its ramp lasts until 22."""
    config, found = made(tiny, tmp_path, optimizer=optimizer)
    path = trajectory(config, found[first], fixed(config), 40)
    assert torch.equal(path.points[0], flat(found[first], config))
    assert torch.equal(path.points[20], flat(found[first + 1], config))
    assert torch.equal(path.points[40], flat(found[first + 2], config))
    assert (path.step, path.window) == (20 * first, 40)


def test_a_replay_passes_through_a_criterion_that_looks_at_losses(tmp_path: Path, tiny: RunConfig) -> None:
    rule = ShiftConfig((1, 2, 3), Plateau(delta_loss=1.0, delta_grad=9.0, patience=2, window=5), Ramp(9))
    config, found = made(tiny, tmp_path, shift=rule)
    path = trajectory(config, found[0], fixed(config), 80)
    assert torch.equal(path.points[80], flat(found[-1], config))
    assert {one.loops for one in path.passes} == {1, 2, 3}


def test_passes_and_gains_are_those_of_the_ramp(tmp_path: Path, tiny: RunConfig) -> None:
    config, found = made(tiny, tmp_path)
    path = trajectory(config, found[0], fixed(config), 30)
    passes = path.passes
    assert [path.loss_at(point) for point in (0, 17, 29, 30)] == [passes[update].loss for update in (0, 17, 29, 29)]
    assert passes[11] == Passes(1)
    assert passes[12] == Passes(3, (1.0, 0.0, 0.0))
    assert passes[17] == Passes(3, (1.0, 0.5, 0.5))
    assert passes[22] == Passes(3)


@pytest.mark.parametrize("point", [0, 15, 17, 30])
def test_loss_and_gradient_of_the_fixed_batch_are_those_of_a_fresh_model(tmp_path: Path, tiny: RunConfig, point: int) -> None:
    config, found = made(tiny, tmp_path, every=5)
    batch = fixed(config)
    path = trajectory(config, found[0], batch, 30)
    loss, parameters = seen(config, path.points[point], batch, path.passes[min(point, 29)])
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
    assert float(path.losses[point]) == pytest.approx(float(loss.detach()), rel=1e-12)
    torch.testing.assert_close(path.gradients[point], gradient, rtol=1e-9, atol=1e-12)


def test_rates_and_clipping_are_those_of_the_run(tmp_path: Path, tiny: RunConfig) -> None:
    """Plain SGD: a step is the rate times the factor times the batch's gradient, whose norm a fresh model tells."""
    optimizer = OptimizerConfig(name="sgd", rate=0.1, momentum=0.0, clip=0.85, schedule="wsd", decay_share=1.0)
    config, found = made(tiny, tmp_path, optimizer=optimizer)
    path, data = trajectory(config, found[0], fixed(config), 40), make_data(config)
    assert path.rates == pytest.approx([0.1 * (80 - k) / 80 for k in range(40)])
    for k, passes in enumerate(path.passes):
        loss, parameters = seen(config, path.points[k], torch.from_numpy(data.batch(k, 16)), passes)
        norm = float(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]).norm())
        assert path.shrunk[k] == pytest.approx(min(1.0, 0.85 / norm), rel=1e-4)
        step = float((path.points[k + 1] - path.points[k]).norm())
        assert step == pytest.approx(path.rates[k] * path.shrunk[k] * norm, rel=1e-3)
    assert 1.0 in path.shrunk
    assert min(path.shrunk) < 1.0


def seen(config: RunConfig, point: Tensor, rows: Tensor, passes: Passes) -> tuple[Tensor, list[nn.Parameter]]:
    """Loss of a fresh model in float64 at a point, and its parameters."""
    model = make_model(config).double()
    nn.utils.vector_to_parameters(point, model.parameters())
    return next_token_loss(model, rows, passes.loops, passes.gains), list(model.parameters())


def test_threads_and_random_numbers_are_left_as_they_were(tmp_path: Path, tiny: RunConfig) -> None:
    config, found = made(tiny, tmp_path)
    torch.rand(1)  # away from the state that the checkpoint holds
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    files = sorted(tmp_path.rglob("*"))
    torch.set_num_threads(2)
    try:
        trajectory(config, found[0], fixed(config), 20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(tmp_path.rglob("*")) == files


def test_a_checkpoint_can_be_replayed_again(tmp_path: Path, tiny: RunConfig) -> None:
    config, found = made(tiny, tmp_path)
    before = digest(found[1].tensors)
    first, second = (trajectory(config, found[1], fixed(config), 20) for _ in range(2))
    assert torch.equal(first.points, second.points)
    assert digest(found[1].tensors) == before


def test_what_cannot_be_replayed_is_refused(tmp_path: Path, tiny: RunConfig) -> None:
    config, found = made(tiny, tmp_path)
    batch = fixed(config)
    with pytest.raises(BadInputError, match="window: given 19, expected at least 20 updates"):
        trajectory(config, found[0], batch, 19)
    with pytest.raises(BadInputError, match="window: given 41, expected at most the 40 updates that the run has left after 40"):
        trajectory(config, found[2], batch, 41)
    with pytest.raises(MemoryLimitError, match=r"replay: 20 updates of .* shorten the window"):
        trajectory(config, found[0], batch, 20, memory=10_000)


def test_progress_counts_the_updates(tmp_path: Path, tiny: RunConfig) -> None:
    config, found = made(tiny, tmp_path)
    told = []
    trajectory(config, found[0], fixed(config), 20, progress=lambda done, whole: told.append((done, whole)))
    assert told == [(done, 20) for done in range(21)]


def test_adams_edge_ratio_is_that_of_the_hand_formula(tmp_path: Path, tiny: RunConfig) -> None:
    """eta lam_max(P^-1/2 H P^-1/2) (1 - beta1) / (2 (1 + beta1)), P = sqrt(v / (1 - beta2^t)) + 1e-8, from the snapshot's file."""
    plain = OptimizerConfig(rate=2e-3, clip=0.0, beta1=0.8, beta2=0.99, weight_decay=0.01, value_rate=2.0)
    config, found = made(tiny, tmp_path, optimizer=plain, shift=ShiftConfig((2,)))
    batch, begin = fixed(config), found[1]
    path = trajectory(config, begin, batch, 20)
    model = make_model(config)
    nn.utils.vector_to_parameters(flat(begin, config).float(), model.parameters())
    hessian = dense_hessian(lambda m, rows: next_token_loss(m, rows, 2), model, [batch], dtype=torch.float64).matrix
    names = [name for name, _ in model.named_parameters()]
    second = torch.cat([begin.tensors[f"optimizer.{place}.exp_avg_sq"].flatten() for place in places(config, names)]).double()
    assert float(begin.tensors["optimizer.0.step"]) == 20
    factor = torch.cat([torch.full_like(p, 2.0 if "value" in n else 1.0).flatten() for n, p in model.named_parameters()])
    diagonal = ((second / (1 - 0.99**20)).sqrt() + 1e-8) / factor.detach()
    largest = torch.linalg.eigvalsh(hessian / (diagonal.sqrt().outer(diagonal.sqrt())))[-1]
    by_hand = float(2e-3 * largest * (1 - 0.8) / (2 * (1 + 0.8)))
    around = surroundings(path, path.loss_at, model, batch)
    assert float(edge_ratios(path, {0: float(largest)})[0]) == pytest.approx(by_hand, rel=1e-12)
    constant = replace(path, diagonals={0: path.diagonals[0]})
    assert surroundings(constant, path.loss_at, model, batch).edge.median == pytest.approx(by_hand, rel=1e-6)
    assert around.edge.median != pytest.approx(by_hand, rel=1e-6)  # three points, not one


def places(config: RunConfig, names: list[str]) -> list[int]:
    """Number of each parameter in the optimizer, whose groups come first."""
    model = make_model(config)
    optimizer = make_optimizer(config.optimizer, model)
    numbers = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return [numbers.index(id(model.get_parameter(name))) for name in names]


def test_between_measured_points_the_sharpness_is_straight_and_clipping_counts() -> None:
    path = walked([1.0, 0.1], rate=0.5, window=20)
    path = replace(path, shrunk=(0.5, *path.shrunk[1:]))
    found = edge_ratios(path, {0: 1.0, 20: 3.0})
    assert float(found[0]) == pytest.approx(0.5 * 0.5 * 1.0 / 2)
    assert float(found[10]) == pytest.approx(0.5 * 2.0 / 2)


class Parabola(nn.Module):
    """1/2 sum lam_i theta_i^2 - slope . theta."""

    def __init__(self, values: list[float], start: list[float], slope: float = 0.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.values, self.slope = torch.tensor(values, dtype=torch.float64), slope

    def forward(self) -> Tensor:
        return self.values @ self.theta.square() / 2 - self.slope * self.theta[-1]


class Bent(Parabola):
    """The first coordinate's curvature grows along the last: ``1/2 (lam + t y) x^2 - slope y``."""

    bend = 0.5

    def forward(self) -> Tensor:
        return super().forward() + self.bend * self.theta[-1] * self.theta[0] ** 2 / 2


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    return model()


NOTHING = torch.zeros(1)


def walk(model: nn.Module, rate: float, window: int, momentum: float = 0.0) -> Trajectory:
    """Gradient descent by PyTorch's own SGD, written down as a replay writes it."""
    points, gradients, losses = [], [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    for _ in range(window + 1):
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        points.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        losses.append(loss.detach())
        optimizer.step()
    return Trajectory(
        step=5,
        points=torch.stack(points),
        gradients=torch.stack(gradients),
        losses=torch.stack(losses),
        rates=(rate,) * window,
        shrunk=(1.0,) * window,
        passes=(Passes(1),) * window,
        diagonals={0: torch.ones(points[0].numel()), window: torch.ones(points[0].numel())},
        momentum=momentum,
        form="heavy-ball",
    )


def walked(values: list[float], rate: float, window: int, start: list[float] | None = None, **more) -> Trajectory:
    return walk(Parabola(values, start or [1.0] * len(values)), rate, window, **more)


def judged(model: nn.Module, path: Trajectory, name: str = "U", first: float = 1.0, **more) -> ReplayRecord:
    around = surroundings(path, lambda point: loss_of, model, NOTHING, **more)
    return judge(path, around, first, name)


VALUES = [1.0, 0.001, 0.0005, 0.0]
START = [1.0, 0.5, -0.5, 0.0]


def parabola(sharpness: float, window: int = 40, momentum: float = 0.0, name: str = "U") -> ReplayRecord:
    model = Parabola(VALUES, START, slope=0.01)
    return judged(model, walk(model, sharpness, window, momentum), epsilon=0.01, name=name)


@pytest.mark.parametrize("sharpness", [1.4, 1.6, 1.9])
def test_a_parabola_hops_between_one_and_two(sharpness: float) -> None:
    found = parabola(sharpness)
    assert found.hops
    assert found.directions == 1
    assert found.flips == (1.0,)
    assert found.tortuosity_valley == pytest.approx(quadratic_tortuosity(sharpness, 40), rel=1e-6)
    assert found.edge == pytest.approx(sharpness / 2, rel=1e-9)
    assert found.degrees == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("sharpness", [0.1, 0.9])
def test_a_parabola_does_not_hop_below_one(sharpness: float) -> None:
    found = parabola(sharpness)
    assert not found.hops
    assert found.flips == (0.0,)
    assert found.tortuosity_valley == pytest.approx(1, abs=1e-9)


def test_heavy_ball_has_another_edge() -> None:
    """eta lam over 2 (1 + beta)."""
    assert parabola(1.6, momentum=0.5).edge == pytest.approx(1.6 / 3, rel=1e-9)


def test_the_river_of_a_parabola_flows_straight() -> None:
    found = parabola(1.6)
    assert found.flows
    assert found.tortuosity_river == pytest.approx(1, abs=0.01)


def test_a_river_without_a_slope_does_not_flow_and_is_no_error() -> None:
    model = Parabola([1.0, 0.0], [1.0, 0.0])
    found = judged(model, walk(model, 1.6, 20))
    assert not found.flows
    assert found.conditions["river"][0].words == "the first gradient has a part in the river"
    assert found.ablation.startswith("not made: downhill: has no part in the river")
    assert found.progress == {}


def test_a_flat_valley_without_a_slope_is_trapped_only_in_class_u() -> None:
    def still(name: str) -> ReplayRecord:
        model = Parabola([1.0, 1e-9, 0.0], [0.0, 1e-3, 0.0], slope=1e-9)
        path = walk(model, 0.1, 30)
        return judged(model, replace(path, losses=path.losses + 2), name, epsilon=0.5)

    assert still("U").trapped
    assert not still("V").trapped


def test_nothing_that_moves_gives_finite_numbers() -> None:
    model = Parabola([1.0, 0.5], [0.0, 0.0])
    found = judged(model, walk(model, 0.5, 20))
    assert (found.tortuosity_valley, found.tortuosity_river, found.hop_ratio) == (0.0, 0.0, 0.0)
    assert not found.hops
    assert not found.flows
    assert from_dict(ReplayRecord, json.loads(json.dumps(to_dict(found), allow_nan=False))) == found


def test_a_closed_walk_is_written_as_a_large_number() -> None:
    """eta lam = 2 comes back to where it was after every second step."""
    model = Parabola([1.0, 0.0], [1.0, 0.0], slope=0.1)
    found = judged(model, walk(model, 2.0, 20))
    assert found.tortuosity_valley == 1e12
    tau = next(one for one in found.conditions["hopping"] if one.words.startswith("tau_V"))
    assert tau.held
    assert tau.measured is None


def test_only_eigenvalues_above_epsilon_are_valley_and_at_most_top() -> None:
    model = Parabola([3.0, 2.0, 1.0, 0.001], [1.0, 1.0, 1.0, 1.0], slope=0.1)
    path = walk(model, 0.1, 20)
    assert judged(model, path, epsilon=1.5).directions == 2
    assert judged(model, path, epsilon=0.01, top=1).directions == 1
    assert judged(model, path, epsilon=5.0).directions == 1
    assert judged(model, path).directions == 3


def test_the_cubic_drift_is_bend_times_slope() -> None:
    """At x = 0 the valley's curvature is ``lam + t y``: its gradient along the river is t, and the slope is h."""
    model = Bent([1.0, 0.0], [0.0, 0.0], slope=0.3)
    assert judged(model, walk(model, 0.1, 20)).cubic_drift == pytest.approx(0.5 * 0.3, rel=1e-9)
    model = Bent([1.0, 0.0], [0.0, 0.0], slope=-0.3)
    assert judged(model, walk(model, 0.1, 20)).cubic_drift == pytest.approx(-0.5 * 0.3, rel=1e-9)


def test_the_cubic_drift_is_that_of_the_steepest_of_several_directions() -> None:
    """Only the first coordinate's curvature changes, and it is not the steepest one in the second case."""
    steepest, second = (Bent([first, 1.0, 0.0], [0.0, 0.0, 0.0], slope=0.3) for first in (2.0, 0.5))
    assert judged(steepest, walk(steepest, 0.1, 20)).cubic_drift == pytest.approx(0.15, rel=1e-9)
    assert judged(second, walk(second, 0.1, 20)).cubic_drift == pytest.approx(0.0, abs=1e-12)
    assert judged(second, walk(second, 0.1, 20)).directions == 2


def test_a_frame_that_turns_is_measured_and_takes_the_hopping_away() -> None:
    """The steepest axis is not among the two steepest at the end: 90 degrees."""
    model = Parabola(VALUES, START, slope=0.01)
    path = walk(model, 1.6, 40)
    turning = Parabola([0.001, 1.0, 0.5, 0.0], START)

    def loss_at(point: int):
        return loss_of if point < 40 else (lambda m, rows: (turning.values * m.theta**2).sum() / 2)

    around = surroundings(path, loss_at, model, NOTHING, epsilon=0.9)
    assert around.degrees == pytest.approx(90, abs=1e-4)
    assert not judge(path, around, 1.0, "U").hops
    assert judge(path, replace(around, degrees=29.0), 1.0, "U").hops


def test_directions_that_stay_are_followed_and_those_that_turn_are_left_out() -> None:
    frame = torch.eye(5, dtype=torch.float64)[:, :2]
    little, much = math.radians(20), math.radians(50)
    last = torch.zeros(5, 3, dtype=torch.float64)
    last[0, 0], last[2, 0] = math.cos(little), math.sin(little)
    last[1, 1], last[3, 1] = math.cos(much), math.sin(much)
    last[4, 2] = 1.0
    kept, degrees = replay_module.steady_directions(frame, last)
    assert torch.equal(kept, frame[:, :1])
    assert degrees == pytest.approx(20, rel=1e-9)
    none_left, smallest = replay_module.steady_directions(frame[:, 1:], last)
    assert torch.equal(none_left, frame[:, 1:])
    assert smallest == pytest.approx(50, rel=1e-9)


def test_a_direction_that_changes_places_with_its_neighbour_is_still_followed() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    kept, degrees = replay_module.steady_directions(eye[:, :1], eye[:, [1, 0]])
    assert (kept.shape[1], degrees) == (1, 0.0)


def test_a_window_whose_passes_change_is_called_nothing() -> None:
    model = Parabola(VALUES, START, slope=0.01)
    path = walk(model, 1.6, 40)
    around = surroundings(path, lambda point: loss_of, model, NOTHING, epsilon=0.01)
    changed = judge(replace(path, passes=(Passes(1),) * 39 + (Passes(2),)), around, 1.0, "U")
    assert (changed.hops, changed.flows, changed.trapped) == (False, False, False)
    assert all(found[-1].measured == 1 for found in changed.conditions.values())


def test_the_ablation_of_a_parabola_finds_no_help_in_hopping() -> None:
    """Along the slope h every run moves ``rate * h * steps``, but the one kept in the valley."""
    model = Parabola([1.0, 0.0], [1.0, 0.0], slope=0.1)
    found = judged(model, walk(model, 1.6, 20), rate=0.5)
    assert found.ablation == "not supported"
    assert found.progress == pytest.approx(
        {"plain": 1.0, "bulk_only": 1.0, "bulk_on_floor": 1.0, "valley_only": 0.0, "half_rate": 1.0}
    )
    assert judged(model, walk(model, 1.6, 20)).progress["plain"] == pytest.approx(3.0)  # 1.5 / lam_max


def test_an_ablation_that_diverges_is_put_in_words() -> None:
    model = Parabola([1.0, 0.0], [1.0, 0.0], slope=0.1)
    found = judged(model, walk(model, 1.6, 20), rate=1e300)
    assert found.ablation.startswith("not made: gradient: NaN or infinity in the settling run")


def test_a_place_that_curves_downwards_only_is_put_in_words() -> None:
    model = Parabola([-1.0, -2.0], [0.1, 0.1], slope=0.1)
    found = judged(model, walk(model, 0.1, 20))
    assert found.directions == 1
    assert found.ablation == "not made: the largest eigenvalue is -1, no valley gives a rate"
    assert not found.hops


def test_a_sharpness_that_does_not_converge_is_a_condition_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_):
        raise NotConvergedError("eigenpairs: too few products")

    monkeypatch.setattr(replay_module, "preconditioned_sharpness", fails)
    found = parabola(1.6)
    assert not found.hops
    assert found.edge == 0.0
    assert next(one for one in found.conditions["hopping"] if "edge" in one.words).measured is None


def test_a_class_that_does_not_exist_is_an_error() -> None:
    path = walked(VALUES, 0.1, 20)
    frame = torch.eye(4, dtype=torch.float64)[:, :1]
    around = Curvature(frame, 0.0, Edge(0.5, 0.0, 0.9, 1.1), 0.0, None, "", {})
    with pytest.raises(BadInputError, match="unknown class 'W'"):
        judge(path, around, 1.0, "W")


def test_batch_sharpness_is_that_of_two_backward_passes(tmp_path: Path, tiny: RunConfig) -> None:
    config, found = made(tiny, tmp_path, optimizer=OPTIMIZERS["sgd"], shift=ShiftConfig((1,)))
    record = replay(config, found[1], fixed(config), 20, first_gradient=1.0, valley_class="U", top=2)
    data, top, bottom = make_data(config), 0.0, 0.0
    for step in range(20, 28):
        with sdpa_kernel(SDPBackend.MATH):
            loss, parameters = seen(config, flat(found[1], config), torch.from_numpy(data.batch(step, 16)), Passes(1))
            parts = torch.autograd.grad(loss, parameters, create_graph=True)
            g = torch.cat([part.flatten() for part in parts])
            product = torch.cat([part.flatten() for part in torch.autograd.grad(g @ g.detach(), parameters)])
        top, bottom = top + float(g.detach() @ product), bottom + float(g.detach() @ g.detach())
    assert record.batch_sharpness == pytest.approx(0.1 * top / bottom / 2, rel=1e-9)


@pytest.mark.parametrize(("block", "first"), [("attention", 0), ("attention", 3), ("gpt", 1)])
def test_a_real_run_gives_a_record_that_json_holds(tmp_path: Path, tiny: RunConfig, block, first: int) -> None:
    model = ModelConfig(length=11, width=8, heads=2, block=block)
    config, found = made(tiny, tmp_path, model=model, shift=ShiftConfig((1, 2), AtStep(12), Ramp(10)))
    record = replay(config, found[first], fixed(config), 20, first_gradient=1.0, valley_class="V", top=3, data=make_data(config))
    assert (record.step, record.window, record.loops) == (20 * first, 20, 2 if first else 1)
    assert 1 <= record.directions <= 3
    assert len(record.flips) == len(record.flips_low) == record.directions
    assert record.batch_sharpness is None
    assert from_dict(ReplayRecord, json.loads(json.dumps(asdict(record), allow_nan=False))) == record
    assert all(one.held for one in record.conditions["hopping"]) == record.hops
    steady = record.conditions["trapped"][-1]
    assert steady.words == "passes and gains stay"
    assert steady.held == (first == 3)
