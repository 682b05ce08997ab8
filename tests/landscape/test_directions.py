import pytest
import torch
from torch import nn

from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.errors import BadInputError, EmptySubspaceError, InsufficientDataError, NonFiniteError, ShapeMismatchError
from thalweg.landscape.directions import (
    Direction,
    cosine_between,
    direction,
    eigendirection,
    filter_normalised,
    principal,
    projected,
    river_and_valley,
    unit,
)
from thalweg.vectors import layout, select


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    built = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 2))
    with torch.no_grad():
        for seed, parameter in enumerate(built.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
        built[4].weight[2] = 0
    return built


def flat(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def test_every_filter_is_as_long_as_that_of_the_weights(model):
    found = layout(select(model)).split(filter_normalised(layout(select(model)), flat(model)).vector)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            for drawn, filter in zip(found[name], weight.detach().double(), strict=True):
                assert float(drawn.norm()) == pytest.approx(float(filter.norm()), rel=1e-12)


def test_a_filter_of_zeros_does_not_move(model):
    found = layout(select(model)).split(filter_normalised(layout(select(model)), flat(model)).vector)
    assert not found["4.weight"][2].any()


def test_biases_and_norms_stay_unless_asked(model):
    found = layout(select(model)).split(filter_normalised(layout(select(model)), flat(model)).vector)
    assert not any(part.any() for part in found.values() if part.dim() == 1)


def test_biases_and_norms_are_scaled_as_one_filter(model):
    found = layout(select(model)).split(filter_normalised(layout(select(model)), flat(model), vectors="scale").vector)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert float(found[name].norm()) == pytest.approx(float(weight.detach().double().norm()), rel=1e-12)


def test_inside_a_filter_the_direction_is_gaussian():
    weights = nn.Linear(4000, 1, bias=False)
    with torch.no_grad():
        weights.weight.fill_(1.0)
    drawn = filter_normalised(layout(select(weights)), torch.ones(4000)).vector
    kurtosis = float(drawn.pow(4).mean() / drawn.square().mean() ** 2)
    # Standard error of the kurtosis of n normals: sqrt(24 / n).
    assert abs(kurtosis - 3) < 4 * (24 / 4000) ** 0.5


def test_the_same_seed_gives_the_same_direction_and_another_number_another(model):
    one, again, other = (filter_normalised(layout(select(model)), flat(model), number=number).vector for number in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_model_of_biases_only_has_no_filters():
    model = nn.LayerNorm(3)
    with pytest.raises(EmptySubspaceError, match="random 0, filter-normalised: given the zero vector"):
        filter_normalised(layout(select(model)), torch.ones(6))


def test_unknown_treatment_of_biases_is_refused(model):
    with pytest.raises(BadInputError, match="unknown vectors 'scaled'; did you mean 'scale'"):
        filter_normalised(layout(select(model)), flat(model), vectors="scaled")


def test_a_point_of_another_length_is_refused(model):
    with pytest.raises(ShapeMismatchError, match=r"point: given shape \(3,\)"):
        filter_normalised(layout(select(model)), torch.ones(3))


def test_an_eigendirection_is_the_eigenvector():
    pairs = eigenpairs(torch.diag(torch.tensor([1.0, -5.0, 3.0], dtype=torch.float64)), k=2)
    found = eigendirection(pairs, 1)
    assert torch.allclose(found.vector, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), atol=1e-7)
    assert found.name == "eigenvector 1 (3)"


def test_an_eigendirection_that_is_not_there_is_refused():
    pairs = eigenpairs(torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)), k=2)
    with pytest.raises(BadInputError, match="index: given 2, expected a whole number from 0 to 1, there are 2 pairs"):
        eigendirection(pairs, 2)


def test_river_and_valley_have_length_one_and_their_names():
    river, valley = river_and_valley(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5]))
    assert (river.name, river.length, valley.name, valley.length) == ("river", pytest.approx(1), "valley", 1)
    assert torch.allclose(river.vector, torch.tensor([0.6, 0.8], dtype=torch.float64))


def test_river_and_valley_of_different_lengths_are_refused():
    with pytest.raises(ShapeMismatchError, match=r"river and valley: given shapes \(2,\) and \(3,\)"):
        river_and_valley(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_tiny_and_huge_directions_come_to_length_one(scale):
    assert unit(scale * torch.ones(4, dtype=torch.float64), 4).length == pytest.approx(1, rel=1e-12)


def test_a_zero_direction_is_refused():
    with pytest.raises(EmptySubspaceError, match="river: given the zero vector, expected a direction that moves a parameter"):
        direction(torch.zeros(2), 2, "river")


def test_a_direction_of_another_length_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"direction: given shape \(3,\), expected \(2,\)"):
        direction(torch.ones(3), 2)


