"""The landscape of a run, measured along its snapshots."""
