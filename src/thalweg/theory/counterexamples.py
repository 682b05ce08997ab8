"""Counterexamples to the corollaries and to theorem 3 of arXiv 2510.10089, with their numbers.

A counterexample to a corollary has a U-shaped valley (Single) and a V-shaped valley (Looped) that the paper's assumptions allow,
and an outcome that the corollary excludes. Unless stated otherwise the rate is 1 and the number of steps is 5,000. The keys CE1 to
CE8 and CE-A to CE-C are those of docs/theory.md and of `thalweg verify`. All counterexamples are ours.
"""

from __future__ import annotations

import torch

from thalweg.theory.alignment import Aligned, alignment
from thalweg.theory.bounds import upper_bounds
from thalweg.theory.compare import corollary_two, last_loss
from thalweg.theory.force import cumulative_force
from thalweg.theory.looped_attention import Attention, gradients
from thalweg.theory.quadratic import Quadratic, quadratic

_MANY = 5000
"""Number of steps after which the forces have reached their limit, at rate 1."""


def tensor(rows: object) -> torch.Tensor:
    """Build a float64 tensor from nested lists."""
    return torch.tensor(rows, dtype=torch.float64)


def valley(values: object, coupling: object) -> Quadratic:
    """Build a model with a diagonal valley and one river direction, from the eigenvalues and their couplings."""
    return quadratic(torch.diag(tensor(values)), tensor(coupling).unsqueeze(1))


def _forces_and_bounds(first: Quadratic, second: Quadratic, start: object, steps: int = _MANY) -> tuple[float, ...]:
    """Compute ``|C_1|, |C_2|`` and the paper's bounds of both, at rate 1."""
    x = tensor(start)
    forces = [cumulative_force(model, x, 1.0, steps).norm for model in (first, second)]
    return (*forces, *(upper_bounds(model, x, 1.0, steps).paper for model in (first, second)))


def missed_flat_direction() -> tuple[float, ...]:
    """CE1, corollary 1: the coupling misses the flat direction.

    Returns:
        Forces 1 > 0.8333 of Single and Looped, then their bounds 4.24 < 142.6.
    """
    return _forces_and_bounds(valley([1.0, 0.5], [1.0, 0.0]), valley([1.2, 0.01], [1.0, 0.0]), [1.0, 1.0])


def cancellation() -> tuple[float, ...]:
    """CE2, corollary 1: the flat direction's part of the force cancels the part of the steep direction.

    Returns:
        Forces 0.8 > 0.1667 of Single and Looped, then their bounds 4.26 < 15.40.
    """
    return _forces_and_bounds(valley([1.0, 0.5], [1.0, -0.1]), valley([1.2, 0.1], [1.0, -0.1]), [1.0, 1.0])


def start_without_flat_part() -> tuple[float, ...]:
    """CE2b, corollary 1: the start has no component in the flat direction.

    Returns:
        Forces 1 > 0.8333 of Single and Looped, then their bounds.
    """
    return _forces_and_bounds(valley([1.0, 0.5], [1.0, -0.1]), valley([1.2, 0.1], [1.0, -0.1]), [1.0, 0.0])


def rate_too_large() -> float:
    """CE3, corollary 1: the rate 1.5 is stable for the U-shaped valley (lam = 1) and unstable for the V-shaped one (lam = 2).

    Returns:
        Growth of the unstable valley's displacement in 50 steps, 1.1e15.
    """
    x, model = tensor([1.0]), valley([2.0], [1.0])
    sums = [float(cumulative_force(model, x, 1.5, steps).vector) for steps in (50, 51)]
    return abs(sums[1] - sums[0]) / 1.5


def opposite_sign() -> tuple[float, ...]:
    """CE4, corollary 2: the order of the losses changes with the sign of the start; rate 0.5, 100 steps.

    Returns:
        Losses of Single and Looped for x_0 = +1, -4.0e-5 < +5.2e-5, then for x_0 = -1, -6.0e-5 > -1.6e-4.
    """
    losses = []
    for sign in (1.0, -1.0):
        models = [quadratic(tensor([[lam]]), tensor([[0.01]]), river_gradient=tensor([-0.001])) for lam in (1.0, 0.1)]
        report = corollary_two(models[0], models[1], tensor([sign]), rate=0.5, steps=100)
        losses += list(report.losses)
    return tuple(losses)


