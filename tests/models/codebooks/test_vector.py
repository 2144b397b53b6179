"""Moving averages of a codebook, and the replacement of dead codes, against a slow loop."""

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.models.codebooks.vector import VectorConfig, VectorQuantizer


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(codes: int = 5, dead_after: int = 0, decay: float = 0.9) -> VectorQuantizer:
    found = VectorQuantizer(VectorConfig(codes=codes, dim=2, decay=decay, dead_after=dead_after))
    found.start(numbers(100, 2, seed=9), seed=0)
    return found


def test_codes_follow_the_published_moving_averages() -> None:
    """Guards against sums and sizes that decay apart: N and S are averaged by a loop in float64, the code is S / N."""
    tested = quantizer()
    book, size = tested.book.detach().double().clone(), tested.size.double().clone()
    total = book * size[:, None]
    for step in range(20):
        latents = numbers(30, 2, seed=step) + 0.05 * step
        # The loop chooses by the tested codes, so that a near tie cannot part the two.
        chosen = torch.cdist(latents, tested.book.detach()).argmin(1)
        tested.finish_step(latents, step)
        for code in range(5):
            mine = latents[chosen == code].double()
            size[code] = 0.9 * size[code] + 0.1 * len(mine)
            total[code] = 0.9 * total[code] + 0.1 * mine.sum(0)
        assert torch.allclose(tested.size.double(), size, atol=1e-4)
        assert torch.allclose(tested.book.detach().double(), total / size[:, None], atol=1e-4)


def test_a_code_that_nobody_chooses_stays_and_is_replaced_when_it_is_dead() -> None:
    """Guards against codes that drift to zero, and codes that are replaced too early, too late, or while used."""
    tested = quantizer(dead_after=4)
    tested.unused.zero_()
    tested.book.data[2] = torch.tensor([1000.0, 1000.0])
    near = [0, 1, 3, 4]
    for step in range(3):
        tested.finish_step(tested.book.detach()[near].clone(), step)
        assert tested.book[2].tolist() == [1000, 1000] and tested.unused.tolist() == [0, 0, step + 1, 0, 0]
    far = torch.tensor([[-50.0, 50.0]])
    tested.finish_step(torch.cat([tested.book.detach()[near], far]), 3)
    # Of all vectors that one alone is far from its code; the code that it chose has moved a little towards it.
    assert torch.equal(tested.book[2].detach(), far[0]) and tested.unused[2] == 0 and tested.size[2] == 1


def test_where_every_vector_has_its_code_none_is_replaced() -> None:
    """Guards against a dead code that is put on top of a living one."""
    tested = quantizer(dead_after=1)
    tested.book.data[2] = torch.tensor([1000.0, 1000.0])
    for step in range(3):
        tested.finish_step(tested.book.detach()[[0, 1, 3, 4]].clone(), step)
    assert tested.book[2].tolist() == [1000, 1000]


def test_few_codes_are_replaced_in_a_step() -> None:
    """Guards against all spare codes that go to the images of one step."""
    tested = quantizer(codes=300, dead_after=1)
    before = tested.book.detach().clone()
    tested.unused.fill_(5)
    tested.finish_step(numbers(2, 2, seed=1) + 30, 0)
    assert int((tested.book.detach() != before).any(1).sum()) <= 3 + 2  # three replaced, two moved


def test_the_commitment_is_the_distance_to_the_code_and_moves_the_latents_alone() -> None:
    """Guards against beta on the wrong term, and a codebook that two rules move."""
    tested = quantizer()
    latents = numbers(7, 2, seed=3).requires_grad_()
    values, ids, penalty = tested(latents, 0)
    code = tested.vectors(ids)
    pairs = zip(latents.tolist(), code.tolist(), strict=True)
    expected = [0.25 * ((x[0] - e[0]) ** 2 + (x[1] - e[1]) ** 2) / 2 for x, e in pairs]
    assert penalty.tolist() == pytest.approx(expected, rel=1e-4)
    gradients = torch.autograd.grad(penalty.sum() + values.sum(), [latents, tested.book], allow_unused=True)
    assert gradients[0] is not None and torch.allclose(gradients[0], 0.25 * (latents - code) + 1, atol=1e-5)
    assert gradients[1] is None


def test_wrong_numbers_are_refused() -> None:
    """Guards against a decay of 1, with which no code ever moves."""
    for wrong in (VectorConfig(decay=1.0), VectorConfig(codes=1), VectorConfig(dim=0)):
        with pytest.raises(InputError, match=r"model\.image\.quantizer\."):
            wrong.check("model.image.quantizer")
