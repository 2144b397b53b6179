"""Integers of eight bits and their scales by a slow loop."""

import pytest
import torch

from chiasm.models.rounded_weights import rounded


def test_rounding_by_a_slow_loop() -> None:
    """Each row in multiples of its largest number / 127; zeros stay zeros."""
    weight = torch.randn(5, 7, dtype=torch.float64)
    weight[3] = 0
    values, scale = rounded(weight)
    for row in range(5):
        step = max(abs(float(one)) for one in weight[row]) / 127 or 1.0
        assert float(scale[row]) == pytest.approx(step)
        assert values[row].tolist() == [round(float(one) / step) for one in weight[row]]
