"""Comparing metrics with those of another commit, by rules."""
