"""Training of one run: config, model, updates, checkpoints and records."""
