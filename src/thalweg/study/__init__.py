"""Many runs: recipes, queue, measures and verdicts."""
