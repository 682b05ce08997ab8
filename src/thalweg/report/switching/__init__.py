"""Figures and page of the ways to switch."""
