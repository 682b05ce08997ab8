"""Section 6 tried: gradients of Single and Looped, the T^2 law, the counterexamples to theorem 3."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thalweg.theory import alignment, counterexamples, looped_attention, scaling
from thalweg.theory.looped_attention import Attention, attention
from thalweg.verify.statement import Finding, Statement, cases, normal, worst


def drawn(draw: np.random.Generator, scale: float, width: int = 4, classes: int = 3) -> Attention:
    """Random weights."""
    parts = [scale * normal(draw, *shape) for shape in ((3, width), (3, width), (width, width), (classes, width))]
    return attention(*parts)


def loss(weights: Attention, tokens: Tensor, classes: Tensor, loops: int) -> Tensor:
    """The summed loss as autograd sees it, written out anew."""
    here = tokens
    for _ in range(loops):
        scores = torch.einsum("sdi,md,me,sej->sij", here, weights.key, weights.query, here)
        here = here + torch.einsum("de,sei,sij->sdj", weights.value, here, scores)
    return torch.nn.functional.cross_entropy(here[:, :, -1] @ weights.head.T, classes, reduction="sum")


def _gradients_are_exact() -> Finding:
    draw, errors = cases(600), []
    for loops in (1, 2, 3, 4, 5, 6):
        for _ in range(10):
            weights, tokens = drawn(draw, 0.3), normal(draw, 5, 4, 6) / 2
            classes = torch.from_numpy(draw.integers(0, 3, 5))
            leaves = [part.clone().requires_grad_() for part in weights.parts().values()]
            exact = torch.autograd.grad(loss(Attention(*leaves), tokens, classes, loops), leaves)
            found = looped_attention.gradients(weights, tokens, classes, loops).parts().values()
            errors += [float((a.sum(0) - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    return worst(errors, 1e-10, "T = 1 to 6, against autograd")


def _growth_is_bounded() -> Finding:
    draw, excess = cases(601), []
    while len(excess) < 200:
        weights, loops = drawn(draw, 10 ** draw.uniform(-1.2, -0.4)), int(draw.integers(1, 7))
        tokens = normal(draw, 1, 4, 5) / 2
        norms = [torch.linalg.matrix_norm(part, 2) for part in (weights.value, weights.key.T @ weights.query, tokens[0])]
        if float(2 * loops * norms[0] * norms[1] * norms[2] ** 2) < 1:
            bound = looped_attention.growth(weights, tokens, loops).states
            last = looped_attention.states(weights, tokens, loops)[-1][0]
            excess.append(float(torch.linalg.matrix_norm(last, 2) / norms[2]) / bound - 1)
    return worst(excess, 1e-10)


def _certificates_hold() -> Finding:
    draw, excess, tried = cases(602), [], 0
    while len(excess) < 200 and tried < 20000:
        tried += 1
        weights, tokens, loops = drawn(draw, 10 ** draw.uniform(-1.5, -0.7)), normal(draw, 4, 5) / 2, int(draw.integers(2, 6))
        norms = [torch.linalg.matrix_norm(part, 2) for part in (weights.value, weights.key.T @ weights.query, tokens)]
        if float(2 * loops * norms[0] * norms[1] * norms[2] ** 2) < 1:
            found = alignment.certificate(weights, tokens, 0, loops)
            if all(condition.held for condition in found.conditions):
                excess.append(found.bound - found.cosine)
    return worst(excess, 1e-9, f"{len(excess)} certificates")


def _kernel_condition_decides() -> Finding:
    draw, wrong, applied = cases(603), [], 0
    while len(wrong) < 400:
        root = normal(draw, 4, int(draw.integers(2, 9)))
        matrix, label = root @ root.T, int(draw.integers(0, 4))
        condition = alignment.kernel_condition(matrix, label)
        p, q = (torch.from_numpy(draw.dirichlet(np.full(4, 0.2), 400)) for _ in range(2))
        corners = torch.eye(4, dtype=torch.float64)
        p, q = torch.cat([p, corners.repeat(4, 1)]), torch.cat([q, corners.repeat_interleave(4, 0)])
        p[:, label] -= 1
        q[:, label] -= 1
        least = float(((p @ matrix) * q).sum(1).min())
        wrong.append(float(condition.held != (least >= -1e-9)))
        applied += condition.held
    return worst(wrong, 0, f"held for {applied} of {len(wrong)} kernels")


def _small_weights_scale_by_loops() -> Finding:
    draw, errors = cases(604), []
    for loops in (2, 4, 8):
        for _ in range(10):
            weights, tokens = drawn(draw, 0.02), normal(draw, 4, 4, 5)
            classes = torch.from_numpy(draw.integers(0, 3, 4))
            pair = [looped_attention.gradients(weights, tokens, classes, count) for count in (loops, 1)]
            found = alignment.alignment(*pair)
            errors += [abs(found[name].ratio / loops - 1) for name in ("key", "query", "value")]
            errors += [1 - found[name].batch for name in ("key", "query", "value")]
    return worst(errors, 2e-2, "||g_T|| / (T ||g_1||) and cosines at scale 0.02")


def opposed_gradients() -> Finding:
    found = counterexamples.opposed_gradients()
    words = "largest inner product at T = 2, 3, 4: " + ", ".join(f"{number:.4f}" for number in found)
    return Finding(3, max(found), -0.05, words)


def opposed_share() -> Finding:
    draw = cases(605)
    tokens = torch.linalg.qr(normal(draw, 6, 6))[0] + 0.05 * normal(draw, 6, 6)
    share = counterexamples.opposed_share(normal(draw, 400, 4, 6), tokens)
    return Finding(400, -share, -1e-9, f"<g_K> < 0 for {100 * share:.1f} % of heads")


def opposed_batch() -> Finding:
    found = counterexamples.opposed_batch()
    errors = [abs(a - b) for a, b in zip(found, (1, 1, -1, -0.0115, 0.0127), strict=True)]
    return Finding(1, max(errors), 3e-4, "cosines and sums: " + ", ".join(f"{number:.4f}" for number in found))


def _gauss_newton_obeys_the_square_law() -> Finding:
    draw, errors, medians = cases(606), [], []
    for loops in (2, 4):
        for _ in range(5):
            weights, tokens = drawn(draw, 0.03), normal(draw, 20, 4, 5) / 2
            pair = [scaling.gauss_newton(weights, tokens, count) for count in (loops, 1)]
            found = scaling.spectrum_ratios(torch.linalg.eigvalsh(pair[0]), torch.linalg.eigvalsh(pair[1]), loops)
            errors += [max(0.0, 1 - float(found.values.min())), max(0.0, float(found.values.max()) / loops**2 - 1)]
            inner = [torch.linalg.eigvalsh(matrix[:40, :40])[-20:] for matrix in pair]
            medians.append(float((inner[0] / inner[1]).median()) / loops**2)
            errors.append(abs(medians[-1] - 1))
    return worst(errors, 2e-2, f"attention block's median ratio over T^2 {np.median(medians):.4f}")


def _rescaled_single_runs_as_looped() -> Finding:
    draw, loops, rate = cases(607), 4, 0.05
    tokens, classes = normal(draw, 16, 4, 5) / 2, torch.from_numpy(draw.integers(0, 3, 16))
    weights = drawn(draw, 0.02)
    control = scaling.rescaled_single(weights, loops, rate)
    ends = []
    plans = ((weights, loops, rate, rate), (control.weights, 1, control.rate, control.value_rate), (weights, 1, rate, rate))
    for here, count, step, value_step in plans:
        for _ in range(60):
            slope = looped_attention.gradients(here, tokens, classes, count).parts()
            steps = {name: value_step if name == "value" else step for name in slope}
            here = Attention(**{name: part - steps[name] * slope[name].mean(0) for name, part in here.parts().items()})
        ends.append(float(loss(here, tokens, classes, count)) / 16)
    words = f"losses after 60 steps: Looped {ends[0]:.8f}, rescaled Single {ends[1]:.8f}, Single {ends[2]:.8f}"
    return Finding(1, abs(ends[0] - ends[1]), 1e-6, words)


STATEMENTS = (
    Statement("6.1", "gradients of linear looped attention by the reverse sweep", "ours", _gradients_are_exact),
    Statement("6.2", "states grow at most by (1 - 2 a T)^(-1/2)", "ours", _growth_is_bounded),
    Statement("6.3", "theorem 3': cosine with the first-order direction at least sqrt(1 - zeta^2)", "repaired", _certificates_hold),
    Statement("6.4", "u_T^T K u_1 >= 0 exactly under K_yy + K_ij >= K_iy + K_jy", "repaired", _kernel_condition_decides),
    Statement("6.5", "small weights: Looped's gradient is T times Single's", "as stated", _small_weights_scale_by_loops),
    Statement(
        "6.6", "Gauss-Newton eigenvalues of Looped lie in [1, T^2] times Single's", "false", _gauss_newton_obeys_the_square_law
    ),
    Statement("6.7", "Single at T W_V with step T^2 eta on W_V runs as Looped does", "ours", _rescaled_single_runs_as_looped),
    Statement("CE-A", "theorem 3: all four inner products negative", "false", opposed_gradients),
    Statement("CE-B", "theorem 3: negative with orthonormal tokens and identity weights", "false", opposed_share),
    Statement("CE-C", "theorem 3: every sample agrees, the batch does not", "false", opposed_batch),
)
