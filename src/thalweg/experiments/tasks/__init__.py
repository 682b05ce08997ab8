"""Algorithmic tasks: length generalisation, and SHIFT along the lengths."""
