from dataclasses import replace

import pytest
import torch
from torch import nn

from thalweg.curvature.hessian import Hessian
from thalweg.curvature.probes import gaussian
from thalweg.errors import BadInputError
from thalweg.landscape.convergence import batched, components, pseudo_values, quantity, sizes
from thalweg.landscape.probe import LandscapeProbe

EXACT = 1e-6
"""Relative, of eigenvalues with a relative residual of 1e-3."""
ROWS = (3, 5, 4, 6, 3, 5)
"""Rows of each batch; the counts differ on purpose."""
WIDTH = 5


def batches(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, WIDTH + 1, dtype=torch.float64, generator=draw) for rows in ROWS]


def squares(model, batch):
    """A linear regression, whose Hessian over rows X is ``2 X^T X / N``."""
    return (model(batch[:, :WIDTH])[:, 0] - batch[:, WIDTH]).square().sum(), len(batch)


@pytest.fixture(scope="module")
def regression():
    model = nn.Linear(WIDTH, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, WIDTH))
    probe = LandscapeProbe(top=2, probes=3, lanczos=WIDTH, dtype=torch.float64)
    return model, probe.converge(squares, model, batches())


def closed_form(model, chosen):
    """Hessian, gradient and loss of the chosen batches, by hand."""
    data = torch.cat([batches()[index] for index in chosen])
    x, y = data[:, :WIDTH], data[:, WIDTH]
    residual = x @ model.weight[0].detach() - y
    return 2 * x.T @ x / len(x), 2 * x.T @ residual / len(x), residual.square().mean()


@pytest.mark.parametrize("size", [1, 2, 6])
def test_every_level_holds_the_values_of_its_own_batches(regression, size):
    model, report = regression
    truth: dict[str, list[float]] = {}
    for chosen in batched(len(ROWS), size):
        hessian, gradient, loss = closed_form(model, chosen)
        values, unit = torch.linalg.eigvalsh(hessian), gradient / gradient.norm()
        found = {
            "loss": loss,
            "gradient norm": gradient.norm(),
            "curvature along the gradient": unit @ hessian @ unit,
            "sharpness (largest eigenvalue)": values[-1],
            "eigenvalue 2": values[-2],
            "smallest eigenvalue": values[0],
        }
        for name, value in found.items():
            truth.setdefault(name, []).append(float(value))
    for name, values in truth.items():
        level = next(level for level in report[name].levels if level.batches == size)
        assert level.values == pytest.approx(values, rel=EXACT, abs=EXACT)


def test_moments_are_those_of_the_shared_probes(regression):
    model, report = regression
    operator = Hessian(squares, model, batches(), check=False)
    z = torch.stack([gaussian(operator, index, 0) for index in range(3)], 1)
    z = z / z.norm(dim=0)
    for level in report["trace"].levels:
        truth = []
        for chosen in batched(len(ROWS), level.batches):
            hessian = closed_form(model, chosen)[0]
            truth.append(WIDTH * float((z * (hessian @ z)).sum(0).mean()))
        assert level.values == pytest.approx(truth, rel=EXACT)
    images = closed_form(model, range(len(ROWS)))[0] @ z
    assert report["Frobenius norm"].running[-1] == pytest.approx(float((WIDTH * images.square().sum(0).mean()).sqrt()), rel=EXACT)


def drawn_table(seed, count, probes, mean, batch, probe, mixed, bias):
    """Values of a planted quantity for every set: mean + c / k + batches + probes + their interaction."""
    draw = torch.Generator().manual_seed(seed)
    of_batches = batch * torch.randn(count, 1, dtype=torch.float64, generator=draw)
    of_probes = probe * torch.randn(1, probes, dtype=torch.float64, generator=draw)
    of_both = mixed * torch.randn(count, probes, dtype=torch.float64, generator=draw)
    single = of_batches + of_both
    return {
        size: {"q": mean + bias / size + of_probes + torch.stack([single[list(one)].mean(0) for one in batched(count, size)])}
        for size in sizes(count)
    }


def test_intervals_hold_the_value_of_unlimited_batches_and_probes_in_95_of_100_trials():
    """At least 93 of 100 over 600 trials."""
    held = [0, 0]
    for seed in range(600):
        many = quantity("q", drawn_table(seed, 8, 6, 10.0, 1.0, 0.7, 0.5, 0.0), ())
        single = quantity("q", drawn_table(seed, 8, 1, 10.0, 1.0, 0.0, 0.0, 1.5), ())
        held[0] += abs(many.value - 10.0) <= many.error
        held[1] += abs(single.value - 10.0) <= single.error
    assert min(held) >= 0.93 * 600
    assert held[0] <= 0.99 * 600  # the interval without a bias is no wider than it has to be


def test_deviations_are_those_that_were_planted():
    found = [quantity("q", drawn_table(seed, 16, 10, 10.0, 1.0, 0.7, 0.5, 3.0), ()) for seed in range(200)]
    mean = lambda field: float(torch.tensor([getattr(one, field) for one in found]).square().mean()) ** 0.5  # noqa: E731
    assert mean("batch_deviation") == pytest.approx(1.0, rel=0.05)
    assert mean("interaction") == pytest.approx(0.5, rel=0.05)
    assert mean("probe_deviation") == pytest.approx((0.7**2 + 0.5**2 / 16) ** 0.5, rel=0.05)
    assert mean("bias") == pytest.approx(3.0, rel=0.05)


