"""Many runs: what an experiment is, the queue of its runs, and numbers over seeds."""
