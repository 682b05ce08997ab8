"""The statements of the theory as functions: closed forms with their conditions, bounds from both sides, counterexamples."""
