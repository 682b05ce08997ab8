"""Numerical checks of every statement of the theory, for the command `thalweg verify`."""
