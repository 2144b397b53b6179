"""What a report shows of an example with several images, and of one without any."""

import numpy as np

from chiasm.core.types import Example
from chiasm.data.image_refs import image_ref_from_array
from chiasm.report.cards import shown_image


def test_the_first_image_is_shown_and_of_a_text_a_blank() -> None:
    """Guards against a report that stops at a conversation."""
    first, second = (np.full((4, 6, 3), value, dtype=np.uint8) for value in (10, 20))
    several = Example("pair", {"image": (image_ref_from_array(first), image_ref_from_array(second))})
    assert np.array_equal(shown_image(several), first)
    assert np.array_equal(shown_image(Example("one", {"image": image_ref_from_array(second)})), second)
    blank = shown_image(Example("text", {}))
    assert blank.ndim == 3 and blank.dtype == np.uint8 and (blank == 255).all()
