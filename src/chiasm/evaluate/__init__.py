"""Evaluation: scores with intervals and blind views, calibration, comparison of runs, and the verdict on a run."""
