"""Datasets of generated examples with known ground truth."""
