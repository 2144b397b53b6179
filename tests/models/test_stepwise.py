"""Modules that change once a step: the kept module changes, and the computing copy gets its buffers."""

import torch
from torch import Tensor, nn

from chiasm.models.stepwise import Stepwise, finish_step


class Counter(Stepwise):
    """Counts the rows of a step."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.long))
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return x

    def finish_step(self, computed: Stepwise) -> None:
        assert isinstance(computed, Counter)
        self.total += computed.rows
        computed.rows = 0


def test_the_computing_copy_collects_and_gets_the_buffers() -> None:
    """Guards against buffers of the copy that stay behind, such as a temperature's step."""
    kept, computing = nn.Sequential(nn.Linear(2, 2), Counter()), nn.Sequential(nn.Linear(2, 2), Counter())
    for _ in range(2):
        computing(torch.zeros(3, 2))
        computing(torch.zeros(4, 2))
        finish_step(kept, computing)
    assert int(kept[1].total) == int(computing[1].total) == 14 and computing[1].rows == kept[1].rows == 0


def test_one_model_is_both() -> None:
    """Guards against a module that is finished twice, or copied onto itself."""
    model = nn.Sequential(Counter())
    model(torch.zeros(3, 2))
    finish_step(model, model)
    assert int(model[0].total) == 3
