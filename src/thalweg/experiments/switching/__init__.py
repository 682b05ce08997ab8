"""Ways to switch from one pass to many, compared."""
