"""Predictions to honest numbers: pure metrics, intervals, the evaluator, and the report page."""