def not_settled() -> tuple[float, ...]:
    """CE5, corollary 1: before the flat direction has settled, even the order of the paper's bounds fails.

    Returns:
        Bounds of Single and Looped at 5, 50 and 5,000 steps: 12.00 > 11.67, 101.5 < 101.6, 6324 < 9756.
    """
    first, second = valley([2e-4, 1.0], [1.0, 1.0]), valley([1e-5, 1.2], [1.0, 1.0])
    return tuple(bound for steps in (5, 50, _MANY) for bound in _forces_and_bounds(first, second, [1.0, 1.0], steps)[2:])


def loewner_order() -> tuple[float, float]:
    """CE6, corollary 1: ``A_1 >= A_2`` as matrices, but the limit force of A_2 is smaller.

    Returns:
        ``||A_2^-1 x|| / ||A_1^-1 x||`` = 0.41, and the smallest eigenvalue of ``A_1 - A_2``: -4e-4, zero up to the three digits
        of the entries.
    """
    first, second = tensor([[0.562, -1.846], [-1.846, 10.953]]), tensor([[0.45, -0.83], [-0.83, 1.773]])
    x = tensor([0.205, -0.426])
    ratio = torch.linalg.solve(second, x).norm() / torch.linalg.solve(first, x).norm()
    return float(ratio), float(torch.linalg.eigvalsh(first - second).min())


def flat_valley_keeps_loss() -> tuple[float, float]:
    """CE8, corollary 2: a flat valley keeps its loss.

    Returns:
        Loss after 20 steps from a unit displacement: 2e-13 at lam = 0.5, 4.5e-3 at lam = 0.02.
    """
    left = [last_loss(quadratic(tensor([[lam]]), tensor([[0.0]])), tensor([1.0, 0.0]), 1.0, 20) for lam in (0.5, 0.02)]
    return left[0], left[1]


def _compared(weights: Attention, tokens: torch.Tensor, classes: torch.Tensor, loops: int) -> dict[str, Aligned]:
    """Compare the gradients with T loops with those with one loop."""
    return alignment(gradients(weights, tokens, classes, loops), gradients(weights, tokens, classes, 1))


def opposed_gradients() -> tuple[float, ...]:
    """CE-A, theorem 3: width 1, positive semidefinite attention and ``W_V = -1.8`` give four negative inner products.

    Returns:
        The largest of the inner products of key, query, value and head at T = 2, 3 and 4, all below zero.
    """
    weights = Attention(tensor([[1.0]]), tensor([[1.0]]), tensor([[-1.8]]), tensor([[1.0], [-1.0]]))
    tokens, classes = tensor([[[1.0]]]), torch.tensor([0])
    return tuple(max(part.product for part in _compared(weights, tokens, classes, loops).values()) for loops in (2, 3, 4))


def opposed_share(heads: torch.Tensor, tokens: torch.Tensor, loops: int = 3) -> float:
    """CE-B, theorem 3: ``Q = W_V = I`` and nearly orthonormal tokens give negative inner products for some heads.

    Args:
        heads: W_h of several models, ``(S, C, d)``.
        tokens: E_0, ``(d, n)``.
        loops: T.
    Returns:
        Share of the heads with ``<g_T, g_1> < 0`` for W_K.
    """
    eye, negative = torch.eye(tokens.shape[0], dtype=torch.float64), []
    for head in heads:
        weights = Attention(eye, eye, eye, head)
        negative.append(_compared(weights, tokens.unsqueeze(0), torch.tensor([0]), loops)["key"].product < 0)
    return sum(negative) / len(negative)


def opposed_batch() -> tuple[float, ...]:
    """CE-C, theorem 3: both samples agree, the batch does not, because looping changes the weights of the samples.

    Returns:
        Cosines of W_K's gradients at T = 2 and T = 1: +1 and +1 for the samples, -1 for their sum; then the summed gradients at
        T = 1 and at T = 2.
    """
    weights = Attention(tensor([[1.0]]), tensor([[0.746]]), tensor([[0.155]]), tensor([[2.01], [0.0]]))
    tokens, classes = tensor([[[1.077, 1.187]], [[0.533, 0.321]]]), torch.tensor([0, 1])
    aligned = _compared(weights, tokens, classes, 2)["key"]
    sums = [float(gradients(weights, tokens, classes, loops).key.sum()) for loops in (1, 2)]
    return (*aligned.per_sample.tolist(), aligned.batch, *sums)
