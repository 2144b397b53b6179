"""Images as a modality: a file's pixels, stacked channels first."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chiasm.core.resizing import Resizing
from chiasm.data.modalities import MODALITIES
from chiasm.data.modalities.base import references_of


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
