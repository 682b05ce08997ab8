"""Staged training: numbers in, number of passes out. Knows no model."""
