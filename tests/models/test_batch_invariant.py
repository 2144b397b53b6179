"""What is computed for a row does not depend on the rows beside it, to the last bit."""

import copy

import pytest
import torch
from torch import nn

from chiasm.models.batch_invariant import BatchInvariantLinear, make_batch_invariant


def test_layers_stay_what_they_were() -> None:
    """Guards against a swap that loses weights, names, or the ordinary path of training."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 5, bias=False))
    plain = copy.deepcopy(model)
    make_batch_invariant(model)
    assert [type(layer) for layer in model] == [BatchInvariantLinear, nn.GELU, BatchInvariantLinear]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    x = torch.randn(3, 24)
    assert torch.equal(model(x), plain(x))
    model.eval()
    torch.testing.assert_close(model(x), plain(x))
    for shape in ((24,), (0, 24), (2, 0, 24), (2, 3, 24)):
        assert model(torch.randn(*shape)).shape == (*shape[:-1], 5)
    assert copy.deepcopy(model)[0].weight is not model[0].weight


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(24, 1), (128, 100), (128, 64), (384, 384), (512, 512), (1280, 16), (1536, 384), (2048, 512)],
)
def test_few_rows_are_computed_as_many_are(inputs: int, outputs: int, threads: int) -> None:
    """Guards against the other rounding of small matrix products, which plain layers show on the machines we know.

    Few rows are fewer than 16 on an Intel Xeon, and up to 300 where two threads share the sums of long rows.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        layer = nn.Linear(inputs, outputs).eval()
        plain = copy.deepcopy(layer)
        make_batch_invariant(layer)
        x = torch.randn(1200, inputs)
        with torch.no_grad():
            whole = layer(x)
            torch.testing.assert_close(whole, plain(x))
            for rows in (*range(1, 40), 57, 64, 100, 130, 256, 300, 511, 513, 1025):
                for start in (0, 5, 1200 - rows):
                    assert torch.equal(layer(x[start : start + rows].clone()), whole[start : start + rows]), rows
    finally:
        torch.set_num_threads(before)
