"""Images as a modality: a file's pixels, stacked channels first."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chiasm.core.resizing import Resizing
from chiasm.core.types import Example
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.modalities import MODALITIES
from chiasm.data.modalities.base import references_of
from chiasm.data.modalities.image import image_files_of, images_of


def test_a_file_becomes_a_row_of_a_batch(tmp_path: Path) -> None:
    """Guards against channels or sides that change places on the way to the encoder."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    images = MODALITIES["image"]
    reference = images.refer(tmp_path / "one.png")
    assert np.array_equal(images.decode(reference), pixels) and np.array_equal(images.show(reference), pixels)
    prepared = images.prepare(images.decode(reference), Resizing("squeeze", (10, 12)))
    stacked = images.stack([prepared, prepared])
    assert stacked.shape == (2, 3, 10, 12) and stacked.dtype == torch.uint8
    assert np.array_equal(stacked[1].permute(1, 2, 0).numpy(), pixels)


def test_an_input_has_none_one_or_several_references() -> None:
    """Guards against an absent input that is decoded, and several that are taken for one."""
    assert references_of(None) == () and references_of(()) == ()
    assert references_of("a") == ("a",) and references_of(("a", "b")) == ("a", "b")


def test_images_of_every_input_are_listed_those_of_the_image_first() -> None:
    """Guards against a depth image that stands before the image, and a second image that is forgotten."""
    first, second, depth = (image_ref_from_array(np.full((2, 2, 3), n, dtype=np.uint8)) for n in range(3))
    example = Example("e", {"depth": depth, "image": (first, second), "range": 3.5, "absent": ()})
    assert images_of(example) == (first, second) and image_files_of(example) == (first, second, depth)
    assert images_of(Example("e", {"image": first})) == (first,)
    assert images_of(Example("e", {})) == image_files_of(Example("e", {})) == ()
