"""Figures and one page, from records only."""
