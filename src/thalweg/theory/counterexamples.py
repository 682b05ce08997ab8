"""Small cases in which the paper's corollaries and its theorem 3 fail, with their numbers.

Those of the corollaries have a U-shaped valley (Single) and a V-shaped one (Looped) that the paper's assumptions allow, and an
outcome that its corollaries exclude.
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
"""Steps after which the limit is there, at rate 1."""


def tensor(rows: object) -> torch.Tensor:
    """In float64."""
    return torch.tensor(rows, dtype=torch.float64)


def valley(values: object, coupling: object) -> Quadratic:
    """A diagonal valley with one river direction."""
    return quadratic(torch.diag(tensor(values)), tensor(coupling).unsqueeze(1))


def _forces_and_bounds(first: Quadratic, second: Quadratic, start: object, steps: int = _MANY) -> tuple[float, ...]:
    """``|C_1|, |C_2|`` and the paper's two bounds, at rate 1."""
    x = tensor(start)
    forces = [cumulative_force(model, x, 1.0, steps).norm for model in (first, second)]
    return (*forces, *(upper_bounds(model, x, 1.0, steps).paper for model in (first, second)))


def missed_flat_direction() -> tuple[float, ...]:
    """CE1: the coupling misses the flat direction. The bound grows from 4.24 to 142.6, the force falls from 1 to 0.8333."""
    return _forces_and_bounds(valley([1.0, 0.5], [1.0, 0.0]), valley([1.2, 0.01], [1.0, 0.0]), [1.0, 1.0])


def cancellation() -> tuple[float, ...]:
    """CE2: the flat direction's part cancels the steep one's. Bounds 4.26 < 15.40, forces 0.8 > 0.1667."""
    return _forces_and_bounds(valley([1.0, 0.5], [1.0, -0.1]), valley([1.2, 0.1], [1.0, -0.1]), [1.0, 1.0])


def start_without_flat_part() -> tuple[float, ...]:
    """CE2b: the start has no flat part. Forces 1 > 0.8333."""
    return _forces_and_bounds(valley([1.0, 0.5], [1.0, -0.1]), valley([1.2, 0.1], [1.0, -0.1]), [1.0, 0.0])


def rate_too_large() -> float:
    """CE3: a rate of 1.5 suits the U-valley (largest 1), and blows up the V-valley (largest 2): growth over 50 steps, 1.1e15."""
    x, model = tensor([1.0]), valley([2.0], [1.0])
    sums = [float(cumulative_force(model, x, 1.5, steps).vector) for steps in (50, 51)]
    return abs(sums[1] - sums[0]) / 1.5


def opposite_sign() -> tuple[float, ...]:
    """CE4: losses (Single, Looped) for x_0 = +1 and for x_0 = -1: -4.0e-5 < +5.2e-5, then -6.0e-5 > -1.6e-4."""
    found = []
    for sign in (1.0, -1.0):
        models = [quadratic(tensor([[lam]]), tensor([[0.01]]), river_gradient=tensor([-0.001])) for lam in (1.0, 0.1)]
        report = corollary_two(models[0], models[1], tensor([sign]), rate=0.5, steps=100)
        found += list(report.losses)
    return tuple(found)


def not_settled() -> tuple[float, ...]:
    """CE5: bounds at 5, 50 and 5,000 steps, 12.00 > 11.67, 101.5 < 101.6, 6324 < 9756: even their order needs time."""
    one, two = valley([2e-4, 1.0], [1.0, 1.0]), valley([1e-5, 1.2], [1.0, 1.0])
    return tuple(bound for steps in (5, 50, _MANY) for bound in _forces_and_bounds(one, two, [1.0, 1.0], steps)[2:])


def loewner_order() -> tuple[float, float]:
    """CE6: A_1 >= A_2 as matrices, yet ``||A_2^-1 x|| / ||A_1^-1 x||`` is 0.41; and the smallest eigenvalue of A_1 - A_2."""
    one, two = tensor([[0.562, -1.846], [-1.846, 10.953]]), tensor([[0.45, -0.83], [-0.83, 1.773]])
    x = tensor([0.205, -0.426])
    ratio = torch.linalg.solve(two, x).norm() / torch.linalg.solve(one, x).norm()
    return float(ratio), float(torch.linalg.eigvalsh(one - two).min())


def flat_valley_keeps_loss() -> tuple[float, float]:
    """CE8: what is left of the loss after 20 steps at rate 1 from a unit displacement: 2e-13 at lam = 0.5, 4.5e-3 at 0.02."""
    left = [last_loss(quadratic(tensor([[lam]]), tensor([[0.0]])), tensor([1.0, 0.0]), 1.0, 20) for lam in (0.5, 0.02)]
    return left[0], left[1]


def _compared(weights: Attention, tokens: torch.Tensor, classes: torch.Tensor, loops: int) -> dict[str, Aligned]:
    """Gradients with so many loops against those with one."""
    return alignment(gradients(weights, tokens, classes, loops), gradients(weights, tokens, classes, 1))


def opposed_gradients() -> tuple[float, ...]:
    """CE-A: width 1, attention positive semidefinite. The largest of the four inner products at T = 2, 3, 4: all below zero."""
    weights = Attention(tensor([[1.0]]), tensor([[1.0]]), tensor([[-1.8]]), tensor([[1.0], [-1.0]]))
    tokens, classes = tensor([[[1.0]]]), torch.tensor([0])
    return tuple(max(part.product for part in _compared(weights, tokens, classes, loops).values()) for loops in (2, 3, 4))


def opposed_share(heads: torch.Tensor, tokens: torch.Tensor, loops: int = 3) -> float:
    """CE-B: ``Q = W_V = I``, nearly orthonormal tokens ``(d, n)``. Share of heads ``(S, C, d)`` with ``<g_T, g_1> < 0`` for W_K."""
    eye, found = torch.eye(tokens.shape[0], dtype=torch.float64), []
    for head in heads:
        weights = Attention(eye, eye, eye, head)
        found.append(_compared(weights, tokens.unsqueeze(0), torch.tensor([0]), loops)["key"].product < 0)
    return sum(found) / len(found)


def opposed_batch() -> tuple[float, ...]:
    """CE-C: cosines of W_K's gradient at T = 2 with that at T = 1: +1 and +1 for two samples, -1 for their sum. Then the sums."""
    weights = Attention(tensor([[1.0]]), tensor([[0.746]]), tensor([[0.155]]), tensor([[2.01], [0.0]]))
    tokens, classes = tensor([[[1.077, 1.187]], [[0.533, 0.321]]]), torch.tensor([0, 1])
    found = _compared(weights, tokens, classes, 2)["key"]
    sums = [float(gradients(weights, tokens, classes, loops).key.sum()) for loops in (1, 2)]
    return (*found.per_sample.tolist(), found.batch, *sums)
