"""Wrong versions of section 8."""

from dataclasses import replace

from wrong import scaled

from thalweg.landscape import ablation, flips, geometry


def not_aligned(frames, block=False):
    return flips.AlignedFrames(frames, frames.new_zeros(len(frames)))


def off_the_floor(*args, run=ablation.ablation, **kwargs):
    """The verdict from bulk-only runs that start where the plain run does."""
    found = run(*args, **kwargs)
    return replace(found, bulk_on_floor=found.bulk_only)


WRONG = {
    "8.1": (flips, "aligned", not_aligned),
    "8.2": (flips, "driven_law", scaled(flips.driven_law)),
    "8.3": (flips, "deterministic_law", scaled(flips.deterministic_law)),
    "8.4": (geometry, "quadratic_tortuosity", scaled(geometry.quadratic_tortuosity)),
    "8.5": (ablation, "ablation", off_the_floor),
}
