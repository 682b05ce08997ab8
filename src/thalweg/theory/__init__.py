"""The statements of the theory as functions: closed forms with their conditions, bounds from both sides, and counterexamples.

docs/theory.md lists the statements by number; `thalweg verify` checks each of them numerically.
"""
