"""Checks of section 6: gradients of Single and Looped, the T^2 law, the counterexamples to theorem 3.

Shape letters: d width, n tokens, C classes, S samples, T loops.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thalweg.theory import alignment, counterexamples, looped_attention, scaling
from thalweg.theory.looped_attention import Attention, attention
from thalweg.verify.statement import Finding, Statement, cases, errors_within, normal


def drawn(rng: np.random.Generator, scale: float, width: int = 4, classes: int = 3) -> Attention:
    """Draw normal weights of linear attention with query width 3, times a scale."""
    parts = [scale * normal(rng, *shape) for shape in ((3, width), (3, width), (width, width), (classes, width))]
    return attention(*parts)


def loss(weights: Attention, tokens: Tensor, classes: Tensor, loops: int) -> Tensor:
    """Compute the summed loss with einsum, independently of `theory.looped_attention`; autograd differentiates it."""
    state = tokens
    for _ in range(loops):
        scores = torch.einsum("sdi,md,me,sej->sij", state, weights.key, weights.query, state)
        state = state + torch.einsum("de,sei,sij->sdj", weights.value, state, scores)
    return torch.nn.functional.cross_entropy(state[:, :, -1] @ weights.head.T, classes, reduction="sum")


def _gradients_are_exact() -> Finding:
    """The reverse sweep against autograd, for 1 to 6 loops."""
    rng, errors = cases(600), []
    for loops in (1, 2, 3, 4, 5, 6):
        for _ in range(10):
            weights, tokens = drawn(rng, 0.3), normal(rng, 5, 4, 6) / 2
            classes = torch.from_numpy(rng.integers(0, 3, 5))
            # The reference: autograd through the independent loss.
            leaves = [part.clone().requires_grad_() for part in weights.parts().values()]
            exact = torch.autograd.grad(loss(Attention(*leaves), tokens, classes, loops), leaves)
            by_sweep = looped_attention.gradients(weights, tokens, classes, loops).parts().values()
            errors += [float((a.sum(0) - b).norm() / b.norm()) for a, b in zip(by_sweep, exact, strict=True)]
    return errors_within(errors, 1e-10, "T = 1 to 6, against autograd")


def _growth_is_bounded() -> Finding:
    """Norms of the last state against the bound, over random cases with ``2 a T < 1``."""
    rng, excess = cases(601), []
    while len(excess) < 200:
        weights, loops = drawn(rng, 10 ** rng.uniform(-1.2, -0.4)), int(rng.integers(1, 7))
        tokens = normal(rng, 1, 4, 5) / 2
        norms = [torch.linalg.matrix_norm(part, 2) for part in (weights.value, weights.key.T @ weights.query, tokens[0])]
        if float(2 * loops * norms[0] * norms[1] * norms[2] ** 2) < 1:
            bound = looped_attention.growth(weights, tokens, loops).states
            last = looped_attention.states(weights, tokens, loops)[-1][0]
            excess.append(float(torch.linalg.matrix_norm(last, 2) / norms[2]) / bound - 1)
    return errors_within(excess, 1e-10)


def _certificates_hold() -> Finding:
    """Measured cosine against its lower bound, over random cases in which both conditions hold."""
    rng, excess, attempts = cases(602), [], 0
    while len(excess) < 200 and attempts < 20000:
        attempts += 1
        weights, tokens, loops = drawn(rng, 10 ** rng.uniform(-1.5, -0.7)), normal(rng, 4, 5) / 2, int(rng.integers(2, 6))
        norms = [torch.linalg.matrix_norm(part, 2) for part in (weights.value, weights.key.T @ weights.query, tokens)]
        if float(2 * loops * norms[0] * norms[1] * norms[2] ** 2) < 1:
            certificate = alignment.certificate(weights, tokens, 0, loops)
            if all(condition.held for condition in certificate.conditions):
                excess.append(certificate.bound - certificate.cosine)
    return errors_within(excess, 1e-9, f"{len(excess)} certificates")


def _kernel_condition_decides() -> Finding:
    """The condition against the smallest value over many pairs of predictions, which include all corners of the simplex."""
    rng, wrong, applied = cases(603), [], 0
    while len(wrong) < 400:
        root = normal(rng, 4, int(rng.integers(2, 9)))
        matrix, label = root @ root.T, int(rng.integers(0, 4))
        condition = alignment.kernel_condition(matrix, label)
        # Random predictions of both models, mostly close to corners, and all pairs of corners.
        p, q = (torch.from_numpy(rng.dirichlet(np.full(4, 0.2), 400)) for _ in range(2))
        corners = torch.eye(4, dtype=torch.float64)
        p, q = torch.cat([p, corners.repeat(4, 1)]), torch.cat([q, corners.repeat_interleave(4, 0)])
        # u = softmax(z) - e_y.
        p[:, label] -= 1
        q[:, label] -= 1
        least = float(((p @ matrix) * q).sum(1).min())
        wrong.append(float(condition.held != (least >= -1e-9)))
        applied += bool(condition.held)
    return errors_within(wrong, 0, f"held for {applied} of {len(wrong)} kernels")


def _small_weights_scale_by_loops() -> Finding:
    """Ratio of the gradients' norms over T, and their cosine, at weights of scale 0.02."""
    rng, errors = cases(604), []
    for loops in (2, 4, 8):
        for _ in range(10):
            weights, tokens = drawn(rng, 0.02), normal(rng, 4, 4, 5)
            classes = torch.from_numpy(rng.integers(0, 3, 4))
            pair = [looped_attention.gradients(weights, tokens, classes, count) for count in (loops, 1)]
            alignments = alignment.alignment(*pair)
            errors += [abs(alignments[name].ratio / loops - 1) for name in ("key", "query", "value")]
            errors += [1 - alignments[name].batch for name in ("key", "query", "value")]
    return errors_within(errors, 2e-2, "||g_T|| / (T ||g_1||) and cosines at scale 0.02")


