"""Wrong formulas for section 7."""

import numpy as np
from wrong import changed, scaled

from thalweg.landscape import entropy, information, phases, similarity


def unordered(first, second, f=information.sample_information):
    """The pairing at random that independent spectra deserve."""
    return f(first, second)


def white(draw, replicates, n, correlation, deviation):
    """Noise without correlation."""
    return np.reshape(deviation, (-1, 1)) * draw.standard_normal((replicates, n))


WRONG = {
    "7.1": (entropy, "matrix_entropy", changed(entropy.matrix_entropy, value=lambda s: 1.001 * s)),
    "7.2": (information, "mutual_information", scaled(information.mutual_information, 1.1)),
    "7.3": (information, "mutual_information", lambda a, b, order, f=information.mutual_information: f(a, b, 1.01)),
    "7.4": (information, "sorted_pairs_information", unordered),
    "7.5": (similarity, "inner_product", changed(similarity.inner_product, value=lambda trace: trace / 2)),
    "7.6": (phases, "correlated_noise", white),
}
