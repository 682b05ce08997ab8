"""Checks of section 8: signs of eigenvectors, laws of flips, tortuosity, and whether hopping helps the river."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from thalweg.landscape import ablation, edge, flips, geometry, hopping
from thalweg.verify.statement import Finding, Statement, cases, errors_within, normal, rotation


def _driven(rng: np.random.Generator, sharpness: float, momentum: float, steps: int, runs: int, minibatch: bool = False) -> Tensor:
    """Gradients of independent runs on ``lam x^2 / 2`` with noise in the step, ``(steps, runs)``; eta = 1.

    The first 400 steps are left out, in which a run forgets its start. With ``minibatch`` the noise is part of the gradient.
    """
    x, previous, rows = np.zeros(runs), np.zeros(runs), []
    for step in range(steps + 400):
        noise = rng.standard_normal(runs)
        if step >= 400:
            rows.append(sharpness * x + noise * minibatch)
        x, previous = x - sharpness * x - noise + momentum * (x - previous), x
    return torch.from_numpy(np.stack(rows))


def _signs_are_a_trap() -> Finding:
    """Slowly turning frames with random signs: the aligned flips have to be exact, the unaligned share has to be near one half."""
    rng, errors, shares = cases(800), [], []
    for _ in range(5):
        a, base, turn = _driven(rng, 0.048, 0.0, 600, 2), rotation(rng, 6), normal(rng, 6, 6)
        # A fixed skew matrix of norm 1 turns the frames smoothly by 0.3 in total.
        turn = (turn - turn.T) / (turn - turn.T).norm()
        frames = torch.matrix_exp(torch.linspace(0, 0.3, 600, dtype=torch.float64).view(-1, 1, 1) * turn) @ base[:, :2]
        gradients = torch.einsum("wpk,wk->wp", frames, a)
        # What an eigensolver returns: the same directions with random signs.
        anew = frames * torch.from_numpy(rng.choice([-1.0, 1.0], (600, 1, 2)))
        true = ((a[1:] * a[:-1]) < 0).double().mean(0)
        aligned = flips.flips(flips.along(gradients, anew)).share
        unaligned = flips.flips(torch.einsum("wp,wpk->wk", gradients, anew)).share
        errors += [float((aligned - true).abs().max()), max(0.0, 0.4 - float(unaligned.min()))]
        shares.append([float(unaligned.mean()), float(aligned.mean())])
    before, after = np.mean(shares, axis=0)
    return errors_within(errors, 1e-12, f"share of flips {before:.2f} with random signs, {after:.2f} aligned")


def _flips_have_laws() -> Finding:
    """Shares of flips without noise, on a fixed batch and on mini-batches, against their closed forms."""
    rng, errors, details = cases(801), [], []
    for z in (0.1, 0.5, 0.9, 1.1, 1.5, 1.9):
        x = ((1 - z) ** torch.arange(60, dtype=torch.float64)).unsqueeze(1)
        # Without noise the gradient of one run decides: it flips in every step or never.
        still = flips.flips(x)
        errors += [abs(float(still.share) - (z > 1)), abs(float(still.share) - flips.deterministic_law(z))]
        errors.append(abs(float(still.sharpness) - z))
    for z in (0.1, 0.5, 1.0, 1.5, 1.9):
        fixed = float(flips.flips(_driven(rng, z, 0.0, 1500, 600)).share.mean())
        batches = float(flips.flips(_driven(rng, z, 0.0, 1500, 600, minibatch=True), minibatch=True).share.mean())
        errors += [abs(fixed - flips.driven_law(z)), abs(batches - flips.minibatch_law(z))]
        details.append(f"{z:g}: {fixed:.3f} {batches:.3f}")
    return errors_within(errors, 2e-3, "eta lam, shares on a fixed batch and on mini-batches: " + "; ".join(details))


def _momentum_swings() -> Finding:
    """Flips of the heavy-ball recursion over 20,000 steps against the closed form and the documented digits."""
    errors, shares, beta = [], [], 0.9
    for z, stated in ((0.01, 0.028), (0.5, 0.236), (1.0, 0.343), (1.9, 0.5), (2.5, 0.602), (3.5, 0.819)):
        now, previous, count, steps = 1.0, 1.0, 0, 20000
        for _ in range(steps):
            after = now - z * now + beta * (now - previous)
            count += after * now < 0
            # The law concerns the signs only; dividing by the size keeps the recursion from underflowing.
            size = abs(after) + abs(now)
            now, previous = after / size, now / size
        shares.append(count / steps)
        errors += [abs(shares[-1] - flips.deterministic_law(z, beta)), abs(shares[-1] - stated)]
    return errors_within(errors, 6e-4, "flips at beta = 0.9: " + ", ".join(f"{share:.3f}" for share in shares))


def _tortuosity_has_a_closed_form() -> Finding:
    """Tortuosity of gradient descent on a parabola by its recursion, against the measured path and the closed form."""
    rng, errors = cases(803), []
    for case in range(100):
        z, steps = float(rng.uniform(0.01, 2.5)), int(rng.integers(20, 120))
        if case < 6:
            z, steps = (0.05, 0.5, 0.95, 1.05, 1.5, 1.95)[case], 60
        x = [1.0]
        for _ in range(steps):
            x.append(x[-1] - z * x[-1])
        points = torch.stack([torch.tensor(x, dtype=torch.float64), -0.1 * torch.arange(steps + 1, dtype=torch.float64)], 1)
        walk = geometry.geometry(points, torch.eye(2)[:, :1])
        # Length of the path over its net displacement.
        exact = math.fsum(abs(b - a) for a, b in pairwise(x)) / abs(x[-1] - x[0])
        errors += [abs(walk.valley.tortuosity / exact - 1), abs(geometry.quadratic_tortuosity(z, steps) / exact - 1)]
        errors.append(abs(walk.river.tortuosity - 1))
        if case < 6:
            errors.append(max(0.0, abs(exact - (1, 1, 1, 1.105, 3.0, 39.0)[case]) - 5e-4))
    return errors_within(errors, 1e-9)


def toy(rng: np.random.Generator, bend: float, base: float, slope: float, noise: float):
    """Build the gradient of ``(base + bend y) x^2 / 2 - slope y`` with noise of the given size across the valley."""

    def gradient(point: Tensor) -> Tensor:
        x, y = point.tolist()
        return torch.tensor([(base + bend * y) * x + noise * rng.standard_normal(), bend * x * x / 2 - slope], dtype=torch.float64)

    return gradient


def _hopping_stops_or_helps() -> Finding:
    """A river that sharpens (bend > 0) has to be stopped by hopping; one that flattens (bend < 0) has to gain from it."""
    rng, slope = cases(804), 1e-3
    gradient, point = toy(rng, 1.0, 1.8, slope, 1e-3), torch.tensor([1e-3, 0.0], dtype=torch.float64)
    # A river that sharpens: the walk stops where hopping balances the slope, with <x^2> = 2 h / t.
    points, rows = [point], []
    for _ in range(3000):
        g = gradient(point)
        rows.append(torch.stack([(1.8 + point[1]) * point[0], g[1]]))
        point = point - g
        points.append(point)
    walk, axis = torch.stack(points), torch.eye(2, dtype=torch.float64)
    late, counted = walk[1000:], flips.flips(torch.stack(rows)[1000:, :1])
    window = geometry.geometry(walk[-201:], axis[:, :1])
    ratios = edge.edge(((1.8 + walk[-200:, 1]) / 2).tolist())
    # The library's own decision on the window.
    decision = hopping.hopping(counted, window, ratios, cubic_drift=1.0 * slope)
    # Speed along the river relative to the slope h, and <x^2> t / (2 h), which is 1 where hopping stops the river.
    speed = float(late[-1, 1] - late[0, 1]) / 2000 / slope
    square = float(late[:-1, 0].square().mean()) / (2 * slope)
    # Ablations of both signs, and the recursion of the flattening river as an oracle.
    sharpens = ablation.ablation(gradient, walk[0], axis[:, :1], 1.0, 600)
    flattens = ablation.ablation(
        toy(rng, -1.0, 1.9, 3e-4, 0.0), torch.tensor([0.1, 0.0], dtype=torch.float64), axis[:, :1], 1.0, 100
    )
    x, y = 0.1, 0.0
    for _ in range(100):
        x, y = x - (1.9 - y) * x, y + 3e-4 + x * x / 2
    failures = [
        abs(speed) > 0.1 or abs(square - 1) > 0.1 or float(counted.share) < 0.95 or not decision.hops,
        sharpens.verdict != "opposed" or flattens.verdict != "supported",
        abs(flattens.plain.along_slope / y - 1) > 1e-9 or flattens.plain.along_slope < 1.5 * flattens.bulk_on_floor.along_slope,
        abs(flattens.bulk_on_floor.along_slope - 0.03) > 1e-6,
    ]
    details = (
        f"t > 0: eta lam {1.8 + float(late[:, 1].mean()):.3f}, flips {float(counted.share):.2f}, <x^2> t/2h {square:.2f}, "
        f"speed {speed:.3f} h; t < 0: {flattens.plain.along_slope:.4f} against {flattens.bulk_on_floor.along_slope:.4f} free, "
        f"{flattens.half_rate.along_slope:.4f} at half rate, {flattens.bulk_only.along_slope:.4f} bulk-only off the floor"
    )
    return Finding(2, float(sum(failures)), 0, details)


STATEMENTS = (
    Statement(
        "8.1", "with random signs of the eigenvectors every run appears to hop; with aligned signs not", "ours", _signs_are_a_trap
    ),
    Statement("8.2", "shares of flips: 0 or 1, arccos(1 - eta lam)/pi, arccos(-eta lam/2)/pi", "ours", _flips_have_laws),
    Statement("8.3", "the share of flips of the heavy ball is phi/pi: slow oscillation is not hopping", "ours", _momentum_swings),
    Statement("8.4", "tortuosity of gradient descent on a parabola, in closed form", "ours", _tortuosity_has_a_closed_form),
    Statement("8.5", "hopping stops a river that sharpens and helps one that flattens", "false", _hopping_stops_or_helps),
)
