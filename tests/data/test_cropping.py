"""Windows of training pictures: where they lie, and what they depend on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.random import counter_rng
from chiasm.data.cropping import cropped, window
from chiasm.data.image_refs import image_ref_from_array


def numbered(height: int, width: int) -> np.ndarray:
    """A picture whose pixels say where they are."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.none() | st.floats(0.3, 3), st.integers(0, 10**6))
def test_windows_lie_in_the_picture(height: int, width: int, least: float, aspect: float | None, seed: int) -> None:
    """Guards against windows of other pixels, of another shape, or smaller than may be."""
    found = window(numbered(height, width), least, aspect, counter_rng(seed))
    high, wide = found.shape[:2]
    top, left = found[0, 0, :2].tolist()
    assert np.array_equal(found, numbered(height, width)[top : top + high, left : left + wide])
    ratio = width / height if aspect is None else aspect
    most_wide = min(width, height * ratio)
    assert 1 <= wide <= width and 1 <= high <= height
    assert wide == pytest.approx(high * ratio, abs=1 + ratio), "the shape, up to a pixel of rounding"
    assert wide >= most_wide * least**0.5 - 1 and wide <= most_wide + 1


def test_area_is_drawn_evenly() -> None:
    """Guards against a share of the side in the place of a share of the area: its mean would be 0.75 squared."""
    shares = [window(numbered(200, 200), 0.25, None, counter_rng(n)).shape for n in range(2000)]
    areas = np.array([high * wide / 200**2 for high, wide, _ in shares])
    assert areas.min() > 0.24 and areas.mean() == pytest.approx(0.625, abs=0.02)
    assert np.quantile(areas, [0.25, 0.5, 0.75]) == pytest.approx([0.4375, 0.625, 0.8125], abs=0.03)


def test_window_is_that_of_its_epoch() -> None:
    """Guards against a window that changes when it is loaded again, or that stays from epoch to epoch."""
    ref = image_ref_from_array(numbered(50, 80))

    def seen(*counters: int | str) -> list[int]:
        return cropped(ref, 0.5, 1.0, *counters).load()[0, 0].tolist()

    assert seen(0, 1, "a") == seen(0, 1, "a")
    assert len({tuple(seen(0, epoch, "a")) for epoch in range(10)}) > 5
    assert len({tuple(seen(0, 1, name)) for name in "abcdefghij"}) > 5
    assert cropped(ref, 0.5, 1.0, 0).content_key() == ref.content_key()
