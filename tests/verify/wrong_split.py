"""Wrong formulas for the statements of section 2."""

from wrong import changed

from thalweg.landscape import gauge, noise, sweep, threshold, valley

WRONG = {
    "2.1": (threshold, "log_gap", changed(threshold.log_gap, above=lambda k: k - 1)),
    "2.2": (noise, "noise_floor", lambda *a, f=noise.noise_floor, **k: f(*a, **k, margin=0.8)),
    "2.3": (threshold, "marchenko_pastur", lambda values, samples, f=threshold.marchenko_pastur: f(values, 3 * samples)),
    "2.4": (sweep, "sweep", changed(sweep.sweep, kappa=lambda kappa: kappa + 2)),
    "2.5": (valley, "classify_shape", lambda shape, *a, f=valley.classify_shape: f(shape, 1000.0, 2000.0)),
    "2.6": (gauge, "balance", changed(gauge.balance, key=lambda weight: 1.001 * weight)),
    "2.7": (noise, "sandwich", changed(noise.sandwich, low=lambda low: low + 1)),
}