def opposed_gradients() -> Finding:
    """CE-A: the largest of the four inner products has to be below -0.05 for T = 2, 3 and 4."""
    products = counterexamples.opposed_gradients()
    details = "largest inner product at T = 2, 3, 4: " + ", ".join(f"{number:.4f}" for number in products)
    return Finding(3, max(products), -0.05, details)


def opposed_share() -> Finding:
    """CE-B: some of 400 random heads have to give a negative inner product of the key's gradients."""
    rng = cases(605)
    tokens = torch.linalg.qr(normal(rng, 6, 6))[0] + 0.05 * normal(rng, 6, 6)
    share = counterexamples.opposed_share(normal(rng, 400, 4, 6), tokens)
    return Finding(400, -share, -1e-9, f"<g_K> < 0 for {100 * share:.1f} % of heads")


def opposed_batch() -> Finding:
    """CE-C: the cosines of both samples, that of their sum, and the two sums, against the documented digits."""
    figures = counterexamples.opposed_batch()
    errors = [abs(a - b) for a, b in zip(figures, (1, 1, -1, -0.0115, 0.0127), strict=True)]
    return Finding(1, max(errors), 3e-4, "cosines and sums: " + ", ".join(f"{number:.4f}" for number in figures))


def _gauss_newton_obeys_the_square_law() -> Finding:
    """Ratios of ordered eigenvalues against [1, T^2], and the median ratio of the attention block against T^2."""
    rng, errors, medians = cases(606), [], []
    for loops in (2, 4):
        for _ in range(5):
            weights, tokens = drawn(rng, 0.03), normal(rng, 20, 4, 5) / 2
            pair = [scaling.gauss_newton(weights, tokens, count) for count in (loops, 1)]
            ratios = scaling.spectrum_ratios(torch.linalg.eigvalsh(pair[0]), torch.linalg.eigvalsh(pair[1]), loops)
            errors += [max(0.0, 1 - float(ratios.values.min())), max(0.0, float(ratios.values.max()) / loops**2 - 1)]
            # Attention block: 40 of the parameters; its largest 20 eigenvalues have to scale by T^2.
            inner = [torch.linalg.eigvalsh(matrix[:40, :40])[-20:] for matrix in pair]
            medians.append(float((inner[0] / inner[1]).median()) / loops**2)
            errors.append(abs(medians[-1] - 1))
    return errors_within(errors, 2e-2, f"attention block's median ratio over T^2 {np.median(medians):.4f}")


def _rescaled_single_runs_as_looped() -> Finding:
    """Sixty steps of Looped and of its rescaled Single have to end at the same loss."""
    rng, loops, rate = cases(607), 4, 0.05
    tokens, classes = normal(rng, 16, 4, 5) / 2, torch.from_numpy(rng.integers(0, 3, 16))
    weights = drawn(rng, 0.02)
    control = scaling.rescaled_single(weights, loops, rate)
    ends = []
    plans = ((weights, loops, rate, rate), (control.weights, 1, control.rate, control.value_rate), (weights, 1, rate, rate))
    # Looped, its rescaled Single, and plain Single, each by gradient descent.
    for model, count, step, value_step in plans:
        for _ in range(60):
            slope = looped_attention.gradients(model, tokens, classes, count).parts()
            steps = {name: value_step if name == "value" else step for name in slope}
            model = Attention(**{name: part - steps[name] * slope[name].mean(0) for name, part in model.parts().items()})
        ends.append(float(loss(model, tokens, classes, count)) / 16)
    details = f"losses after 60 steps: Looped {ends[0]:.8f}, rescaled Single {ends[1]:.8f}, Single {ends[2]:.8f}"
    return Finding(1, abs(ends[0] - ends[1]), 1e-6, details)


STATEMENTS = (
    Statement("6.1", "gradients of linear looped attention by the reverse sweep", "ours", _gradients_are_exact),
    Statement("6.2", "for 2 a T < 1 states grow at most by (1 - 2 a T)^(-1/2)", "ours", _growth_is_bounded),
    Statement("6.3", "theorem 3': cosine with the first-order direction at least sqrt(1 - zeta^2)", "repaired", _certificates_hold),
    Statement("6.4", "u_T^T K u_1 >= 0 if and only if K_yy + K_ij >= K_iy + K_jy", "repaired", _kernel_condition_decides),
    Statement("6.5", "for small weights Looped's gradient is T times Single's", "as stated", _small_weights_scale_by_loops),
    Statement(
        "6.6", "Gauss-Newton eigenvalues of Looped lie in [1, T^2] times Single's", "false", _gauss_newton_obeys_the_square_law
    ),
    Statement("6.7", "Single at T W_V with step T^2 eta on W_V trains like Looped", "ours", _rescaled_single_runs_as_looped),
    Statement("CE-A", "counterexample to theorem 3: all four inner products are negative", "false", opposed_gradients),
    Statement("CE-B", "counterexample to theorem 3: negative with orthonormal tokens and identity weights", "false", opposed_share),
    Statement("CE-C", "counterexample to theorem 3: every sample has cosine +1, the batch has -1", "false", opposed_batch),
)
