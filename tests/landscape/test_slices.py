import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg import LoopedTransformer, ModelConfig
from thalweg.curvature.dense import dense_hessian
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.errors import BadInputError, EmptySubspaceError, NonFiniteError, ShapeMismatchError
from thalweg.landscape.directions import eigendirection, filter_normalised, principal
from thalweg.landscape.slices import Slices

EXACT = 1e-12


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Bowl(nn.Module):
    """theta, whose loss is 1/2 theta^T A theta + b^T theta."""

    def __init__(self, dim):
        super().__init__()
        self.theta = nn.Parameter(normal(dim, seed=7))


def bowl(dim=6):
    root = normal(dim, dim, seed=5)
    matrix, slope = root + root.T, normal(dim, seed=6)
    return Bowl(dim), matrix, slope, lambda m, scale: scale * (m.theta @ matrix @ m.theta / 2 + slope @ m.theta)


def quadratic_slices(**given):
    model, matrix, slope, loss = bowl()
    return Slices(loss, model, [torch.ones((), dtype=torch.float64)], **given), matrix, slope, model.theta.detach()


def language(width=8, block="gpt", loops=2):
    model = LoopedTransformer(
        ModelConfig(vocabulary=5, length=4, width=width, heads=2, block=block), torch.Generator().manual_seed(0)
    )

    def loss(m, tokens):
        return functional.cross_entropy(m(tokens[:, :-1], loops=loops).flatten(0, 1), tokens[:, 1:].flatten())

    return model, loss, [torch.randint(5, (3, 5), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def by_hand(model, loss, batches, point):
    """Mean over equal batches with the weights written into a module of its own."""
    moved = LoopedTransformer(model.config).to(point.dtype).eval()
    nn.utils.vector_to_parameters(point, moved.parameters())
    with torch.no_grad():
        return float(sum(loss(moved, batch) for batch in batches) / len(batches))


@pytest.mark.parametrize("together", [None, 1, 4, 100])
def test_a_slice_of_a_quadratic_is_its_parabola(together):
    slices, matrix, slope, theta = quadratic_slices(together=together)
    d, places = normal(6, seed=8), torch.linspace(-3, 2, 11).double()
    found = slices.line(d, places)
    constant = theta @ matrix @ theta / 2 + slope @ theta
    exact = constant + places * ((matrix @ theta + slope) @ d) + places.square() * (d @ matrix @ d) / 2
    assert torch.allclose(found.losses, exact, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("together", [1, 5])
def test_a_plane_has_the_loss_of_every_place_in_its_row_and_column(together):
    slices, matrix, slope, theta = quadratic_slices(together=together)
    d, e = normal(6, seed=8), normal(6, seed=9)
    first, second = torch.tensor([-1.0, 0.5, 2.0]).double(), torch.tensor([0.0, 3.0]).double()
    found = slices.plane((d, e), first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            point = theta + a * d + b * e
            assert float(found.losses[i, j]) == pytest.approx(float(point @ matrix @ point / 2 + slope @ point), rel=EXACT)


def test_the_plane_of_two_eigenvectors_has_their_eigenvalues_as_curvatures():
    model, loss, batches = language(width=4)
    dense = dense_hessian(loss, model, batches, dtype=torch.float64, compile="never")
    pairs = eigenpairs(dense.matrix, k=2)
    slices = Slices(loss, model, batches, dtype=torch.float64)
    h = 2e-5
    grid = slices.plane((eigendirection(pairs, 0), eigendirection(pairs, 1)), [-h, 0, h], [-h, 0, h]).losses
    curvatures = [(grid[2, 1] - 2 * grid[1, 1] + grid[0, 1]) / h**2, (grid[1, 2] - 2 * grid[1, 1] + grid[1, 0]) / h**2]
    mixed = (grid[2, 2] - grid[2, 0] - grid[0, 2] + grid[0, 0]) / (4 * h**2)
    # Truncation falls like h^2, from 6e-3 of the value at h = 1e-3 to 2.5e-6 here; rounding of losses near 1.6 is as much.
    assert [float(value) for value in curvatures] == pytest.approx(pairs.values.tolist(), rel=1e-5)
    assert float(mixed) == pytest.approx(0, abs=1e-5 * float(pairs.values[0]))


@pytest.mark.parametrize("block", ["attention", "gpt"])
@pytest.mark.parametrize("together", [1, 3])
def test_a_transformer_moved_by_hand_has_the_same_loss(block, together):
    model, loss, batches = language(block=block)
    slices = Slices(loss, model, batches, dtype=torch.float64, together=together)
    d = filter_normalised(slices.layout, slices.point, seed=3)
    found = slices.line(d, [-1.0, 0.0, 0.3, 2.0])
    expected = [by_hand(model, loss, batches, slices.point + a * d.vector) for a in (-1.0, 0.0, 0.3, 2.0)]
    assert found.losses.tolist() == pytest.approx(expected, rel=EXACT)
    assert found.name == "random 0, filter-normalised"


def test_place_zero_is_the_mean_loss():
    model, loss, batches = language()
    slices = Slices(loss, model, batches)
    assert float(slices.line(torch.ones(slices.layout.dim), [0.0]).losses) == pytest.approx(slices.loss, rel=1e-6)


@pytest.mark.parametrize("together", [1, 4])
def test_ragged_batches_are_weighted_by_what_counts(together):
    model = nn.Linear(2, 1, bias=False).double()
    batches = [normal(rows, 2, seed=rows) for rows in (1, 5)]
    slices = Slices(lambda m, x: (m(x).square().sum(), len(x)), model, batches, together=together)
    d, places = normal(2, seed=1), [0.0, 1.0, -2.0, 0.5]
    rows = torch.cat(batches)
    expected = [float((rows @ (model.weight[0].detach() + a * d)).square().mean()) for a in places]
    assert slices.line(d, places).losses.tolist() == pytest.approx(expected, rel=EXACT)


def test_only_the_chosen_parameters_move():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()
    x = normal(4, 2)
    slices = Slices(lambda m, x: m(x).square().mean(), model, [x], params="1.*")
    found = slices.line(torch.ones(3), [2.0]).losses
    with torch.no_grad():
        expected = float((model[0](x) @ (model[1].weight[0] + 2) + model[1].bias + 2).square().mean())
    assert float(found) == pytest.approx(expected, rel=EXACT)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).double().train()
    before = [parameter.clone() for parameter in model.parameters()]
    slices = Slices(lambda m, x: m(x).square().mean(), model, [normal(4, 2)], together=2)
    slices.line(torch.ones(6), [0.0, 1.0])
    assert model.training
    assert model[1].training
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("together", [1, 3])
def test_dropout_is_off_along_a_slice(together):
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double().train()
    without, x = nn.Sequential(model[0], model[2]), normal(4, 2)
    slices = Slices(lambda m, x: m(x).square().mean(), model, [x], together=together)
    found = slices.line(torch.ones(slices.layout.dim), [0.0, 0.0, 0.0]).losses
    assert found.tolist() == pytest.approx(3 * [float(without(x).detach().square().mean())], rel=EXACT)


def test_the_centre_can_be_another_point():
    slices, matrix, slope, _ = quadratic_slices()
    centre = normal(6, seed=11)
    found = slices.line(normal(6, seed=8), [0.0], centre=centre)
    assert float(found.losses) == pytest.approx(float(centre @ matrix @ centre / 2 + slope @ centre), rel=EXACT)


def test_a_trajectory_in_the_plane_is_held_whole_and_found_again():
    slices, *_, theta = quadratic_slices()
    d, e = normal(6, seed=8), normal(6, seed=9)
    coordinates = normal(5, 2, seed=10)
    path = theta + coordinates @ torch.stack([d, e])
    found = slices.plane((d, e), [0.0], [0.0], path=path)
    assert found.held == pytest.approx(1, abs=EXACT)
    assert torch.allclose(found.path, coordinates, atol=1e-11)


def test_the_principal_plane_holds_what_it_explains():
    slices, *_ = quadratic_slices()
    points = normal(7, 6, seed=12)
    for centre in (None, points[-1]):
        found = principal(points, centre)
        plane = slices.plane((found.first, found.second), [0.0], [0.0], centre=found.centre, path=points)
        assert plane.held == pytest.approx(found.explained, rel=EXACT)
        assert torch.allclose(plane.path, found.coordinates, atol=1e-12)
        assert plane.names == ("principal 1", "principal 2")


def test_a_path_that_stays_at_the_centre_has_no_share():
    slices, *_, theta = quadratic_slices()
    found = slices.plane((torch.eye(6)[0], torch.eye(6)[1]), [0.0], [0.0], path=theta.unsqueeze(0))
    assert found.held != found.held
    assert found.path.tolist() == [[0.0, 0.0]]


def test_without_a_path_there_are_no_coordinates():
    slices, *_ = quadratic_slices()
    found = slices.plane((torch.eye(6)[0], torch.eye(6)[1]), [0.0], [0.0])
    assert (found.path, found.held) == (None, None)


def test_angle_and_lengths_of_skew_directions_are_told():
    slices, *_ = quadratic_slices()
    d, e = torch.zeros(6), torch.zeros(6)
    d[0], e[0], e[1] = 2.0, 1.0, 1.0
    found = slices.plane((d, e), [0.0], [0.0])
    assert (found.angle, found.cosine) == (pytest.approx(45), pytest.approx(0.5**0.5))
    assert found.lengths == (2.0, pytest.approx(2**0.5))
    assert found.orthonormality == pytest.approx(3)


def test_orthonormal_directions_are_told():
    slices, *_ = quadratic_slices()
    found = slices.plane((torch.eye(6)[0], torch.eye(6)[1]), [0.0], [0.0])
    assert (found.orthonormality, found.angle) == (0.0, 90.0)


@pytest.mark.parametrize(("together", "calls"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6])])
def test_progress_counts_points(together, calls):
    slices, *_ = quadratic_slices(together=together)
    seen = []
    slices.plane((torch.eye(6)[0], torch.eye(6)[1]), [0, 1, 2], [0, 1], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in calls]


def counting(loss):
    """The loss, and a list that grows at each of its calls."""
    calls = []

    def counted(m, batch):
        calls.append(1)
        return loss(m, batch)

    return counted, calls


def test_points_in_one_pass_call_the_loss_once():
    model, _, _, loss = bowl()
    counted, calls = counting(loss)
    slices = Slices(counted, model, [torch.ones((), dtype=torch.float64)], together=8)
    calls.clear()
    slices.line(torch.ones(6), torch.arange(16.0))
    assert len(calls) == 3  # two passes, and one point alone to compare
    assert "8 points in a pass" in slices.how


def test_a_loss_that_vmap_cannot_do_is_evaluated_one_by_one():
    model, _, _, loss = bowl()

    def stubborn(m, batch):
        return loss(m, batch) if m.theta.sum().item() < 1e9 else loss(m, batch) * 0

    places = torch.linspace(-1, 1, 5)
    batches = [torch.ones((), dtype=torch.float64)]
    slices = Slices(stubborn, model, batches, together=4)
    assert torch.equal(
        slices.line(torch.ones(6), places).losses, Slices(loss, model, batches, together=1).line(torch.ones(6), places).losses
    )
    assert slices.how.startswith("one by one: vmap failed (")
    assert "\n" not in slices.how


def test_a_loss_that_differs_under_vmap_is_evaluated_one_by_one():
    model, _, _, loss = bowl()

    def two_faced(m, batch):
        under = torch._C._functorch.is_batchedtensor(m.theta)
        return loss(m, batch) + (1e-3 if under else 0.0)

    batches = [torch.ones((), dtype=torch.float64)]
    slices = Slices(two_faced, model, batches, together=4)
    plain = Slices(loss, model, batches, together=1)
    assert torch.equal(slices.line(torch.ones(6), torch.arange(6.0)).losses, plain.line(torch.ones(6), torch.arange(6.0)).losses)
    assert "under vmap the loss at one point differs by 1.0e-03" in slices.how


def test_an_error_of_the_loss_itself_comes_out():
    model, _, _, loss = bowl()

    def far_is_wrong(m, batch):
        if m.theta.norm() > 100:
            raise RuntimeError("too far")
        return loss(m, batch)

    slices = Slices(far_is_wrong, model, [torch.ones((), dtype=torch.float64)], together=2)
    with pytest.raises(RuntimeError, match="too far"):
        slices.line(torch.ones(6), [0.0, 1e6])


def test_losses_that_overflow_are_told_as_infinite():
    slices, *_ = quadratic_slices(together=2)
    found = slices.line(torch.ones(6), [0.0, 1e200, 1e200, 0.0])
    assert found.losses.isfinite().tolist() == [True, False, False, True]


def test_large_activations_are_evaluated_one_by_one():
    model = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, 1))
    slices = Slices(lambda m, x: m(x).square().mean(), model, [torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))])
    assert slices.together == 1
    assert slices.how.startswith("one by one: an evaluation keeps")


