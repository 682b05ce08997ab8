"""The figure of the compute frontier."""
