"""Figures of the landscape along a run."""
