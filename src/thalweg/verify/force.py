"""Sections 1, 3 and 4 tried: the split, the cumulative force, corollaries 1 and 2."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from thalweg.errors import EigenSplitCouplingWarning, IndefiniteModelWarning
from thalweg.theory import bounds, compare, counterexamples, coupled, force, kernel, loss
from thalweg.theory import quadratic as quadratics
from thalweg.theory.quadratic import Quadratic, quadratic
from thalweg.verify.statement import Finding, Statement, cases, normal, relative, rotation, worst


def random_valley(draw: np.random.Generator, valley: int, river: int, low: float, high: float) -> Quadratic:
    """Log-uniform eigenvalues in (10^low, 10^high), random vectors and coupling, a river without curvature."""
    values = 10 ** torch.from_numpy(draw.uniform(low, high, valley))
    u = rotation(draw, valley)
    return quadratic(u @ torch.diag(values) @ u.T, normal(draw, valley, river), river_gradient=normal(draw, river))


def _eigen_split_has_no_coupling() -> Finding:
    draw, errors = cases(100), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EigenSplitCouplingWarning)
        for _ in range(50):
            a = normal(draw, 50, 50)
            hessian = (a + a.T) / 2
            vectors = torch.linalg.eigh(hessian).eigenvectors
            model = quadratics.in_frames(hessian, torch.zeros(50), vectors[:, 10:], vectors[:, :10])
            errors.append(float(model.coupling.norm() / hessian.norm()))
    return worst(errors, 1e-12)


def _semidefinite_coupling_is_bounded() -> Finding:
    draw, excess = cases(101), []
    for _ in range(500):
        rank = int(draw.integers(1, 12))
        a = normal(draw, 10, rank)
        whole = a @ a.T
        found = quadratics.consistency(quadratic(whole[:6, :6], whole[:6, 6:], whole[6:, 6:]))
        excess.append(max(found.ratio, found.direction_ratio) - 1)
    return worst(excess, 1e-8, f"largest ||B||^2 / (||A|| ||D||) {1 + max(excess):.4f}")


def _flat_river_is_indefinite() -> Finding:
    draw, errors = cases(102), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IndefiniteModelWarning)
        for _ in range(200):
            rank = int(draw.integers(1, 4))
            b = normal(draw, 6, rank) @ normal(draw, rank, 4)
            found = quadratics.consistency(quadratic(torch.diag(torch.from_numpy(draw.uniform(0.5, 2, 6))), b))
            errors.append(abs(found.negative - rank))
    return worst(errors, 0, "negative eigenvalues minus rank of B")


def _force_is_the_recursion() -> Finding:
    draw, errors = cases(103), []
    for case in range(300):
        model = random_valley(draw, 12, 7, -3, 0.27)
        if case % 3 == 0:
            model = quadratic(model.valley - 0.05 * torch.eye(12), model.coupling)
        start, steps = normal(draw, 12), int(draw.integers(1, 200))
        x, total = start, torch.zeros(7, dtype=torch.float64)
        for _ in range(steps):
            total, x = total - model.coupling.T @ x, x - model.valley @ x
        errors.append(relative(force.cumulative_force(model, start, 1.0, steps).vector, total))
    return worst(errors, 1e-10, "eta lam from -0.05 to 1.9")


def _relative_force_is_the_recursion() -> Finding:
    draw, errors = cases(104), []
    for _ in range(100):
        base = random_valley(draw, 8, 5, -4, 0.2)
        model = quadratic(base.valley, base.coupling, valley_gradient=normal(draw, 8))
        d, total, steps = torch.zeros(8, dtype=torch.float64), torch.zeros(5, dtype=torch.float64), int(draw.integers(2, 200))
        for _ in range(steps):
            total, d = total - model.coupling.T @ d, d - (model.valley @ d + model.valley_gradient)
        errors.append(relative(force.relative_force(model, 1.0, steps), total))
    return worst(errors, 1e-10)


def _upper_bounds_hold() -> Finding:
    draw, excess, tight = cases(105), [], []
    for _ in range(300):
        model, start = random_valley(draw, 60, 100, -3, 0), normal(draw, 60)
        steps = int(draw.choice([20, 500]))
        size, roof = force.cumulative_force(model, start, 1.0, steps).norm, bounds.upper_bounds(model, start, 1.0, steps)
        pairs = [(size, roof.modes), (size, roof.start), (size, roof.coupling), (roof.start, roof.largest)]
        pairs += [(roof.coupling, roof.largest), (roof.largest, roof.paper), (roof.modes, roof.paper)]
        excess.append(max(low / high - 1 for low, high in pairs))
        tight.append([roof.paper / size, roof.start / size])
    paper, ours = np.median(tight, axis=0)
    return worst(excess, 1e-10, f"median bound over force: paper's {paper:.1f}, ours {ours:.2f}")


def _lower_bounds_hold() -> Finding:
    draw, excess = cases(106), []
    for _ in range(300):
        model, start = random_valley(draw, 6, 9, -3, 0.2), normal(draw, 6)
        size = force.cumulative_force(model, start, 1.0, 100).norm
        floor = bounds.lower_bounds(model, start, 1.0, 100, along=normal(draw, 9))
        excess.append(floor.best / size - 1)
    return worst(excess, 1e-10)


def _expectation_is_exact() -> Finding:
    draw, scores = cases(107), []
    for _ in range(8):
        model = random_valley(draw, 5, 4, -1.5, 0)
        starts = normal(draw, 20000, 5)
        s = force.force_by_products  # the recursion, applied to unit starts, is the linear map
        frames = torch.eye(9, dtype=torch.float64)
        columns = [s(model.hessian, unit, frames[:, :5], frames[:, 5:], 1.0, 50) for unit in torch.eye(5, dtype=torch.float64)]
        squares = (starts @ torch.stack(columns)).square().sum(1)
        found = bounds.expected_force(model, 1.0, 1.0, 50)
        scores.append(abs(float(squares.mean()) - found.mean) / (found.variance**0.5 / 20000**0.5))
        scores.append(abs(float(squares.var()) / found.variance - 1) * 10)
    return worst(scores, 4, "standard errors; variance in tenths")


def _steep_residual_holds() -> Finding:
    draw, excess = cases(108), []
    for _ in range(100):
        model, start = random_valley(draw, 20, 15, -3, 0), normal(draw, 20)
        for part in bounds.steep_parts(model, start, 1.0, 300, torch.tensor([0.003, 0.01, 0.03, 0.1, 0.3])):
            excess.append(part.steep - part.bound)
    return worst(excess, 1e-9)


def _coupled_run_is_the_recursion() -> Finding:
    draw, errors = cases(109), []
    for _ in range(100):
        a = normal(draw, 9, 9)
        whole = (a + a.T) / 8
        model = quadratic(whole[:5, :5], whole[:5, 5:], whole[5:, 5:], normal(draw, 5), normal(draw, 4))
        start, steps = normal(draw, 9), int(draw.integers(2, 30))
        theta, total = start, torch.zeros(4, dtype=torch.float64)
        for _ in range(steps):
            total = total - 0.5 * model.coupling.T @ theta[:5]
            theta = theta - 0.5 * (model.hessian @ theta + model.gradient)
        found = coupled.coupled_force(model, start, 0.5, steps)
        errors.append(relative(found.vector, total))
        errors.append(relative(found.unforced + found.feedback, total))
        errors.append(max(0.0, float((found.vector - found.unforced).norm()) - found.feedback_bound))
    return worst(errors, 1e-10)


def _schedule_telescopes() -> Finding:
    draw, errors = cases(110), []
    for _ in range(200):
        lam = torch.from_numpy(draw.uniform(0.05, 1.9, 20))
        rates = draw.uniform(0, 1, int(draw.integers(1, 80)))
        left = torch.ones_like(lam)
        for rate in rates:
            left = left * (1 - rate * lam)
        errors.append(relative(kernel.schedule_kernel(lam, rates.tolist()), (1 - left) / lam))
    return worst(errors, 1e-12)


def _loss_identity_is_exact() -> Finding:
    draw, errors = cases(111), []
    for _ in range(200):
        a = normal(draw, 8, 8)
        hessian, g, steps = (a + a.T) / 6, normal(draw, 8), int(draw.integers(1, 25))
        theta = torch.zeros(8, dtype=torch.float64)
        for _ in range(steps):
            theta = theta - 0.7 * (hessian @ theta + g)
        fallen = -(theta @ hessian @ theta / 2 + g @ theta)
        found = loss.loss_decrease(loss.gradient_measure(hessian, g), 0.7, steps).sum()
        errors.append(abs(float((found - fallen) / fallen)))
    return worst(errors, 1e-10, "indefinite Hessians, coupled and forced")


def _lanczos_is_exact() -> Finding:
    draw, errors, short = cases(112), [], []
    u = rotation(draw, 400)
    hessian = u @ torch.diag(10 ** torch.from_numpy(draw.uniform(-3, 0, 400))) @ u.T
    hessian = (hessian + hessian.T) / 2
    for steps in (5, 10, 20, 40):
        g = normal(draw, 400)
        exact = float(loss.loss_decrease(loss.gradient_measure(hessian, g), 1.0, steps).sum())
        errors.append(abs(loss.loss_decrease_by_products(hessian, g, 1.0, steps) / exact - 1))
        short.append(abs(loss.loss_decrease_by_products(hessian, g, 1.0, steps, products=10) / exact - 1))
    return worst(errors, 1e-10, f"40 steps from 10 products: error {short[-1]:.0e}")


def _dominance_orders_losses() -> Finding:
    draw, shortfall = cases(113), []
    while len(shortfall) < 1000:
        lam = torch.from_numpy(np.sort(draw.uniform(-0.1, 1.95, 12)))
        weights = torch.from_numpy(draw.exponential(size=12))
        moved = lam - torch.from_numpy(draw.exponential(0.2, 12))
        found = compare.compare_losses(loss.Measure(lam, weights), loss.Measure(moved, weights), 1.0, int(draw.integers(1, 30)))
        if found.dominance.held:
            shortfall.append((found.first - found.second) / abs(found.first))
    return worst(shortfall, 1e-10)


def _force_conditions_suffice() -> Finding:
    draw, wrong = cases(114), []
    for _ in range(500):
        pair = [random_valley(draw, 3, 6, -2, 0) for _ in range(2)]
        pair[1] = quadratic(0.2 * pair[1].valley, 3 * pair[1].coupling)
        found = compare.compare_forces(pair[0], pair[1], normal(draw, 3), 1.0, 100)
        if found.conditions[0].held:
            wrong.append(float(not found.second_is_larger))
    return worst(wrong, 0, f"SC1 applied {len(wrong)} times in 500")


def _control_number_decides() -> Finding:
    draw, shares = cases(115), {}
    for control in (0.01, 3.0):
        lower = []
        for _ in range(300):
            u, values = rotation(draw, 6), 10 ** torch.from_numpy(draw.uniform(-1.5, 0, 6))
            b, h = 1e-4 * normal(draw, 6, 4), normal(draw, 4)
            valleys = [u @ torch.diag(scaled) @ u.T for scaled in (values, values * torch.from_numpy(draw.uniform(0.3, 1, 6)))]
            river = 1.1 * max((b.T @ torch.linalg.solve(a, b) for a in valleys), key=lambda block: float(block.trace()))
            x = normal(draw, 6)
            h = h / h.norm() * control * x.norm() / (1000.0**2 * torch.linalg.matrix_norm(b, 2))
            models = [quadratic(a, b, (river + river.T) / 2, river_gradient=-h) for a in valleys]
            found = compare.corollary_two(models[0], models[1], x, 1.0, 1000)
            lower.append(found.losses[1] < found.losses[0])
        shares[control] = float(np.mean(lower))
    gap = max(shares[0.01] - 0.6, 0.95 - shares[3.0], 0.0)
    return Finding(600, gap, 0, f"Looped ends lower: {shares[0.01]:.2f} at Pi = 0.01, {shares[3.0]:.2f} at Pi = 3")


def numbers(found: tuple[float, ...], stated: tuple[float, ...], allowed: float, words: str) -> Finding:
    """A counterexample against the digits that the documentation gives."""
    errors = [abs(a / b - 1) for a, b in zip(found, stated, strict=True)]
    return Finding(1, max(errors), allowed, words + " " + ", ".join(f"{number:.4g}" for number in found))


def missed_flat_direction() -> Finding:
    found = counterexamples.missed_flat_direction()
    return numbers(found, (1.0, 0.8333, 4.24, 142.6), 1e-3, "|C1|, |C2|, bounds:")


def cancellation() -> Finding:
    return numbers(counterexamples.cancellation(), (0.8, 0.1667, 4.26, 15.4), 1e-3, "|C1|, |C2|, bounds:")


def start_without_flat_part() -> Finding:
    return numbers(counterexamples.start_without_flat_part()[:2], (1.0, 0.8333), 1e-3, "|C1|, |C2|:")


def rate_too_large() -> Finding:
    return numbers((counterexamples.rate_too_large(),), (1.126e15,), 1e-3, "growth in 50 steps:")


def opposite_sign() -> Finding:
    return numbers(counterexamples.opposite_sign(), (-4.0e-5, 5.2e-5, -6.0e-5, -1.6e-4), 3e-2, "losses for +, then -:")


def not_settled() -> Finding:
    stated = (12.0, 11.67, 101.5, 101.6, 6324, 9756)
    return numbers(counterexamples.not_settled(), stated, 1e-3, "bounds at 5, 50, 5000 steps:")


def loewner_order() -> Finding:
    return numbers(counterexamples.loewner_order()[:1], (0.41,), 1e-2, "force of the smaller matrix over that of the larger:")


def flat_valley_keeps_loss() -> Finding:
    found = counterexamples.flat_valley_keeps_loss()
    return numbers(found, (2.27e-13, 4.46e-3), 1e-2, "loss left after 20 steps at lam = 0.5 and 0.02:")


STATEMENTS = (
    Statement("1.1", "a split by the Hessian's own eigenvectors has no coupling", "false", _eigen_split_has_no_coupling),
    Statement("1.2", "a semidefinite Hessian has ||B||^2 <= ||A|| ||D||", "ours", _semidefinite_coupling_is_bounded),
    Statement("1.3", "no river curvature: exactly rank(B) negative eigenvalues", "false", _flat_river_is_indefinite),
    Statement("3.1", "the kernel of a schedule of rates telescopes", "ours", _schedule_telescopes),
    Statement("3.2", "theorem 1: C_K = -B^T s_K(A) x_0", "as stated", _force_is_the_recursion),
    Statement("3.3", "the force relative to the start needs no floor", "ours", _relative_force_is_the_recursion),
    Statement("3.4", "upper bounds of the force and their order", "repaired", _upper_bounds_hold),
    Statement("3.5", "lower bounds of the force", "ours", _lower_bounds_hold),
    Statement("3.6", "mean and variance of the squared force over starts", "ours", _expectation_is_exact),
    Statement("3.7", "steep directions add at most R_tau", "repaired", _steep_residual_holds),
    Statement("3.8", "the coupled force and its decomposition", "ours", _coupled_run_is_the_recursion),
    Statement("CE1", "corollary 1: the coupling misses the flat direction", "false", missed_flat_direction),
    Statement("CE2", "corollary 1: parts cancel", "false", cancellation),
    Statement("CE2b", "corollary 1: a start without a flat part", "false", start_without_flat_part),
    Statement("CE3", "corollary 1: a rate that suits one valley blows up the other", "false", rate_too_large),
    Statement("CE4", "corollary 2: the order changes with the sign of the start", "false", opposite_sign),
    Statement("CE5", "corollary 1: before the flat direction has settled", "false", not_settled),
    Statement("CE6", "corollary 1: ordered matrices, other order of forces", "false", loewner_order),
    Statement("CE8", "corollary 2: a flat valley keeps its loss", "false", flat_valley_keeps_loss),
    Statement("4.1", "SC1 implies the larger force", "repaired", _force_conditions_suffice),
    Statement("4.2", "L_0 - L_K = 1/2 sum s_2K(lam_i) (v_i.g_0)^2", "repaired", _loss_identity_is_exact),
    Statement("4.3", "the same by K products, Lanczos from the gradient", "ours", _lanczos_is_exact),
    Statement("4.4", "gradient energy at lower curvature implies the larger decrease", "repaired", _dominance_orders_losses),
    Statement("4.5", "corollary 2 is a coin flip for small Pi and holds for large", "repaired", _control_number_decides),
)
