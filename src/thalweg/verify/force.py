"""Checks of sections 1, 3 and 4: the split, the cumulative force, corollaries 1 and 2 and their counterexamples."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from thalweg.errors import EigenSplitCouplingWarning, IndefiniteModelWarning
from thalweg.theory import bounds, compare, counterexamples, coupled, force, kernel, loss
from thalweg.theory import quadratic as quadratics
from thalweg.theory.quadratic import Quadratic, quadratic
from thalweg.verify.statement import Finding, Statement, cases, errors_within, normal, relative_error, rotation


def random_valley(rng: np.random.Generator, valley: int, river: int, low: float, high: float) -> Quadratic:
    """Draw a model with log-uniform valley eigenvalues in (10^low, 10^high), random eigenvectors, coupling and river gradient.

    The river has no curvature; its dimension is ``river``, that of the valley ``valley``.
    """
    values = 10 ** torch.from_numpy(rng.uniform(low, high, valley))
    u = rotation(rng, valley)
    return quadratic(u @ torch.diag(values) @ u.T, normal(rng, valley, river), river_gradient=normal(rng, river))


def _eigen_split_has_no_coupling() -> Finding:
    """Norm of the coupling of random Hessians, split by their own eigenvectors, over the norm of the Hessian."""
    rng, errors = cases(100), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EigenSplitCouplingWarning)
        for _ in range(50):
            a = normal(rng, 50, 50)
            hessian = (a + a.T) / 2
            vectors = torch.linalg.eigh(hessian).eigenvectors
            model = quadratics.in_frames(hessian, torch.zeros(50), vectors[:, 10:], vectors[:, :10])
            errors.append(float(model.coupling.norm() / hessian.norm()))
    return errors_within(errors, 1e-12)


def _semidefinite_coupling_is_bounded() -> Finding:
    """Both ratios of `consistency` for random semidefinite matrices of rank 1 to 11 have to be at most 1."""
    rng, excess = cases(101), []
    for _ in range(500):
        rank = int(rng.integers(1, 12))
        a = normal(rng, 10, rank)
        whole = a @ a.T
        report = quadratics.consistency(quadratic(whole[:6, :6], whole[:6, 6:], whole[6:, 6:]))
        excess.append(max(report.ratio, report.direction_ratio) - 1)
    return errors_within(excess, 1e-8, f"largest ||B||^2 / (||A|| ||D||) {1 + max(excess):.4f}")


def _flat_river_is_indefinite() -> Finding:
    """Number of negative eigenvalues of models with ``D = 0`` against the rank of the coupling, 1 to 3."""
    rng, errors = cases(102), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IndefiniteModelWarning)
        for _ in range(200):
            rank = int(rng.integers(1, 4))
            b = normal(rng, 6, rank) @ normal(rng, rank, 4)
            report = quadratics.consistency(quadratic(torch.diag(torch.from_numpy(rng.uniform(0.5, 2, 6))), b))
            errors.append(abs(report.negative - rank))
    return errors_within(errors, 0, "negative eigenvalues minus rank of B")


def _force_is_the_recursion() -> Finding:
    """The closed form against the recursion ``x <- x - A x``, for stable, hopping and unstable valleys."""
    rng, errors = cases(103), []
    for case in range(300):
        model = random_valley(rng, 12, 7, -3, 0.27)
        # Every third case shifts the valley, which makes some eigenvalues negative.
        if case % 3 == 0:
            model = quadratic(model.valley - 0.05 * torch.eye(12), model.coupling)
        start, steps = normal(rng, 12), int(rng.integers(1, 200))
        # The recursion itself: sum the pushes, move the valley.
        x, total = start, torch.zeros(7, dtype=torch.float64)
        for _ in range(steps):
            total, x = total - model.coupling.T @ x, x - model.valley @ x
        errors.append(relative_error(force.cumulative_force(model, start, 1.0, steps).vector, total))
    return errors_within(errors, 1e-10, "eta lam from -0.05 to 1.9")


def _relative_force_is_the_recursion() -> Finding:
    """The closed form against the recursion of the displacement from the start, with a valley gradient."""
    rng, errors = cases(104), []
    for _ in range(100):
        base = random_valley(rng, 8, 5, -4, 0.2)
        model = quadratic(base.valley, base.coupling, valley_gradient=normal(rng, 8))
        d, total, steps = torch.zeros(8, dtype=torch.float64), torch.zeros(5, dtype=torch.float64), int(rng.integers(2, 200))
        for _ in range(steps):
            total, d = total - model.coupling.T @ d, d - (model.valley @ d + model.valley_gradient)
        errors.append(relative_error(force.relative_force(model, 1.0, steps), total))
    return errors_within(errors, 1e-10)


def _upper_bounds_hold() -> Finding:
    """All five bounds against the force, and the documented order of the bounds."""
    rng, excess, looseness = cases(105), [], []
    for _ in range(300):
        model, start = random_valley(rng, 60, 100, -3, 0), normal(rng, 60)
        steps = int(rng.choice([20, 500]))
        size, roof = force.cumulative_force(model, start, 1.0, steps).norm, bounds.upper_bounds(model, start, 1.0, steps)
        # Each pair has to be ordered: force below bound, or smaller bound below larger one.
        pairs = [(size, roof.modes), (size, roof.start), (size, roof.coupling), (roof.start, roof.largest)]
        pairs += [(roof.coupling, roof.largest), (roof.largest, roof.paper), (roof.modes, roof.paper)]
        excess.append(max(low / high - 1 for low, high in pairs))
        looseness.append([roof.paper / size, roof.start / size])
    paper, ours = np.median(looseness, axis=0)
    return errors_within(excess, 1e-10, f"median bound over force: paper's {paper:.1f}, ours {ours:.2f}")


def _lower_bounds_hold() -> Finding:
    """The best of the lower bounds against the force."""
    rng, excess = cases(106), []
    for _ in range(300):
        model, start = random_valley(rng, 6, 9, -3, 0.2), normal(rng, 6)
        size = force.cumulative_force(model, start, 1.0, 100).norm
        floor = bounds.lower_bounds(model, start, 1.0, 100, along=normal(rng, 9))
        excess.append(floor.best / size - 1)
    return errors_within(excess, 1e-10)


def _expectation_is_exact() -> Finding:
    """Mean and variance over 20,000 Gaussian starts, in standard errors of the mean and in tenths of the variance."""
    rng, scores = cases(107), []
    for _ in range(8):
        model = random_valley(rng, 5, 4, -1.5, 0)
        starts = normal(rng, 20000, 5)
        # The force is linear in the start, so its columns are the forces of unit starts.
        s = force.force_by_products  # the recursion, applied to unit starts, is the linear map
        frames = torch.eye(9, dtype=torch.float64)
        columns = [s(model.hessian, unit, frames[:, :5], frames[:, 5:], 1.0, 50) for unit in torch.eye(5, dtype=torch.float64)]
        squares = (starts @ torch.stack(columns)).square().sum(1)
        expected = bounds.expected_force(model, 1.0, 1.0, 50)
        scores.append(abs(float(squares.mean()) - expected.mean) / (expected.variance**0.5 / 20000**0.5))
        scores.append(abs(float(squares.var()) / expected.variance - 1) * 10)
    return errors_within(scores, 4, "standard errors; variance in tenths")


def _steep_residual_holds() -> Finding:
    """The force of the steep directions against its bound, for five thresholds."""
    rng, excess = cases(108), []
    for _ in range(100):
        model, start = random_valley(rng, 20, 15, -3, 0), normal(rng, 20)
        for part in bounds.steep_parts(model, start, 1.0, 300, torch.tensor([0.003, 0.01, 0.03, 0.1, 0.3])):
            excess.append(part.steep - part.bound)
    return errors_within(excess, 1e-9)


def _coupled_run_is_the_recursion() -> Finding:
    """The coupled force, its two parts, and the bound on the feedback, against the recursion of valley and river together."""
    rng, errors = cases(109), []
    for _ in range(100):
        a = normal(rng, 9, 9)
        whole = (a + a.T) / 8
        model = quadratic(whole[:5, :5], whole[:5, 5:], whole[5:, 5:], normal(rng, 5), normal(rng, 4))
        start, steps = normal(rng, 9), int(rng.integers(2, 30))
        # Gradient descent on the whole model, summing the force.
        theta, total = start, torch.zeros(4, dtype=torch.float64)
        for _ in range(steps):
            total = total - 0.5 * model.coupling.T @ theta[:5]
            theta = theta - 0.5 * (model.hessian @ theta + model.gradient)
        split = coupled.coupled_force(model, start, 0.5, steps)
        errors.append(relative_error(split.vector, total))
        errors.append(relative_error(split.unforced + split.feedback, total))
        errors.append(max(0.0, float((split.vector - split.unforced).norm()) - split.feedback_bound))
    return errors_within(errors, 1e-10)


def _schedule_telescopes() -> Finding:
    """The sum over a random schedule against the telescoped product."""
    rng, errors = cases(110), []
    for _ in range(200):
        lam = torch.from_numpy(rng.uniform(0.05, 1.9, 20))
        rates = rng.uniform(0, 1, int(rng.integers(1, 80)))
        left = torch.ones_like(lam)
        for rate in rates:
            left = left * (1 - rate * lam)
        errors.append(relative_error(kernel.schedule_kernel(lam, rates.tolist()), (1 - left) / lam))
    return errors_within(errors, 1e-12)


def _loss_identity_is_exact() -> Finding:
    """The identity against the loss of a gradient descent, for indefinite Hessians."""
    rng, errors = cases(111), []
    for _ in range(200):
        a = normal(rng, 8, 8)
        hessian, g, steps = (a + a.T) / 6, normal(rng, 8), int(rng.integers(1, 25))
        theta = torch.zeros(8, dtype=torch.float64)
        for _ in range(steps):
            theta = theta - 0.7 * (hessian @ theta + g)
        # The decrease of the loss, from the run's last point.
        fallen = -(theta @ hessian @ theta / 2 + g @ theta)
        predicted = loss.loss_decrease(loss.gradient_measure(hessian, g), 0.7, steps).sum()
        errors.append(abs(float((predicted - fallen) / fallen)))
    return errors_within(errors, 1e-10, "indefinite Hessians, coupled and forced")


def _lanczos_is_exact() -> Finding:
    """K products of Lanczos against the full eigendecomposition, in 400 dimensions; 10 products are reported only."""
    rng, errors, short = cases(112), [], []
    u = rotation(rng, 400)
    hessian = u @ torch.diag(10 ** torch.from_numpy(rng.uniform(-3, 0, 400))) @ u.T
    hessian = (hessian + hessian.T) / 2
    for steps in (5, 10, 20, 40):
        g = normal(rng, 400)
        exact = float(loss.loss_decrease(loss.gradient_measure(hessian, g), 1.0, steps).sum())
        errors.append(abs(loss.loss_decrease_by_products(hessian, g, 1.0, steps) / exact - 1))
        short.append(abs(loss.loss_decrease_by_products(hessian, g, 1.0, steps, products=10) / exact - 1))
    return errors_within(errors, 1e-10, f"40 steps from 10 products: error {short[-1]:.0e}")


def _dominance_orders_losses() -> Finding:
    """Random measures that fulfil the condition must never order the other way."""
    rng, shortfall = cases(113), []
    while len(shortfall) < 1000:
        lam = torch.from_numpy(np.sort(rng.uniform(-0.1, 1.95, 12)))
        weights = torch.from_numpy(rng.exponential(size=12))
        # Shifting eigenvalues down moves the gradient's energy to lower curvature, with the same weights.
        moved = lam - torch.from_numpy(rng.exponential(0.2, 12))
        order = compare.compare_losses(loss.Measure(lam, weights), loss.Measure(moved, weights), 1.0, int(rng.integers(1, 30)))
        if order.dominance.held:
            shortfall.append((order.first - order.second) / abs(order.first))
    return errors_within(shortfall, 1e-10)


def _force_conditions_suffice() -> Finding:
    """Where SC1 holds, the second force has to be the larger one."""
    rng, wrong = cases(114), []
    for _ in range(500):
        pair = [random_valley(rng, 3, 6, -2, 0) for _ in range(2)]
        pair[1] = quadratic(0.2 * pair[1].valley, 3 * pair[1].coupling)
        order = compare.compare_forces(pair[0], pair[1], normal(rng, 3), 1.0, 100)
        if order.conditions[0].held:
            wrong.append(float(not order.second_is_larger))
    return errors_within(wrong, 0, f"SC1 applied {len(wrong)} times in 500")


def _control_number_decides() -> Finding:
    """Share of starts for which Looped ends lower: about one half at Pi = 0.01, at least 95 % at Pi = 3."""
    rng, shares = cases(115), {}
    for control in (0.01, 3.0):
        lower = []
        for _ in range(300):
            u, values = rotation(rng, 6), 10 ** torch.from_numpy(rng.uniform(-1.5, 0, 6))
            b, h = 1e-4 * normal(rng, 6, 4), normal(rng, 4)
            valleys = [u @ torch.diag(scaled) @ u.T for scaled in (values, values * torch.from_numpy(rng.uniform(0.3, 1, 6)))]
            # D close to B^T A^-1 B of the flatter valley, so that the relaxed river has little curvature.
            river = 1.1 * max((b.T @ torch.linalg.solve(a, b) for a in valleys), key=lambda block: float(block.trace()))
            x = normal(rng, 6)
            # Scale the slope so that Pi = (eta K)^2 ||h|| ||B|| / ||x_0|| has the wanted value.
            h = h / h.norm() * control * x.norm() / (1000.0**2 * torch.linalg.matrix_norm(b, 2))
            models = [quadratic(a, b, (river + river.T) / 2, river_gradient=-h) for a in valleys]
            outcome = compare.corollary_two(models[0], models[1], x, 1.0, 1000)
            lower.append(outcome.losses[1] < outcome.losses[0])
        shares[control] = float(np.mean(lower))
    gap = max(shares[0.01] - 0.6, 0.95 - shares[3.0], 0.0)
    return Finding(600, gap, 0, f"Looped ends lower: {shares[0.01]:.2f} at Pi = 0.01, {shares[3.0]:.2f} at Pi = 3")


def numbers(computed: tuple[float, ...], stated: tuple[float, ...], allowed: float, details: str) -> Finding:
    """Compare the numbers of a counterexample with the digits that docs/theory.md states."""
    errors = [abs(a / b - 1) for a, b in zip(computed, stated, strict=True)]
    return Finding(1, max(errors), allowed, details + " " + ", ".join(f"{number:.4g}" for number in computed))


def missed_flat_direction() -> Finding:
    """CE1: the coupling misses the flat direction."""
    figures = counterexamples.missed_flat_direction()
    return numbers(figures, (1.0, 0.8333, 4.24, 142.6), 1e-3, "|C1|, |C2|, bounds:")


def cancellation() -> Finding:
    """CE2: the parts of two directions cancel."""
    return numbers(counterexamples.cancellation(), (0.8, 0.1667, 4.26, 15.4), 1e-3, "|C1|, |C2|, bounds:")


def start_without_flat_part() -> Finding:
    """CE2b: the start has no component in the flat direction."""
    return numbers(counterexamples.start_without_flat_part()[:2], (1.0, 0.8333), 1e-3, "|C1|, |C2|:")


def rate_too_large() -> Finding:
    """CE3: a rate that is stable for one valley and unstable for the other."""
    return numbers((counterexamples.rate_too_large(),), (1.126e15,), 1e-3, "growth in 50 steps:")


def opposite_sign() -> Finding:
    """CE4: the order of the losses changes with the sign of the start."""
    return numbers(counterexamples.opposite_sign(), (-4.0e-5, 5.2e-5, -6.0e-5, -1.6e-4), 3e-2, "losses for +, then -:")


def not_settled() -> Finding:
    """CE5: the flat direction has not settled, so even the order of the bounds changes with K."""
    stated = (12.0, 11.67, 101.5, 101.6, 6324, 9756)
    return numbers(counterexamples.not_settled(), stated, 1e-3, "bounds at 5, 50, 5000 steps:")


def loewner_order() -> Finding:
    """CE6: ordered matrices with the opposite order of forces."""
    return numbers(counterexamples.loewner_order()[:1], (0.41,), 1e-2, "force of the smaller matrix over that of the larger:")


def flat_valley_keeps_loss() -> Finding:
    """CE8: a flat valley keeps its loss."""
    losses = counterexamples.flat_valley_keeps_loss()
    return numbers(losses, (2.27e-13, 4.46e-3), 1e-2, "loss left after 20 steps at lam = 0.5 and 0.02:")


STATEMENTS = (
    Statement("1.1", "a split by the eigenvectors of the same Hessian has no coupling", "false", _eigen_split_has_no_coupling),
    Statement("1.2", "a positive semidefinite Hessian has ||B||^2 <= ||A|| ||D||", "ours", _semidefinite_coupling_is_bounded),
    Statement(
        "1.3", "with D = 0 and A > 0 the Hessian has exactly rank(B) negative eigenvalues", "false", _flat_river_is_indefinite
    ),
    Statement("3.1", "the kernel of a schedule of rates is (1 - prod (1 - eta_k lam)) / lam", "ours", _schedule_telescopes),
    Statement("3.2", "theorem 1: C_K = -B^T s_K(A) x_0", "as stated", _force_is_the_recursion),
    Statement(
        "3.3", "the force relative to the start, computed without the valley's floor", "ours", _relative_force_is_the_recursion
    ),
    Statement("3.4", "five upper bounds of the force, and their order", "repaired", _upper_bounds_hold),
    Statement("3.5", "three lower bounds of the force", "ours", _lower_bounds_hold),
    Statement("3.6", "mean and variance of the squared force over isotropic starts", "ours", _expectation_is_exact),
    Statement("3.7", "the force of the steep directions is at most R_tau", "repaired", _steep_residual_holds),
    Statement("3.8", "the force in the coupled run equals C_K plus feedback and forcing", "ours", _coupled_run_is_the_recursion),
    Statement("CE1", "counterexample to corollary 1: the coupling misses the flat direction", "false", missed_flat_direction),
    Statement("CE2", "counterexample to corollary 1: the parts of two directions cancel", "false", cancellation),
    Statement(
        "CE2b", "counterexample to corollary 1: the start has no component in the flat direction", "false", start_without_flat_part
    ),
    Statement(
        "CE3", "counterexample to corollary 1: a rate stable for one valley is unstable for the other", "false", rate_too_large
    ),
    Statement("CE4", "counterexample to corollary 2: the order changes with the sign of the start", "false", opposite_sign),
    Statement("CE5", "counterexample to corollary 1: the flat direction has not settled", "false", not_settled),
    Statement("CE6", "counterexample to corollary 1: ordered matrices, opposite order of forces", "false", loewner_order),
    Statement("CE8", "counterexample to corollary 2: a flat valley keeps its loss", "false", flat_valley_keeps_loss),
    Statement("4.1", "the condition SC1 implies the larger force", "repaired", _force_conditions_suffice),
    Statement("4.2", "L_0 - L_K = 1/2 sum s_2K(lam_i) (v_i.g_0)^2", "repaired", _loss_identity_is_exact),
    Statement("4.3", "the decrease of 4.2 by K products of Lanczos from the gradient", "ours", _lanczos_is_exact),
    Statement(
        "4.4", "gradient energy at lower curvature implies the larger decrease of the loss", "repaired", _dominance_orders_losses
    ),
    Statement(
        "4.5",
        "corollary 2 holds for half of the starts at small Pi, for nearly all at large Pi",
        "repaired",
        _control_number_decides,
    ),
)
