"""Measurements of the loss landscape: spectra, slices, valleys and phases, around a point and along a run."""
