"""The moving average of the weights in numbers."""

import pytest
import torch

from chiasm.train.execution.averaging import update_average


@pytest.mark.parametrize(("number", "decay"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (10_000, 0.999)])
def test_the_average_follows_its_formula(number: int, decay: float) -> None:
    """Guards against an average that is stuck at the first weights, has other names, or is not updated in place."""
    average = {"w": torch.tensor([1.0, -2.0])}
    kept = average["w"]
    update_average(average, {"w": torch.tensor([2.0, 2.0]), "other": torch.tensor([9.0])}, 0.999, number)
    assert kept is average["w"] and set(average) == {"w"}
    assert kept.tolist() == pytest.approx([decay * 1 + (1 - decay) * 2, decay * -2 + (1 - decay) * 2], abs=1e-6)
