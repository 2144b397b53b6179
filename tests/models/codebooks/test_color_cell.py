"""Color cells: squares are taken apart into a pattern and colours, and put together again."""

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.models.codebooks.color_cell import LEAST_CONTRAST, ColorCellConfig, ColorCellQuantizer

SIDE = 4
AREA = SIDE**2


def quantizer(patterns: int = 8, colors: int = 6) -> ColorCellQuantizer:
    torch.manual_seed(0)
    found = ColorCellConfig(patterns=patterns, colors=colors).build(SIDE)
    assert isinstance(found, ColorCellQuantizer)
    return found


def squares(masks: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Squares float32 [m, 3 s^2] of two colours [m, 3], by bool masks [m, s^2]."""
    return torch.where(masks[:, None], inside[:, :, None], outside[:, :, None]).flatten(1)


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Masks with 1 to 15 pixels, and two colours each that are far from each other."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, AREA, (count, 1), generator=generator)
    masks = torch.rand(count, AREA, generator=generator).argsort(1).argsort(1) < sizes
    inside = torch.rand(count, 3, generator=generator) - 1
    return masks, inside, inside + 0.3 + 0.6 * torch.rand(count, 3, generator=generator)


def test_a_square_of_two_colours_is_put_together_again() -> None:
    """Guards against colours or pixels that change places."""
    patches = squares(*drawn(300))
    vectors = quantizer().split(patches)
    torch.testing.assert_close(quantizer().shown(vectors), patches)
    pattern = vectors[:, :AREA]
    assert bool(((pattern < 1e-6) | (pattern > 1 - 1e-6)).all())


def test_the_pattern_does_not_depend_on_the_colours() -> None:
    """Guards against a pattern that is turned where the colours are: a new pair would then have no code."""
    masks, inside, outside = drawn(300)
    half = masks.sum(1) == AREA // 2
    assert bool(half.any()), "masks of which no side is the smaller one"
    first = quantizer().split(squares(masks, inside, outside))
    second = quantizer().split(squares(masks, outside, inside.roll(1, 0) - 0.5))
    torch.testing.assert_close(first[:, :AREA], second[:, :AREA])
    expected = torch.where((masks.sum(1) * 2 < AREA)[:, None], masks, ~masks)
    expected[half] = torch.where(masks[half, :1], ~masks[half], masks[half])
    torch.testing.assert_close(first[:, :AREA], expected.float())


def test_colours_are_those_of_least_squares() -> None:
    """Guards against a square of many colours that is shown by its two outermost ones."""
    patches = torch.rand(40, 3 * AREA, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = quantizer()
    vectors = found.split(patches)
    for patch, vector in zip(patches.double().numpy(), vectors.double().numpy(), strict=True):
        pattern = vector[:AREA]
        best = np.linalg.lstsq(np.stack([1 - pattern, pattern], axis=1), patch.reshape(3, AREA).T)[0]
        np.testing.assert_allclose(vector[AREA:].reshape(2, 3), best.clip(-1, 1), atol=2e-3)


def test_noise_has_no_pattern() -> None:
    """Guards against flat squares that fill the codebook of patterns."""
    noise = (torch.rand(50, 3 * AREA, generator=torch.Generator().manual_seed(1)) - 0.5) * LEAST_CONTRAST / 20
    vectors = quantizer().split(noise + 0.4)
    assert float(vectors[:, :AREA].max()) < 0.02
    torch.testing.assert_close(quantizer().shown(vectors), noise + 0.4, atol=LEAST_CONTRAST / 10, rtol=0)


def test_a_pair_that_was_never_seen_has_codes() -> None:
    """Guards against codes of whole squares: two patterns and two pairs of colours, of which one square is new."""
    masks = torch.zeros(2, AREA, dtype=torch.bool)
    masks[0, :3], masks[1, 4:9] = True, True
    red, blue, white = torch.tensor([0.9, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 0.9]), torch.ones(3)
    seen = [(0, red), (0, blue), (1, red)]
    inside = torch.stack([color for _, color in seen])
    patches = squares(masks[[mask for mask, _ in seen]], inside, white.expand(3, 3))
    found = quantizer(4, 4)
    found.start(found.split(patches.repeat(20, 1)), seed=0)
    new = squares(masks[1:], blue[None], white[None])
    ids = found.ids(found.split(new))
    # The codes of an average, rounded to bfloat16.
    torch.testing.assert_close(found.shown(found.vectors(ids)), new, atol=0.02, rtol=0)
    known = found.ids(found.split(patches)).view(3, 2)
    assert ids[0] == known[2, 0] and ids[1] == known[1, 1]


@pytest.mark.parametrize(("key", "value"), [("patterns", 1), ("colors", 1), ("decay", 1.0)])
def test_a_config_out_of_range_is_refused(key: str, value: float) -> None:
    """Guards against an error deep in a run."""
    with pytest.raises(InputError, match=f"model.image.quantizer.{key}"):
        ColorCellConfig(**{key: value}).check("model.image.quantizer")  # type: ignore[arg-type]
