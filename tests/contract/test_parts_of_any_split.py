"""A contrast in several parts of several processes is that of one process with the whole batch."""

import copy

import pytest
import torch
from several_processes import together
from test_gradient_cache import CASES, averaged, built, cut, loss_and_gradient

from chiasm.core.distributed import all_reduce_gradients
from chiasm.train.parts import Step


@pytest.mark.parametrize("bounds", [[(0, 1, 3), (3, 5, 6)], [(0, 1, 2), (2, 5, 6)]])
@pytest.mark.parametrize("case", sorted(CASES))
def test_processes_with_parts_train_as_one_on_the_whole(case: str, bounds: list[tuple[int, ...]]) -> None:
    """Guards against cached gradients short by the number of processes, and a process that waits in the first pass."""
    pipeline, examples = built(case, dropout=0.0)
    average = averaged(pipeline, case)
    expected = loss_and_gradient(pipeline, cut(pipeline, examples, (0, 6)), average)
    shares = [cut(pipeline, examples, one) for one in bounds]

    def process(rank: int) -> dict[str, torch.Tensor]:
        model, values = copy.deepcopy(pipeline.model), []
        step = Step(pipeline.tasks, shares[rank], pipeline.device, torch.float64, True, True, ("step", 0, 3))
        for part in step.parts():
            losses = part(model, average)
            (losses["retrieval"] / len(shares[rank])).backward()
            values.append(losses["retrieval"].detach())
        all_reduce_gradients(model.parameters())
        found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        return found | {"loss": torch.stack(values).mean()}

    for found in together(2, process):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
