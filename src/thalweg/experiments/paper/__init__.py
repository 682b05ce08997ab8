"""The study of the paper: Single, Looped and SHIFT, and a verdict on each claim."""
