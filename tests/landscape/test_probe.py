import json
import math
import time
from dataclasses import replace

import pytest
import torch
from matrices import drawn, hessian, rotated, rotation
from torch import nn
from torch.nn import functional

from thalweg.curvature.density import SpectralDensity
from thalweg.curvature.eigenpairs import eigenpairs
from thalweg.curvature.hessian import Hessian
from thalweg.curvature.trace import trace
from thalweg.errors import BadInputError, EmptySubspaceError, MemoryLimitError, NoClassWarning, NonFiniteError
from thalweg.landscape import probe as module
from thalweg.landscape.gauge import Pair, scaled
from thalweg.landscape.information import quadratic_form_information
from thalweg.landscape.noise import noise_floor
from thalweg.landscape.probe import LandscapeProbe
from thalweg.landscape.similarity import gaussian_information, image_rows, matrix_row
from thalweg.landscape.spectrum import refuse_non_finite
from thalweg.models.config import ModelConfig
from thalweg.models.looped import LoopedTransformer
from thalweg.records.landscape import LandscapeRecord, Measure
from thalweg.serialization import from_dict, to_dict
from thalweg.threads import threads

DIM = 40
EXACT = 1e-9
"""Relative, float64."""
FOUR = 4.0
"""Standard errors within which an estimate has to lie."""
VALUES = torch.cat([torch.tensor([8.0, 4.0, 4.0, 2.0, -0.5]), torch.linspace(-1e-3, 2e-3, DIM - 5)]).double()
"""A valley of 4, one direction of a ridge, and a river."""


class Point(nn.Module):
    """Parameters in two pieces, at a fixed place."""

    def __init__(self, dim=DIM):
        super().__init__()
        place = drawn(99, dim)
        self.first, self.second = nn.Parameter(place[:7].clone()), nn.Parameter(place[7:].clone())

    @property
    def flat(self):
        return torch.cat([self.first, self.second])


def quadratic(model, matrix):
    return model.flat @ matrix @ model.flat / 2


def with_values(values, seed=0):
    return rotated(torch.diag(values), rotation(seed, len(values)))


def probe(method="exact", **dials):
    return LandscapeProbe(**{"top": 4, "dtype": torch.float64, "method": method, "forms": 0} | dials)


def series(*matrices, **dials):
    """The record of each matrix, one after the other."""
    found = probe(**dials)
    return [found.measure(quadratic, Point(len(a)), [a], step=step) for step, a in enumerate(matrices)]


def next_token(model, tokens, loops=2):
    logits = model(tokens[:, :-1], loops=loops).flatten(0, 1)
    return functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum"), tokens[:, 1:].numel()


