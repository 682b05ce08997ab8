from wrong import changed, scaled

from thalweg.theory import certificate, dominance, horizon, taylor

WRONG = {
    "4.6": (dominance, "sign_flips", changed(dominance.sign_flips, p_value=lambda p: p / 4)),
    "5.1": (taylor, "error_from_residuals", scaled(taylor.error_from_residuals)),
    "5.2": (taylor, "follow", changed(taylor.follow, river_bound=lambda b: b / 20)),
    "5.3": (horizon, "prior_bound", changed(horizon.prior_bound, bound=lambda b: b / 3)),
    "5.4": (certificate, "loss_bound", changed(certificate.loss_bound, bound=lambda b: b / 20)),
    "5.5": (certificate, "force_bound", changed(certificate.force_bound, bound=lambda b: b / 5)),
    "5.6": (certificate, "certify", changed(certificate.certify, verdict=lambda _: "certified")),
}
