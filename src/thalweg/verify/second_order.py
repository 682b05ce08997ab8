"""Checks of section 3 beyond plain descent on a quadratic: the cubic force, momentum, a frozen preconditioner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.theory import hopping_force, momentum
from thalweg.theory.quadratic import Quadratic, quadratic
from thalweg.verify.statement import Finding, Statement, cases, errors_within, normal, relative_error, rotation

_LONG = 6000
"""Number of steps after which the flattest preconditioned direction of these cases has settled."""


@dataclass(frozen=True)
class Cubic:
    """Loss ``1/2 sum lam_i x_i^2 + 1/2 T_{r,ij} r x_i x_j + 1/6 U_{ijk} x_i x_j x_k + 1/4 |x|^4 + 1/2 W_{rsi} r s x_i``."""

    values: Tensor
    """lam, ``(dV,)``."""
    river: Tensor
    """T, derivatives of the valley's Hessian along the river, ``(dR, dV, dV)``."""
    valley: Tensor
    """U, third derivatives within the valley, ``(dV, dV, dV)``."""
    mixed: Tensor
    """W, ``(dR, dR, dV)``."""

    def gradient(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient along the valley ``(dV,)`` and along the river ``(dR,)``, without autograd."""
        along = torch.einsum("rij,i,j->r", self.river, x, x) / 2 + torch.einsum("rsi,s,i->r", self.mixed, r, x)
        across = self.values * x + torch.einsum("rij,r,j->i", self.river, r, x) + x * (x @ x)
        across = across + torch.einsum("ijk,j,k->i", self.valley, x, x) / 2 + torch.einsum("rsi,r,s->i", self.mixed, r, r) / 2
        return across, along


def _random_cubic(rng: np.random.Generator, valley: int, river: int) -> Cubic:
    """Draw a cubic loss with ``eta lam`` in 0.1 to 1.9 at rate 1, one direction at 1.5, and third derivatives of size 1."""
    t, w = normal(rng, river, valley, valley), normal(rng, river, river, valley)
    u = normal(rng, valley, valley, valley)
    u = sum((u.permute(p) for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))), torch.zeros_like(u)) / 6
    lam = torch.from_numpy(rng.uniform(0.1, 1.9, valley))
    lam[0] = 1.5
    return Cubic(lam, (t + t.mT) / 2, u, (w + w.transpose(0, 1)) / 2)


def _cubic_force_is_the_leading_order() -> Finding:
    """The error of the leading order has to fall with the amplitude: at a tenth of it, to at most a fifth."""
    rng, ratios, errors = cases(300), [], []
    for _ in range(8):
        loss, direction, steps = _random_cubic(rng, 4, 3), normal(rng, 4), int(rng.integers(5, 40))
        amplitude_errors = []
        for amplitude in (1e-3, 1e-4, 1e-5):
            start = amplitude * direction / direction.norm()
            # Gradient descent on the cubic loss; the river's displacement is the force.
            x, r = start, torch.zeros(3, dtype=torch.float64)
            for _ in range(steps):
                across, along = loss.gradient(x, r)
                x, r = x - across, r - along
            amplitude_errors.append(relative_error(hopping_force.cubic_force(loss.river, loss.values, start, 1.0, steps).vector, r))
        errors.append(amplitude_errors)
        ratios += [amplitude_errors[1] / amplitude_errors[0], amplitude_errors[2] / amplitude_errors[1]]
    steps_of_error = " / ".join(f"{error:.1e}" for error in np.median(errors, axis=0))
    return errors_within(ratios, 0.2, f"error at a tenth of the amplitude over error; median errors {steps_of_error}")


def _curvature_gradient_is_the_difference() -> Finding:
    """Nested backward passes against second differences of a gradient written by hand, with one Richardson step."""
    rng, errors = cases(301), []
    for _ in range(10):
        inputs, inner, outer = normal(rng, 6, 4), normal(rng, 5, 4) / 2, normal(rng, 5)

        def loss(point: Tensor, inputs: Tensor = inputs, outer: Tensor = outer) -> Tensor:
            return (torch.tanh(inputs @ point.reshape(5, 4).T) @ outer).square().mean() / 2

        def gradient(point: Tensor, inputs: Tensor = inputs, outer: Tensor = outer) -> Tensor:
            hidden = torch.tanh(inputs @ point.reshape(5, 4).T)
            back = (hidden @ outer).unsqueeze(1) * outer * (1 - hidden.square()) / len(inputs)
            return (back.T @ inputs).flatten()

        point, u = inner.flatten(), normal(rng, 20)
        u = u / u.norm()
        # Second difference of the gradient along u at two widths; the combination below cancels the error of order h^2.
        coarse, fine = ((gradient(point + h * u) - 2 * gradient(point) + gradient(point - h * u)) / h**2 for h in (4e-3, 2e-3))
        errors.append(relative_error(hopping_force.curvature_gradient(loss, point, u), (4 * fine - coarse) / 3))
    return errors_within(errors, 1e-7)


def _random_valley(rng: np.random.Generator, low: float, high: float, valley: int = 6, river: int = 4) -> Quadratic:
    """Draw a valley with eigenvalues uniform in (low, high), random eigenvectors and coupling."""
    u = rotation(rng, valley)
    return quadratic(u @ torch.diag(torch.from_numpy(rng.uniform(low, high, valley))) @ u.T, normal(rng, valley, river))


def _with_momentum(model: Quadratic, start: Tensor, steps: int, beta: float) -> tuple[Tensor, Tensor]:
    """Sum of the valley's positions and final position of the river, by the recursion at rate 1."""
    x, r, total = start, torch.zeros(model.coupling.shape[1], dtype=torch.float64), torch.zeros_like(start)
    before_x, before_r = x, r
    for _ in range(steps):
        total = total + x
        next_r = r - model.coupling.T @ x + beta * (r - before_r)
        next_x = x - model.valley @ x + beta * (x - before_x)
        before_x, before_r, x, r = x, r, next_x, next_r
    return total, r


def _momentum_is_the_recursion() -> Finding:
    """Sum, displacement and their limits against the recursion, for several beta."""
    rng, errors = cases(302), []
    for case in range(60):
        beta = float(rng.choice([0.0, 0.3, 0.9, 0.99]))
        model, start = _random_valley(rng, -0.01 if case % 3 == 0 else 0.0, 1.95 * (1 + beta)), normal(rng, 6)
        steps = int(rng.integers(1, 150))
        total, position = _with_momentum(model, start, steps, beta)
        lam, u = torch.linalg.eigh(model.valley)
        summed = u @ (momentum.heavy_ball(lam, 1.0, steps, beta).total * (u.T @ start))
        errors += [
            relative_error(summed, total),
            relative_error(momentum.displacement(model, start, 1.0, steps, beta).vector, position),
        ]
    for beta in (0.0, 0.5, 0.9):
        model, start = _random_valley(rng, 0.3, 1.9 * (1 + beta)), normal(rng, 6)
        total, position = _with_momentum(model, start, 2000, beta)
        lam, u = torch.linalg.eigh(model.valley)
        end = momentum.heavy_ball_limit(lam, 1.0, beta)
        errors += [
            relative_error(u @ (end.total * (u.T @ start)), total),
            relative_error(-model.coupling.T @ u @ (end.displacement * (u.T @ start)), position),
        ]
    return errors_within(errors, 1e-10, "the river ends where gradient descent's ends")


def _stability_edges_are_exact() -> Finding:
    """Edges found by 60 bisections of the step's spectral radius, against the closed form."""
    errors, details = [], ""
    for form in ("heavy-ball", "ema"):
        for beta in (0.0, 0.1, 0.5, 0.9, 0.95, 0.99):
            edge = momentum.stable_range(beta, form)[1]
            # Bisection: the step is stable at ``low`` and unstable at ``high``.
            low, high = 0.0, 1000.0
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if _spectral_radius(middle, beta, form) < 1 else (low, middle)
            errors.append(abs(low / edge - 1))
            if (form, beta) == ("ema", 0.9):
                inside, outside = (_spectral_radius(edge * factor, beta, form) for factor in (0.999, 1.001))
                details = f"Adam's form at 0.9: edge {low:.6f}, radius {inside:.4f} and {outside:.4f} a thousandth to either side"
    return errors_within(errors, 1e-9, details)


def _spectral_radius(x: float, beta: float, form: str) -> float:
    """Spectral radius of one step of (position, moving average or last move), at eta lam = x."""
    gain = 1 - beta if form == "ema" else 1.0
    step = np.array([[1 - gain * x, -beta], [gain * x, beta]])
    return float(np.abs(np.linalg.eigvals(step)).max())


def _preconditioner_is_the_recursion() -> Finding:
    """Force and limit of diagonal and full preconditioners against the recursion at the preconditioned rate."""
    rng, errors = cases(303), []
    for case in range(60):
        model, start = _random_valley(rng, 0.05, 1.0), normal(rng, 6)
        # Diagonal preconditioners in every second case, full ones otherwise.
        if case % 2:
            valley, river = (torch.from_numpy(rng.uniform(0.2, 1.8, size)) for size in (6, 4))
            full, outer = torch.diag(valley), torch.diag(river)
        else:
            a, b = normal(rng, 6, 6), normal(rng, 4, 4)
            valley = full = 0.2 * torch.eye(6, dtype=torch.float64) + a @ a.T / 12
            river = outer = 0.2 * torch.eye(4, dtype=torch.float64) + b @ b.T / 8
        rate = 1.7 / float(torch.linalg.matrix_norm(full @ model.valley, 2))
        for steps in (int(rng.integers(1, 100)), _LONG if case < 2 else 0):
            x, position = start, torch.zeros(4, dtype=torch.float64)
            along, across = rate * outer @ model.coupling.T, rate * full @ model.valley
            for _ in range(steps):
                position, x = position - along @ x, x - across @ x
            if steps == _LONG:
                errors.append(relative_error(momentum.preconditioned_limit(model, start, valley, river, rate).vector, position))
            elif steps:
                force = momentum.preconditioned_force(model, start, valley, river, rate, steps)
                errors.append(relative_error(force.vector, position))
    return errors_within(errors, 1e-10)


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "3.9", "without a coupling the leading force is cubic, with the kernel m_K", "repaired", _cubic_force_is_the_leading_order
    ),
    Statement("3.10", "T[u, u] = grad (u^T H u) by nested backward passes", "ours", _curvature_gradient_is_the_difference),
    Statement("3.11", "with momentum the displacement has the same limit as gradient descent", "ours", _momentum_is_the_recursion),
    Statement("3.12", "stability edges 2 (1 + beta) and, in Adam's form, 38 / eta at 0.9", "ours", _stability_edges_are_exact),
    Statement("3.13", "a frozen preconditioner changes the force and its limit", "ours", _preconditioner_is_the_recursion),
)
