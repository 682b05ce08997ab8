"""Something to learn: sources, and batches indexed by (step, rank, seed)."""