def test_the_variance_over_sets_holds_a_share_of_the_interaction():
    draw = torch.Generator().manual_seed(0)
    found = torch.tensor([components(torch.randn(50, 4, dtype=torch.float64, generator=draw)) for _ in range(200)])
    assert float(found[:, 1].mean()) == pytest.approx(1.0, rel=0.02)
    assert float(found[:, 0].mean()) == pytest.approx(0.25, rel=4 * (2 / 49 / 200) ** 0.5)


def test_sets_that_cannot_be_told_from_the_probes_keep_the_whole_variance():
    """No variance over batches at all, but 1 of the interaction: the upper bound with 4 probes is 1/2, never 0."""
    found = [quantity("q", drawn_table(seed, 16, 4, 10.0, 0.0, 0.7, 1.0, 0.0), ()).batch_deviation for seed in range(100)]
    assert min(found) > 0.2
    assert sum(found) / 100 == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 0.01])
def test_the_number_that_is_named_is_the_first_that_is_enough(tolerance):
    one = quantity("q", drawn_table(1, 8, 6, 10.0, 1.0, 0.7, 0.5, 2.0), ())
    for needed, error in ((one.batches_for(tolerance), one.batch_error), (one.probes_for(tolerance), one.probe_error)):
        assert error(needed) <= tolerance * abs(one.value) * (1 + 1e-6)
        assert needed == 1 or error(needed - 1) > tolerance * abs(one.value)


@pytest.mark.parametrize(("copies", "differ"), [(6, 1), (3, 2), (2, 3)])
def test_equal_batches_are_refused_as_they_do_not_tell_how_much_batches_differ(copies, differ):
    probe = LandscapeProbe(top=1, probes=2, dtype=torch.float64)
    drawn = batches()[:differ] * copies
    with pytest.raises(BadInputError, match=rf"^batches: given 6 batches of which {differ} differ, expected at least 4 different"):
        probe.converge(squares, nn.Linear(WIDTH, 1, bias=False).double(), drawn)


def test_an_unknown_quantity_is_a_key_error_that_says_which_there_are(regression):
    with pytest.raises(KeyError) as caught:
        regression[1]["sharpness"]
    assert str(caught.value).startswith("unknown quantity 'sharpness'; did you mean 'sharpness (largest eigenvalue)'? Known: Frob")
    assert isinstance(caught.value, BadInputError)


def test_batches_whose_losses_and_gradients_are_zero_differ_by_their_tensors():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    drawn = [torch.eye(2, dtype=torch.float64) * (index + 1) for index in range(4)]
    report = LandscapeProbe(top=1, probes=2, dtype=torch.float64).converge(lambda m, x: m(x).square().mean(), model, drawn)
    assert report["sharpness (largest eigenvalue)"].error > 0


def test_where_an_exact_spectrum_costs_no_more_products_than_the_probes_it_is_advised(regression):
    report = regression[1]
    needed = report["trace"].probes_for(0.05)
    assert needed > report.probes  # more probes are needed than were measured, and P is 5
    assert report.exact_is_cheaper(needed)
    assert (
        "that is no less than an exact spectrum, 5 products: measure with method='exact' where the matrix fits." in report.verdict
    )
    row = next(line for line in str(report).splitlines() if line.startswith("trace "))
    assert row.split()[-1] == "exact"
    large = replace(report, dim=needed * (report.lanczos + 1) + 1)
    assert not large.exact_is_cheaper(needed)
    assert next(line for line in str(large).splitlines() if line.startswith("trace ")).split()[-1] == f"{needed:,}"


def test_a_value_of_zero_is_never_within_a_share_of_itself():
    one = quantity("q", drawn_table(0, 8, 4, 0.0, 1.0, 0.7, 0.0, 0.0) | {8: {"q": torch.tensor([[1.0, -1.0]]).double()}}, ())
    assert (one.value, one.batches_for(0.05), one.probes_for(0.05)) == (0.0, None, None)


def test_pseudo_values_of_a_linear_function_are_its_values():
    rows = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        pseudo_values(rows, lambda mean, dim: mean[..., 0] - dim * mean[..., 2], 2), rows[:, 0] - 2 * rows[:, 2]
    )


def test_the_table_names_what_is_enough_and_what_is_not(regression):
    report = regression[1]
    text = str(report)
    assert "5 parameters, 6 batches, 3 probes; needed for 5 %:" in text
    assert "6 batches are not enough for 5 % of loss (about " in text
    assert len(text.splitlines()) == len(report.quantities) + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 3}, r"^batches: given 3, expected at least 4"),
        ({"tolerance": 0.0}, r"^tolerance: given 0.0, expected a number from 0.001 to 1"),
        ({"products": "differences"}, r"^products: given 'differences', expected auto, recorded or rebuilt"),
    ],
)
def test_what_cannot_be_judged_is_refused(regression, changes, message):
    probe = LandscapeProbe(top=1, dtype=torch.float64, products=changes.get("products", "auto"))
    with pytest.raises(BadInputError, match=message):
        probe.converge(squares, regression[0], batches()[: changes.get("count", 6)], changes.get("tolerance", 0.05))


def test_the_series_of_the_probe_is_left_alone(regression):
    probe = LandscapeProbe(top=1, probes=2, lanczos=4, dtype=torch.float64)
    probe.converge(squares, regression[0], batches())
    assert probe.last_point is None
    assert probe.variant is None
