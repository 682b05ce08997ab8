"""Figures and page of the algorithmic tasks."""
