"""The shape of the loss around a point and along a run."""
