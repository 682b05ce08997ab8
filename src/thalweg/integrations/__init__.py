"""Loops, SHIFT and landscapes in models and trainers of other libraries; each file needs the extra that its first lines name."""