def language(**dials):
    config = ModelConfig(**{"vocabulary": 5, "length": 4, "width": 8} | dials)
    model = LoopedTransformer(config, torch.Generator().manual_seed(0)).double()
    return model, [torch.randint(5, (12, 5), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def within(found: Measure, exact: float, floor: float = 0.0) -> bool:
    return abs(found.value - exact) <= FOUR * found.error + floor


def shannon(p):
    return -float((p * p.log()).sum())


def test_an_exact_record_has_the_planted_spectrum():
    model, matrix = Point(), with_values(VALUES)
    found = probe().measure(quadratic, model, [matrix], step=7)
    theta, p = model.flat.detach(), VALUES.abs() / VALUES.abs().sum()
    assert (found.step, found.how, found.dim, found.products, found.change) == (7, "exact", DIM, DIM, None)
    assert found.largest == pytest.approx((8, 4, 4, 2))
    assert found.smallest == pytest.approx(-0.5)
    assert found.trace.value == pytest.approx(float(VALUES.sum()))
    assert found.frobenius.value == pytest.approx(float(VALUES.square().sum().sqrt()))
    assert found.loss == pytest.approx(float(theta @ matrix @ theta) / 2)
    assert found.gradient_norm == pytest.approx(float((matrix @ theta).norm()))
    assert found.entropy.value == pytest.approx(shannon(p))
    positive, square = VALUES[VALUES > 0] / VALUES[VALUES > 0].sum(), VALUES.square() / VALUES.square().sum()
    expected = {"abs 0": math.log(DIM), "abs 2": -math.log(float((p**2).sum())), "abs inf": -math.log(float(p.max()))}
    expected |= {"positive 1": shannon(positive), "square 1": shannon(square)}
    assert {name: one.value for name, one in found.entropies.items()} == pytest.approx(expected)
    assert found.negative_mass.value == pytest.approx(float(p[VALUES < 0].sum()))
    assert found.above_one == Measure(4.0, 0.0)
    assert found.resolution is None


def test_an_exact_record_splits_at_the_planted_gap():
    (found,) = series(with_values(VALUES))
    split = found.split
    assert split is not None
    assert (split.valley, split.river, split.ridge, split.rule) == (4, DIM - 5, 1, "log_gap")
    assert split.epsilon == pytest.approx(math.sqrt(0.5 * 2e-3))
    assert split.plateau == pytest.approx(math.log10(0.5 / 2e-3))
    assert (split.kappa, split.kappa_q) == pytest.approx((4, 4))
    assert split.ridge_mass == pytest.approx(float(0.5 / VALUES.abs().sum()))
    assert split.rules["relative"] == pytest.approx(8e-3)
    assert split.rules["machine_floor"] == pytest.approx(8 * DIM * torch.finfo(torch.float64).eps)


def test_the_machine_floor_is_that_of_the_products():
    found = probe(dtype=torch.float32).measure(quadratic, Point(), [with_values(VALUES)])
    assert found.split is not None
    assert found.split.rules["machine_floor"] == pytest.approx(8 * DIM * torch.finfo(torch.float32).eps, rel=1e-4)
    assert found.largest == pytest.approx((8, 4, 4, 2), rel=1e-5)


def test_a_valley_that_is_empty_has_no_condition_number():
    (found,) = series(with_values(-VALUES.abs()))
    assert found.split is not None
    assert (found.split.valley, found.split.kappa, found.split.kappa_q, found.split.spread) == (0, None, None, None)
    assert "positive 1" not in found.entropies


def test_a_matrix_free_record_agrees_with_the_planted_spectrum():
    (exact,) = series(with_values(VALUES), top=5)
    (found,) = series(with_values(VALUES), method="matrix-free", lanczos=DIM, probes=30, top=5)
    assert (found.how, found.split, found.resolution) == ("matrix-free", None, 0.0)
    assert found.largest == pytest.approx(exact.largest)
    assert found.smallest == pytest.approx(-0.5, abs=1e-6)
    assert set(found.entropies) == set(exact.entropies) - {"abs 0"}
    both = [(found.entropies[name], exact.entropies[name]) for name in found.entropies]
    both += [(getattr(found, name), getattr(exact, name)) for name in ("trace", "frobenius", "entropy", "negative_mass")]
    for one, known in both:
        assert 0 < one.error < 0.3 * max(1.0, known.value)
        assert within(one, known.value)
    assert found.above_one == Measure(4.0, 0.0)


def test_products_are_those_of_the_hessian(monkeypatch):
    made, rows = [], Hessian.rows
    monkeypatch.setattr(Hessian, "rows", lambda self, vectors: made.append(len(vectors)) or rows(self, vectors))
    records = series(hessian(0, DIM), hessian(1, DIM), method="matrix-free", lanczos=10, probes=3)
    assert sum(record.products for record in records) == sum(made)


def test_products_are_told_while_they_are_made():
    found = probe("matrix-free", lanczos=10, probes=3)
    calls = []
    record = found.measure(quadratic, Point(), [with_values(VALUES)], progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == record.products
    assert all(done <= total for done, total in calls)
    assert record.products > 3 * 10 + 3
    seen = []
    probe().measure(quadratic, Point(), [with_values(VALUES)], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (DIM, DIM)


def test_errors_of_trace_and_norm_are_the_scatter_over_seeds():
    spread = torch.cat([torch.tensor([30.0, 20.0]), torch.linspace(-1, 1.5, DIM - 2)]).double()
    matrix, scores = with_values(spread), []
    for seed in range(30):
        (found,) = series(matrix, method="matrix-free", lanczos=3, top=2, seed=seed)
        scores.append([(found.trace.value - float(spread.sum())) / found.trace.error])
        scores[-1].append((found.frobenius.value - float(spread.norm())) / found.frobenius.error)
    z = torch.tensor(scores, dtype=torch.float64)
    assert bool((z.mean(0).abs() < FOUR / math.sqrt(30)).all())
    assert bool((z.square().mean(0).sqrt() > 0.6).all())
    assert bool((z.square().mean(0).sqrt() < 1.8).all())


def test_the_top_is_taken_out_of_trace_and_norm():
    spread = torch.cat([torch.tensor([300.0, 200.0]), torch.linspace(-1, 1.5, DIM - 2)]).double()
    (found,) = series(with_values(spread), method="matrix-free", lanczos=8, top=2)
    plain = trace(with_values(spread), probes=8, method="hutchinson")
    assert found.trace.error < 0.1 * plain.standard_error
    assert within(found.trace, float(spread.sum()))


def test_eigenvalues_above_one_are_counted_beyond_the_top():
    spread = torch.cat([torch.linspace(2, 4, 15), torch.linspace(0, 0.4, DIM - 15)]).double()
    (found,) = series(with_values(spread), method="matrix-free", lanczos=12, probes=20, top=3)
    assert series(with_values(spread))[0].above_one == Measure(15.0, 0.0)
    assert within(found.above_one, 15)
    assert 0 < found.above_one.error < 3


@pytest.mark.parametrize("block", ["attention", "gpt"])
def test_both_ways_agree_on_a_looped_transformer(block):
    model, batches = language(block=block, **({"expansion": 1, "width": 6} if block == "gpt" else {}))
    exact = probe().measure(next_token, model, batches)
    # 30 probes, as the standard error of 8 is itself uncertain by a third: then 4 of them are missed in 3 of 100 seeds.
    found = probe("matrix-free", lanczos=30, probes=30).measure(next_token, model, batches)
    assert (found.loss, found.gradient_norm) == pytest.approx((exact.loss, exact.gradient_norm))
    assert found.largest == pytest.approx(exact.largest, rel=1e-6)
    assert found.smallest == pytest.approx(exact.smallest, abs=1e-5 * exact.largest[0])
    for name in ("trace", "frobenius", "entropy", "negative_mass"):
        one, known = getattr(found, name), getattr(exact, name).value
        assert one.error < 0.15 * abs(known)
        assert within(one, known, floor=0.01 * abs(known))
    assert within(found.entropies["abs 2"], exact.entropies["abs 2"].value)
    assert within(found.above_one, exact.above_one.value)


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_a_point_that_did_not_change_has_no_finite_information(method):
    found = series(hessian(0), hessian(0), method=method, forms=20)[1].change
    assert found is not None
    assert (found.since, found.information) == (0, None)
    assert found.distance == pytest.approx(0, abs=EXACT)
    assert (found.cosine.value, found.deviatoric.value, found.overlap) == pytest.approx((1, 1, 1))
    if method == "exact":
        assert found.forms is not None
        assert found.forms_baseline is not None
        assert found.forms > 2 * found.forms_baseline
    else:
        assert (found.forms, found.forms_baseline) == (None, None)


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_a_multiple_differs_by_the_distance_of_its_factor(method):
    found = series(with_values(VALUES + 1), with_values(5 * (VALUES + 1)), method=method)[1].change
    assert found is not None
    assert found.information is None
    assert (found.cosine.value, found.overlap) == pytest.approx((1, 1))
    assert found.distance == pytest.approx(math.log(5), rel=1e-6)


def test_the_cosine_of_a_rotated_hessian_is_that_of_its_trace_in_the_mean():
    values = torch.linspace(-1, 3, DIM, dtype=torch.float64)
    found = probe()
    records = [found.measure(quadratic, Point(), [with_values(values, seed)]) for seed in range(25)]
    cosines = torch.tensor([one.change.cosine.value for one in records if one.change], dtype=torch.float64)
    expected = float(values.sum() ** 2 / (DIM * values.square().sum()))
    assert abs(float(cosines.mean()) - expected) < FOUR * float(cosines.std()) / math.sqrt(24)
    assert float(cosines.std()) < 0.1


def test_change_is_that_of_the_two_matrices():
    a, b = hessian(0, DIM), hessian(0, DIM) + hessian(1, DIM)
    found = series(a, b, forms=60, seed=3)[1].change
    assert found is not None
    assert found.information is not None
    known = gaussian_information(a, b)
    assert (found.information.value, found.information.error) == pytest.approx((known.value, 0.0), abs=EXACT)
    assert (found.cosine.value, found.deviatoric.value) == pytest.approx((known.cosine.value, known.deviatoric.value))
    forms = quadratic_form_information(a, b, probes=60, seed=3)
    assert (found.forms, found.forms_baseline) == pytest.approx((forms.value, forms.baseline))
    vectors = [torch.linalg.eigh(m).eigenvectors[:, -4:] for m in (a, b)]
    assert found.overlap == pytest.approx(float((vectors[0].T @ vectors[1]).square().sum()) / 4, abs=1e-5)
    sizes = [torch.linalg.eigvalsh(m).abs().log().sort().values for m in (a, b)]
    assert found.distance == pytest.approx(float((sizes[0] - sizes[1]).abs().mean()))


def test_sizes_below_the_machine_floor_do_not_enter_the_distance():
    values = torch.cat([torch.tensor([8.0, 4.0, 4.0, 2.0, 1e-3]), torch.zeros(DIM - 5)]).double()
    found = series(with_values(values), with_values(2 * values, seed=1))[1].change
    assert found is not None
    # The common floor is that of the coarser spectrum, so 35 roundings of zero are equal.
    assert found.distance == pytest.approx(5 / DIM * math.log(2), rel=1e-6)


def test_images_of_the_unit_vectors_give_the_numbers_of_the_matrices():
    a, b, one = hessian(0) + torch.eye(30), hessian(1), torch.eye(30, dtype=torch.float64)
    expected = [float(one_sum) for one_sum in ((a * a).sum(), (b * b).sum(), (a * b).sum(), a.trace(), b.trace())]
    assert image_rows(a @ one, b @ one, one).sum(0).tolist() == pytest.approx(expected)
    assert matrix_row(a, b)[0].tolist() == pytest.approx(expected)


def test_matrix_free_change_is_within_its_errors():
    a, b = hessian(0, DIM) + torch.eye(DIM), hessian(0, DIM) + 0.5 * hessian(1, DIM)
    found = series(a, b, method="matrix-free", lanczos=DIM, probes=60)[1].change
    known = series(a, b)[1].change
    assert found is not None
    assert found.information is not None
    assert known is not None
    assert known.information is not None
    for one, exact in ((found.cosine, known.cosine), (found.deviatoric, known.deviatoric), (found.information, known.information)):
        assert 0 < one.error < 0.2
        assert within(one, exact.value)
    assert found.overlap == pytest.approx(known.overlap, abs=1e-5)
    assert found.distance == pytest.approx(known.distance, abs=0.1)


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_what_has_no_deviatoric_part_tells_nothing_of_it(method):
    found = series(2 * torch.eye(DIM, dtype=torch.float64), with_values(VALUES), method=method)[1].change
    assert found is not None
    assert found.deviatoric == Measure(0.0, 1.0)
    assert found.information is not None


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_a_remembered_point_is_as_good_as_a_measured_one(method):
    a, b = hessian(0, DIM), hessian(1, DIM)
    known = series(a, b, method=method, forms=20)[1].change
    found = probe(method, forms=20)
    found.remember(quadratic, Point(), [a], step=0)
    assert found.measure(quadratic, Point(), [b], step=1).change == known


def test_auto_is_exact_where_time_and_memory_allow():
    with threads(1):
        found = probe("auto", exact_seconds=1e9).measure(quadratic, Point(), [with_values(VALUES)])
    assert found.how == "exact"
    assert found.reason.startswith("exact: 40 parameters, about ")
    assert found.reason.endswith(" expected of 277,777 h 46 min allowed")
    assert found.products == DIM + 6  # four that were timed, two of the check


def test_auto_is_matrix_free_where_time_does_not_allow_it():
    found = probe("auto", exact_seconds=0).measure(quadratic, Point(), [with_values(VALUES)])
    assert found.how == "matrix-free"
    assert found.reason.startswith("matrix-free: 40 parameters, about ")
    assert found.reason.endswith(" expected of 0 s allowed")


def timed(monkeypatch, eigen: float, product: float) -> None:
    """Let the eigenvalues of the exact point and each product be expected to take so many seconds."""
    monkeypatch.setattr(module, "eigen_seconds", lambda *_: (eigen, False))
    monkeypatch.setattr(module, "product_seconds", lambda *_: (product, False))


def test_what_is_too_slow_for_a_class_says_so_and_how_to_get_it(monkeypatch):
    timed(monkeypatch, eigen=30.0, product=0.05)
    told = r"40 parameters .* would take about 31 s, with 5 s allowed; .* exact_seconds=63 .* \(--exact-seconds 0\)"
    with pytest.warns(NoClassWarning, match=told):
        found = probe("auto", exact_seconds=5, lanczos=10).measure(quadratic, Point(), [with_values(VALUES)])
    assert found.how == "matrix-free"
    assert found.split is None
    assert probe("auto", exact_seconds=63).measure(quadratic, Point(), [with_values(VALUES)]).how == "exact"
    assert (
        probe("auto", exact_seconds=math.inf).measure(quadratic, Point(), [with_values(VALUES)]).reason.endswith("of inf s allowed")
    )


def test_dear_products_lead_to_the_matrix_also_where_its_eigenvalues_alone_take_too_long(monkeypatch):
    timed(monkeypatch, eigen=30.0, product=10.0)
    found, matrix = probe("auto", exact_seconds=5), with_values(VALUES)
    assert found.measure(quadratic, Point(), [matrix]).how == "exact"
    found.reset()
    found.exact_seconds = 0
    assert found.measure(quadratic, Point(), [matrix]).how == "matrix-free"  # 0 never takes it


@pytest.mark.parametrize(("slow", "quick"), [(2, 1), (1, 2)])
def test_products_take_one_thread_where_several_wait_for_each_other(monkeypatch, slow, quick):
    """A loss whose every call with two threads waits, as on cores that other work uses too; each product calls it."""
    monkeypatch.setattr(module, "eigen_seconds", lambda *_: (1e9, False))
    used = []

    def loss(model, matrix):
        used.append(torch.get_num_threads())
        time.sleep(0.01 if torch.get_num_threads() == slow else 0)
        return quadratic(model, matrix)

    found = probe("auto", exact_seconds=1.0, lanczos=10, products="differences")
    with threads(2):
        with pytest.warns(NoClassWarning):
            record = found.measure(loss, Point(), [with_values(VALUES)])
        assert torch.get_num_threads() == 2
    assert record.how == "matrix-free"
    assert set(used[-20:]) == {quick}
    (expected,) = found.seconds_without.values()
    assert expected < 0.01 * 224  # products, each of which would wait at least once


def test_ranks_choose_by_the_times_of_the_first(monkeypatch):
    """A rank whose own times differ asks the first one for all of them."""
    timed(monkeypatch, eigen=1.0, product=1.0)
    found, matrix, asked = probe("auto", exact_seconds=5), with_values(VALUES), []
    found.measure(quadratic, Point(), [matrix])
    (key,) = found.seconds_without
    found.seconds_of, found.seconds_without = {key: 29.0}, {}  # as on a rank without a history
    theirs = iter([29.0, 128.0])
    monkeypatch.setattr(module.ranks, "same", lambda value: asked.append(value) or next(theirs, value))
    found.reset()
    assert found.measure(quadratic, Point(), [matrix]).how == "exact"
    assert asked[1] == 0.0


def test_a_matrix_that_is_cheaper_than_going_without_it_is_taken(monkeypatch):
    timed(monkeypatch, eigen=1.0, product=1.0)  # 40 columns at 0.7 s, and at least 100 products
    found, matrix = probe("auto", exact_seconds=5), with_values(VALUES)
    first = found.measure(quadratic, Point(), [matrix])
    assert first.how == "exact"
    assert first.reason.startswith("exact: 40 parameters, about 29 s expected of 5 s allowed, and about ")
    assert first.reason.endswith(" by products alone")
    found.reset()
    found.seconds_of = dict.fromkeys(found.seconds_of, 29.0)  # measured on a machine that is as slow
    assert found.measure(quadratic, Point(), [matrix]).how == "exact"


def test_auto_is_matrix_free_where_memory_does_not_allow_it():
    limit = 32 * DIM**2 - 1
    found = probe("auto", exact_seconds=1e9, memory=limit).measure(quadratic, Point(), [with_values(VALUES)])
    assert found.how == "matrix-free"
    assert found.reason == "matrix-free: 40 parameters, a dense matrix needs 51,200 bytes of 51,199 bytes allowed"
    with pytest.raises(
        MemoryLimitError, match=r"^spectrum of 40 parameters: needs 51,200 bytes, the limit is 51,199 bytes; choose fewer"
    ):
        probe("exact", memory=limit).measure(quadratic, Point(), [with_values(VALUES)])
    assert probe("exact", memory=limit + 1).measure(quadratic, Point(), [with_values(VALUES)]).how == "exact"


def test_a_series_keeps_its_way_until_it_is_reset():
    found, matrix = probe("auto", exact_seconds=0), with_values(VALUES)
    found.measure(quadratic, Point(), [matrix], step=5)
    found.exact_seconds = 1e9
    later = found.measure(quadratic, Point(), [matrix], step=6)
    assert (later.how, later.reason) == ("matrix-free", "matrix-free: 40 parameters, as at step 5 of the same series")
    found.reset()
    assert found.spectrum is None
    assert found.measure(quadratic, Point(), [matrix], step=0).how == "exact"


def test_a_warm_start_changes_the_products_and_not_the_eigenvalues():
    values = torch.cat([torch.linspace(-0.1, 0.1, 36, dtype=torch.float64), torch.tensor([1.0, 2, 3, 4])])
    cold, warm, matrix = probe("matrix-free"), probe("matrix-free", warm=True), with_values(values)
    for one in (cold, warm):
        one.measure(quadratic, Point(), [matrix], step=0)
    expected, found = (one.measure(quadratic, Point(), [1.01 * matrix], step=1) for one in (cold, warm))
    assert "started from" not in expected.reason
    assert found.products < expected.products - 10
    largest = max(map(abs, expected.largest))
    assert max(abs(a - b) for a, b in zip(found.largest, expected.largest, strict=True)) < 1e-5 * largest
    assert abs(found.smallest - expected.smallest) < 1e-4 * largest


def test_a_new_series_takes_the_time_that_was_measured():
    found, matrix = probe("auto", exact_seconds=1e9), with_values(VALUES)
    first = found.measure(quadratic, Point(), [matrix])
    found.reset()
    again = found.measure(quadratic, Point(), [matrix])
    assert (again.how, again.products) == ("exact", DIM)
    assert again.reason.endswith(" s measured before of 277,777 h 46 min allowed")
    assert all(seconds <= first.seconds for seconds in found.seconds_of.values())


def test_another_layout_is_refused_until_reset():
    found = probe()
    found.measure(quadratic, Point(), [with_values(VALUES)], step=3)
    message = (
        r"^model: given 30 parameters in 2 tensors, expected the names and shapes of step 3, 40 parameters .* different models;"
    )
    with pytest.raises(BadInputError, match=message):
        found.measure(quadratic, Point(30), [hessian(0)])
    found.reset()
    assert found.measure(quadratic, Point(30), [hessian(0)]).change is None


def test_a_negative_step_is_refused():
    with pytest.raises(BadInputError, match=r"^step: given -1, expected the number of updates made so far"):
        probe().measure(quadratic, Point(), [with_values(VALUES)], step=-1)


def test_chosen_parameters_alone_are_looked_at():
    matrix = with_values(VALUES)
    found = probe().measure(quadratic, Point(), [matrix], params="second")
    assert found.largest == pytest.approx(torch.linalg.eigvalsh(matrix[7:, 7:])[-4:].flip(0).tolist())


def test_a_balanced_spectrum_is_the_same_for_all_gauges():
    model, batches = language(heads=2)
    pair = Pair("blocks.0.attention.key.weight", "blocks.0.attention.query.weight")
    other, _ = language(heads=2)
    other.load_state_dict(scaled(model.state_dict(), [pair], 3.0))
    kept = {name: value.clone() for name, value in other.state_dict().items()}
    records = [probe(pairs=[pair], heads=2).measure(next_token, each, batches) for each in (model, other)]
    plain = [probe().measure(next_token, each, batches) for each in (model, other)]
    assert records[0].largest == pytest.approx(records[1].largest, rel=1e-7)
    assert records[0].entropy.value == pytest.approx(records[1].entropy.value, rel=1e-7)
    assert plain[0].loss == pytest.approx(plain[1].loss)
    assert plain[0].entropy.value != pytest.approx(plain[1].entropy.value, rel=1e-3)
    assert plain[0].imbalance is None
    assert records[0].imbalance is not None
    assert records[1].imbalance is not None
    assert records[1].imbalance > records[0].imbalance >= 1
    assert records[1].loss == pytest.approx(plain[1].loss)
    assert all(torch.equal(value, kept[name]) for name, value in other.state_dict().items())


def test_a_pair_that_does_not_exist_is_refused():
    with pytest.raises(BadInputError, match=r"^unknown tensor 'frist'; did you mean 'first'\?"):
        probe(pairs=[Pair("frist", "second")]).measure(quadratic, Point(), [with_values(VALUES)])


def test_noise_of_the_batches_enters_the_threshold():
    batches = [with_values(VALUES) + 0.01 * hessian(seed, DIM) for seed in range(6)]
    found = probe()
    record = found.measure(quadratic, Point(), batches, noise=True)
    assert record.split is not None
    assert found.hessian is not None
    assert torch.allclose(found.hessian, torch.stack(batches).mean(0), atol=1e-12)
    assert record.split.rules["noise_floor"] == pytest.approx(noise_floor(batches).epsilon, rel=1e-6)
    assert (record.split.valley, record.split.ridge) == (4, 1)
    assert record.split.conditions[-1].words == "||E|| / gap < 1/2"
    plain = probe().measure(quadratic, Point(), batches)
    assert record.largest == pytest.approx(plain.largest)
    assert plain.split is not None
    assert "noise_floor" not in plain.split.rules


def test_noise_needs_several_batches_that_count_alike():
    def loss(model, batch):
        return quadratic(model, batch[0]), batch[1]

    matrix = with_values(VALUES)
    with pytest.raises(BadInputError, match=r"^batches: given 1, expected at least 2 to see noise$"):
        probe().measure(quadratic, Point(), [matrix], noise=True)
    with pytest.raises(BadInputError, match=r"^batches: given different counts, expected equal counts where noise=True"):
        probe().measure(loss, Point(), [(matrix, 2), (matrix, 3)], noise=True)


def test_tensors_hold_eigenvalues_and_their_vectors():
    found, matrix = probe(), with_values(VALUES)
    assert (found.spectrum, found.hessian) == (None, None)
    record = found.measure(quadratic, Point(), [matrix])
    assert found.spectrum is not None
    assert found.hessian is not None
    tensors = found.spectrum.tensors()
    assert {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()} == {
        "values": ((DIM,), torch.float64),
        "top": ((DIM, 4), torch.float32),
    }
    assert torch.allclose(tensors["values"], VALUES.sort().values)
    top = tensors["top"].double()
    assert torch.allclose(matrix @ top, top * torch.tensor(record.largest), atol=1e-5)
    assert torch.allclose(found.hessian, matrix)
    assert found.spectrum.layout.names == ("first", "second")


def test_a_density_is_recomputed_from_its_tensors():
    found = probe("matrix-free", lanczos=9)
    record = found.measure(quadratic, Point(), [with_values(VALUES)])
    assert found.spectrum is not None
    assert found.hessian is None
    tensors = found.spectrum.tensors()
    assert set(tensors) == {"nodes", "weights", "resolution", "top"}
    density = SpectralDensity(tensors["nodes"], tensors["weights"], float(tensors["resolution"]), len(tensors["top"]), 0)
    assert density.entropy() == pytest.approx((record.entropy.value, record.entropy.error))
    assert record.resolution == density.resolution > 0


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_pairs_that_did_not_converge_are_told_of(method, monkeypatch):
    def shorter(operator, k, which, *rest, **named):
        named |= {"max_products": k + 1}
        return eigenpairs(operator, k, which, **{name: named[name] for name in ("max_products", "seed", "strict") if name in named})

    monkeypatch.setattr(module, "eigenpairs", shorter)
    found = probe(method, lanczos=10, probes=8).measure(quadratic, Point(), [with_values(VALUES)])
    assert f"{method}: 40 parameters, asked for; the 4 largest eigenvalues did not converge, each is within " in found.reason
    assert ("; the smallest eigenvalue did not converge" in found.reason) == (method == "matrix-free")
    assert within(found.trace, float(VALUES.sum()), floor=EXACT)
    assert found.above_one.error > 0 or method == "exact"


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_records_are_plain_finite_numbers(method):
    matrices = (with_values(VALUES), with_values(VALUES), 2 * torch.eye(DIM, dtype=torch.float64), with_values(-VALUES.abs()))
    for record in series(*matrices, method=method, forms=20):
        plain = json.loads(json.dumps(to_dict(record), allow_nan=False))
        assert from_dict(LandscapeRecord, plain) == record


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("loss", math.nan, "loss"),
        ("trace", Measure(1.0, math.inf), r"trace\.error"),
        ("largest", (1.0, math.nan), r"largest\[1\]"),
        ("entropies", {"abs 2": Measure(math.nan)}, r"entropies\.abs 2\.value"),
    ],
)
def test_numbers_that_are_not_finite_never_reach_a_record(field, value, name):
    (record,) = series(with_values(VALUES))
    refuse_non_finite(record)
    with pytest.raises(NonFiniteError, match=f"^record: {name} is (nan|inf), expected a finite number"):
        refuse_non_finite(replace(record, **{field: value}))


@pytest.mark.parametrize("method", ["exact", "matrix-free"])
def test_a_hessian_of_zeros_is_refused(method):
    with pytest.raises(EmptySubspaceError, match=r"^Hessian: zero in all entries, expected a loss that curves somewhere$"):
        probe(method).measure(lambda model, batch: model.flat @ batch, Point(), [torch.ones(DIM)])


def test_small_models_take_what_there_is():
    (record,) = series(with_values(torch.linspace(1, 9, 9).double()), top=20)
    assert record.largest == pytest.approx(tuple(range(9, 0, -1)))
    (free,) = series(with_values(torch.linspace(1, 9, 9).double()), top=20, method="matrix-free")
    assert free.largest == pytest.approx(tuple(range(9, 0, -1)))
    assert (free.trace.value, free.frobenius.value) == pytest.approx((45, math.sqrt(285)))


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"top": 0}, r"^top: given 0, expected a whole number of at least 1$"),
        ({"probes": 1}, r"^probes: given 1, expected a whole number of at least 2$"),
        ({"lanczos": 1}, r"^lanczos: given 1, expected a whole number of at least 2$"),
        ({"exact_seconds": -1}, r"^exact_seconds: given -1, expected a number of at least 0$"),
        ({"forms": 2}, r"^forms: given 2, expected 0, or at least 3$"),
        ({"method": "exat"}, r"^unknown method 'exat'; did you mean 'exact'\? Known: auto, exact, matrix-free$"),
    ],
)
def test_what_a_probe_cannot_use_is_refused(dials, message):
    with pytest.raises(BadInputError, match=message):
        LandscapeProbe(**dials)


def test_the_floor_of_a_density_does_not_grow_with_the_parameters():
    from types import SimpleNamespace

    from thalweg.curvature.density import SpectralDensity
    from thalweg.landscape.spectrum import spectrum_of
    from thalweg.vectors import Layout

    nodes = torch.tensor([[-1.0, 3.0, 50.0]], dtype=torch.float64)
    density = SpectralDensity(nodes, torch.full_like(nodes, 1 / 3), 0.5, 120_000_000, 3)
    pairs = SimpleNamespace(values=torch.tensor([50.0], dtype=torch.float64), vectors=torch.zeros(1, 1))
    found = spectrum_of(Layout(("w",), ((12_000, 10_000),)), pairs, torch.float32, density=density)
    assert found.floor == 0.5