def test_small_activations_are_evaluated_together():
    slices, *_ = quadratic_slices()
    assert slices.together == 16


def test_memory_limits_the_points_of_a_pass():
    slices, *_ = quadratic_slices(together=1000, memory=4000)
    assert 1 <= slices.together < 30
    assert slices.how.endswith("as asked and as memory allows")


def test_parallel_directions_are_refused():
    slices, *_ = quadratic_slices()
    with pytest.raises(BadInputError, match="directions: first and second are parallel"):
        slices.plane((torch.ones(6), 3 * torch.ones(6)), [0.0], [0.0])


def test_a_zero_direction_is_refused():
    slices, *_ = quadratic_slices()
    with pytest.raises(EmptySubspaceError, match="second: given the zero vector"):
        slices.plane((torch.ones(6), torch.zeros(6)), [0.0], [0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.line(torch.ones(5), [0.0]), r"direction: given shape \(5,\), expected \(6,\)"),
        (lambda s: s.line(torch.ones(6), [[0.0]]), r"places: given shape \(1, 1\), expected a row of places"),
        (lambda s: s.line(torch.ones(6), [0.0], centre=torch.ones(3)), r"centre: given shape \(3,\)"),
        (lambda s: s.plane((torch.eye(6)[0], torch.eye(6)[1]), [0], [0], path=torch.ones(2, 5)), r"path: given shape \(2, 5\)"),
    ],
)
def test_wrong_lengths_are_refused(call, message):
    with pytest.raises(ShapeMismatchError, match=message):
        call(quadratic_slices()[0])


def test_no_places_are_refused():
    with pytest.raises(BadInputError, match="places: given no places, expected at least one"):
        quadratic_slices()[0].line(torch.ones(6), [])


def test_places_that_are_not_finite_are_refused():
    with pytest.raises(NonFiniteError, match="places: holds NaN or infinity"):
        quadratic_slices()[0].line(torch.ones(6), [float("inf")])


def test_no_points_in_a_pass_are_refused():
    with pytest.raises(BadInputError, match="together: given 0, expected a whole number of at least 1, or None"):
        quadratic_slices(together=0)


def test_a_loss_that_reads_which_weights_require_gradients_has_its_value():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(8, 2)

    def loss(model, batch):
        return model(batch).square().mean() + sum(weight.square().sum() for weight in model.parameters() if weight.requires_grad)

    slices = Slices(loss, model, [x])
    line = slices.line(torch.ones(slices.objective.dim), torch.tensor([-0.1, 0.0, 0.1]))
    assert line.losses[1] == pytest.approx(loss(model, x).item(), rel=1e-6)