def test_a_direction_with_nan_is_refused():
    with pytest.raises(NonFiniteError, match="direction: holds NaN"):
        direction(torch.tensor([1.0, float("nan")]), 2)


def test_a_named_direction_keeps_its_name():
    assert direction(Direction(torch.ones(2), "mine"), 2, "first").name == "mine"


@pytest.mark.parametrize("centred", [True, False])
def test_principal_directions_are_the_singular_vectors(centred):
    points = normal(7, 30) * torch.linspace(3, 0.1, 30)
    centre = points.mean(0) if centred else points[-1]
    found = principal(points, None if centred else centre)
    _, singular, right = torch.linalg.svd(points - centre)
    for mine, theirs in ((found.first, right[0]), (found.second, right[1])):
        assert abs(float(mine.vector @ theirs)) == pytest.approx(1, abs=1e-12)
    assert found.shares == pytest.approx((singular.square() / singular.square().sum())[:2].tolist(), rel=1e-10)


def test_coordinates_lead_back_to_a_planar_trajectory():
    basis = normal(2, 50, seed=1)
    points = normal(6, 2) @ basis + normal(50, seed=2)
    found = principal(points)
    back = found.centre + found.coordinates @ torch.stack([found.first.vector, found.second.vector])
    assert torch.allclose(back, points, atol=1e-12)
    assert found.explained == pytest.approx(1, abs=1e-12)


def test_principal_directions_are_orthonormal_though_the_second_is_small():
    points = torch.stack([torch.tensor([t, 1e-5 * t * t, 0.0]) for t in range(5)]).double() @ torch.linalg.qr(normal(3, 3)).Q
    found = principal(points)
    assert float(found.first.vector @ found.second.vector) == pytest.approx(0, abs=1e-14)
    assert found.second.length == pytest.approx(1, abs=1e-14)


def test_signs_of_principal_directions_are_fixed():
    points = normal(5, 9)
    for found in (principal(points), principal(-points)):
        for one in (found.first.vector, found.second.vector):
            assert float(one[one.abs().argmax()]) > 0


def test_float32_points_and_large_scales_are_accepted():
    points = 1e25 * normal(4, 8).float()
    assert 0 < principal(points).explained <= 1 + 1e-12


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_points_are_refused(count):
    with pytest.raises(InsufficientDataError, match=f"points: {count} of a trajectory, expected at least 3 for a plane"):
        principal(normal(count, 5))


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_points_on_a_line_make_no_plane(spread):
    line = spread * torch.arange(4.0).unsqueeze(1) * torch.ones(5)
    with pytest.raises(EmptySubspaceError, match="points: lie on a line through the centre"):
        principal(line)


def test_points_that_are_no_matrix_are_refused():
    with pytest.raises(ShapeMismatchError, match=r"points: given shape \(5,\), expected \(K, P\)"):
        principal(torch.ones(5))


def test_parallel_directions_make_no_plane():
    one, two = Direction(torch.ones(3).double(), "a"), Direction(-2 * torch.ones(3).double(), "b")
    with pytest.raises(BadInputError, match=r"directions: a and b are parallel \(cosine -1.0+\), expected two that make a plane"):
        cosine_between(one, two)


def test_directions_just_apart_enough_make_a_plane():
    one, two = (Direction(torch.tensor([1.0, y], dtype=torch.float64), "d") for y in (0.0, 2e-3))
    assert cosine_between(one, two) == pytest.approx(1 / (1 + 4e-6) ** 0.5, abs=1e-15)


def test_skew_directions_give_the_coordinates_that_lead_back():
    columns, coordinates = normal(20, 2, seed=3), normal(6, 2, seed=4)
    found, held = projected(coordinates @ columns.T, columns)
    assert torch.allclose(found, coordinates, atol=1e-12)
    assert held == pytest.approx(1, abs=1e-12)


def test_a_random_plane_holds_two_parts_in_p():
    shares = torch.tensor([projected(normal(1, 40, seed=2 * i), normal(40, 2, seed=2 * i + 1))[1] for i in range(400)])
    error = float(shares.std()) / 400**0.5
    assert abs(float(shares.mean()) - 2 / 40) < 4 * error
