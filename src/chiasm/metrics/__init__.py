"""Scores with intervals: pure functions of arrays."""
