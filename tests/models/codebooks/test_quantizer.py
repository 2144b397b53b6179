"""What all quantisers hold: codes and vectors belong together in every number format, and the gradient passes."""

import math

import pytest
import torch
from torch import Tensor

from chiasm.models.codebooks import QUANTIZERS, Quantizer, QuantizerConfig
from chiasm.models.codebooks.color_cell import ColorCellConfig
from chiasm.models.codebooks.fsq import ScalarConfig
from chiasm.models.codebooks.gumbel import GumbelConfig
from chiasm.models.codebooks.quantizer import as_stored, nearest, nearest_exactly, straight_through
from chiasm.models.codebooks.vector import VectorConfig

SMALL: dict[str, QuantizerConfig] = {
    "vector": VectorConfig(codes=40, dim=6),
    "gumbel": GumbelConfig(codes=40, dim=6),
    "fsq": ScalarConfig(levels=(8, 5, 2, 3)),
    "color_cell": ColorCellConfig(patterns=30, colors=7),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(kind: str) -> Quantizer:
    torch.manual_seed(0)
    quantizer = SMALL[kind].build(2)
    quantizer.start(numbers(200, quantizer.dim, seed=1), seed=3)
    return quantizer


def all_ids(quantizer: Quantizer) -> Tensor:
    """The codes of every vector that the quantiser has."""
    ends = torch.tensor(quantizer.part_codes).cumsum(0).tolist()
    parts = [torch.arange(end - count, end) for end, count in zip(ends, quantizer.part_codes, strict=True)]
    return torch.cartesian_prod(*parts).flatten()


def test_every_quantiser_is_listed() -> None:
    """Guards against a new quantiser that nobody put through these checks."""
    assert {name: type(config) for name, config in SMALL.items()} == QUANTIZERS


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_every_code_is_found_again_from_its_vector(kind: str) -> None:
    """Guards against codes that are lost in the feature cache (float16), or where training computes in bfloat16."""
    quantizer = started(kind)
    ids = all_ids(quantizer)
    vectors = quantizer.vectors(ids)
    assert sum(quantizer.part_codes) == quantizer.codes
    assert vectors.shape == (math.prod(quantizer.part_codes), quantizer.dim) and vectors.dtype == torch.float32
    for stored in (vectors, vectors.half().float(), vectors.bfloat16().float(), vectors.half().bfloat16().float()):
        assert torch.equal(quantizer.ids_of(stored), ids)
    low = started(kind).to(torch.bfloat16)
    assert torch.equal(low.ids_of(vectors), ids) and torch.equal(low.vectors(ids), vectors)


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_the_values_are_the_codes_vectors_and_the_gradient_reaches_the_latents(kind: str) -> None:
    """Guards against z + (q - z), which is not q to the last bit, and against a gradient that rounding stops."""
    quantizer = started(kind).eval()
    latents = numbers(50, quantizer.dim, seed=2).requires_grad_()
    values, ids, penalty = quantizer(latents, 0)
    assert torch.equal(values, quantizer.vectors(ids)) and torch.equal(ids, quantizer.ids(latents))
    assert penalty.shape == (50,) and bool((penalty >= 0).all())
    assert quantizer.shown(values).shape == (50, quantizer.shown_dim)
    if not SMALL[kind].reads_pixels:
        (gradient,) = torch.autograd.grad((values * numbers(50, quantizer.dim, seed=4)).sum(), latents)
        assert gradient.abs().sum() > 0


def test_the_straight_through_gradient_is_that_of_the_output() -> None:
    """Guards against a factor, or a part of the gradient that goes another way."""
    latents, values, weight = numbers(5, 3).requires_grad_(), numbers(5, 3, seed=1), numbers(5, 3, seed=2)
    passed = straight_through(latents, values)
    assert torch.equal(passed, values)
    (gradient,) = torch.autograd.grad((passed * weight).sum(), latents)
    assert torch.equal(gradient, weight)


def test_stored_vectors_are_numbers_of_bfloat16_with_a_whole_gradient() -> None:
    """Guards against a rounding that has no gradient."""
    book = numbers(5, 3).requires_grad_()
    stored = as_stored(book)
    assert torch.equal(stored, stored.bfloat16().float())
    (gradient,) = torch.autograd.grad(stored.sum(), book)
    assert torch.equal(gradient, torch.ones(5, 3))


def test_the_nearest_row_is_that_of_a_slow_loop_and_the_first_of_equal_ones() -> None:
    """Guards against a lost term of the squared distance."""
    vectors, book = numbers(30, 4), numbers(9, 4, seed=1)
    expected = [min(range(9), key=lambda k: float((one - book[k]).double().square().sum())) for one in vectors]
    assert nearest(vectors, book).tolist() == nearest_exactly(vectors, book).tolist() == expected
    twice = torch.cat([book, book])
    assert torch.equal(nearest(vectors, twice), torch.tensor(expected))


def test_rows_that_differ_little_are_told_apart() -> None:
    """Guards against cancellation: far from zero, |e|^2 - 2 z e loses what tells two codes apart."""
    book = torch.tensor([[1000.0, 1.0], [1000.0, 1.001], [1000.0, 1.002]])
    assert nearest_exactly(book, book).tolist() == [0, 1, 2]
