"""For each statement of `verify.second_order` a formula that is wrong."""

from wrong import changed, scaled

from thalweg.theory import hopping_force, momentum

WRONG = {
    "3.9": (hopping_force, "cubic_force", changed(hopping_force.cubic_force, vector=lambda vector: 1.01 * vector)),
    "3.10": (hopping_force, "curvature_gradient", scaled(hopping_force.curvature_gradient)),
    "3.11": (momentum, "heavy_ball", changed(momentum.heavy_ball, total=lambda total: 1.01 * total)),
    "3.12": (momentum, "stable_range", scaled(momentum.stable_range)),
    "3.13": (momentum, "preconditioned_limit", changed(momentum.preconditioned_limit, vector=lambda vector: 1.01 * vector)),
}
