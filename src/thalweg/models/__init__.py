"""Looped transformers: single-device code that knows neither ranks nor the schedule of the training."""
