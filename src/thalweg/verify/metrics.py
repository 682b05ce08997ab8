"""Checks of section 7: entropy, mutual information, phases of a run."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import NegativeMIWarning
from thalweg.landscape import entropy, information, phases, similarity
from thalweg.landscape.information import SortedPairsWarning
from thalweg.verify.statement import Finding, Statement, cases, errors_within, normal, rotation

_ORDERS = (0.0, 0.5, 0.95, 1.0, 1.05, 2.0, 5.0, math.inf)
"""Orders of the Renyi entropies, ascending."""


def _entropy_of_every_order() -> Finding:
    """Four orders with a simple formula against that formula; over all orders the entropy must not rise."""
    rng, errors = cases(700), []
    for _ in range(100):
        lam = normal(rng, int(rng.integers(2, 60))) ** 3
        p = (lam.abs() / lam.abs().sum()).numpy()
        # Hartley, Shannon, collision and min-entropy.
        stated = (math.log(len(p)), -(p * np.log(p)).sum(), -np.log((p**2).sum()), -np.log(p.max()))
        entropies = [entropy.matrix_entropy(lam, order).value for order in _ORDERS]
        errors += [abs(entropies[_ORDERS.index(order)] - value) for order, value in zip((0, 1, 2, math.inf), stated, strict=True)]
        errors.append(float(np.diff(entropies).max()))
    return errors_within(errors, 1e-10, "orders 0, 1, 2, infinity, and no rise in between")


def _gram_spectrum(gram: Tensor) -> float:
    """Shannon entropy of the normalised spectrum of a Gram matrix, independently of `landscape.information`."""
    root = gram.diagonal().sqrt()
    p = np.linalg.eigvalsh((gram / torch.outer(root, root)).numpy()) / len(gram)
    p = p[p > 1e-14]
    return float(-(p * np.log(p)).sum())


def _order_one_is_bounded() -> Finding:
    """Mutual information of random Gram matrices against 0 and against the smaller entropy."""
    rng, excess = cases(701), []
    for _ in range(150):
        n = int(rng.integers(2, 20))
        roots = [normal(rng, n, int(rng.integers(1, 6))) for _ in range(2)]
        grams = [root @ root.T for root in roots]
        shared = information.mutual_information(grams[0], grams[1])
        excess.append(max(-shared, shared - min(_gram_spectrum(gram) for gram in grams)))
    return errors_within(excess, 1e-9)


def _other_orders_may_be_negative() -> Finding:
    """Two groupings of 20 samples, whose mutual information is negative at orders 2 and 5."""
    # Two labellings that each keep one half of the samples distinct: dependent, yet negative at other orders.
    zeros, numbers = torch.zeros(10), torch.arange(1.0, 11.0)
    grams = [(v.unsqueeze(1) == v).double() for v in (torch.cat([zeros, numbers]), torch.cat([numbers, zeros]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeMIWarning)
        values = [information.mutual_information(grams[0], grams[1], order) for order in (1, 2, 5)]
    errors = [abs(value / stated - 1) for value, stated in zip(values, (0.6931, -0.4138, -1.2629), strict=True)]
    return Finding(1, max(errors), 1e-3, "I at orders 1, 2, 5: " + ", ".join(f"{value:.3f}" for value in values))


def _sorted_spectra_look_dependent() -> Finding:
    """Sorted eigenvalues of independent spectra have to look at least 90 % as dependent as a spectrum with itself."""
    rng = cases(703)
    first, second = normal(rng, 300), normal(rng, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SortedPairsWarning)
        independent, twice = information.sorted_pairs_information(first, second), information.sorted_pairs_information(first, first)
    gap = max(0.9 - independent.value / twice.value, independent.baseline / twice.value - 0.25, 0.0)
    details = (
        f"independent spectra {independent.value:.2f}, twice the same {twice.value:.2f}, "
        f"paired at random {independent.baseline:.2f}"
    )
    return Finding(1, gap, 0, details)


def _quadratic_forms_follow_the_cosine() -> Finding:
    """Covariance of 40,000 quadratic forms against 2 tr(AB); information has to fall as the cosine falls, to its baseline."""
    rng = cases(704)
    a, b = (m + m.T - 2 * m.trace() / 30 * torch.eye(30, dtype=torch.float64) for m in (normal(rng, 30, 30) for _ in range(2)))
    z, mixed = normal(rng, 40000, 30), a + b
    x, y = ((z @ m * z).sum(1) for m in (a, mixed))
    # The sample covariance of z^T A z and z^T (A + B) z, with its standard error.
    terms = (x - x.mean()) * (y - y.mean())
    score = abs(float(terms.mean()) - 2 * similarity.inner_product(a, mixed).value) / (float(terms.std()) / 200)
    q = rotation(rng, 30)
    # A rotated copy has the same spectrum as A, and shares nothing with it.
    turned = q @ a @ q.T
    pairs = [
        information.quadratic_form_information(a, m, 200) for m in (a + 0.1 * b, a + 0.5 * b, a + 2 * b, (turned + turned.T) / 2)
    ]
    values = [pair.value for pair in pairs]
    disorder = max(0.0, *(later - earlier for earlier, later in itertools.pairwise(values[:3])))
    details = "I " + ", ".join(f"{value:.2f}" for value in values) + f" (the last rotated), baseline {pairs[-1].baseline:.2f}"
    return errors_within([score / 4, 1e9 * disorder, abs(pairs[-1].z_score) / 4, 4 / max(pairs[0].z_score, 1e-9)], 1, details)


def _phases_seldom_come_from_noise() -> Finding:
    """Share of AR(1) noise that is divided into phases, and share of planted ramps whose three phases are found."""
    rng, n = cases(705), 80
    noise_runs = [phases.phases(_ar_noise(rng, n, 0.5), most=2, replicates=99, seed=seed) for seed in range(120)]
    false = float(np.mean([len(run.breaks) > 0 for run in noise_runs]))
    # A planted run: collapse, diversification, stable.
    ramp = torch.cat([torch.linspace(0, -3, 25), torch.linspace(-3, -1, 30), torch.full((25,), -1.0)]).double()
    runs = phases.phases_over_seeds([ramp + 0.1 * _ar_noise(rng, n, 0.5) for _ in range(8)], replicates=99)
    recovered = float(np.mean([run.labels == phases.THREE for run in runs.runs]))
    gap = max(false - 0.07, 2 / 3 - recovered, 0.0 if runs.three_phases else 1.0, 0.0)
    return Finding(128, gap, 0, f"broken noise {false:.2f}, recovered ramps {recovered:.2f}")


def _ar_noise(rng: np.random.Generator, n: int, correlation: float) -> Tensor:
    """Draw stationary AR(1) noise of variance 1 from the Cholesky factor of its covariance."""
    places = np.arange(n)
    root = np.linalg.cholesky(correlation ** np.abs(places[:, None] - places))
    return torch.from_numpy(root @ rng.standard_normal(n))


STATEMENTS = (
    Statement("7.1", "Renyi entropies have their known limits and do not rise with the order", "ours", _entropy_of_every_order),
    Statement("7.2", "mutual information of order 1: 0 <= I <= min(S_A, S_B)", "ours", _order_one_is_bounded),
    Statement("7.3", "mutual information of other orders may be negative", "ours", _other_orders_may_be_negative),
    Statement(
        "7.4", "paired sorted eigenvalues make independent spectra appear dependent", "false", _sorted_spectra_look_dependent
    ),
    Statement(
        "7.5",
        "quadratic forms have covariance 2 tr(AB); their information follows the cosine",
        "ours",
        _quadratic_forms_follow_the_cosine,
    ),
    Statement(
        "7.6", "AR(1) noise rarely has phases; a planted ramp has its three phases", "repaired", _phases_seldom_come_from_noise
    ),
)
