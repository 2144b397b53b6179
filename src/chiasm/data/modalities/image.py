"""Images: decoded with Pillow, stacked as channels first."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.resizing import Resizing
from chiasm.core.types import IMAGE, Example, ImageRef
from chiasm.data.image_refs import image_ref
from chiasm.data.modalities.base import Modality, references_of
from chiasm.data.resizing import resize


class ImageModality(Modality):
    """RGB images, uint8 [h, w, 3] when decoded; further channels may come of an encoder's preprocessing (a mask)."""

    name: ClassVar[str] = "image"

    def refer(self, path: Path) -> ImageRef:
        """A reference to an image file."""
        return image_ref(path)

    def decode(self, reference: ImageRef) -> np.ndarray:
        """Pixels, uint8 [h, w, 3].

        Raises:
            ImageError: the image cannot be used.
        """
        return reference.load()

    def prepare(self, decoded: np.ndarray, resizing: Resizing) -> np.ndarray:
        """Resized and cropped, uint8 [h, w, 3], or [h, w, 4] with a mask where images keep their shapes."""
        return resize(decoded, resizing)

    def show(self, reference: ImageRef) -> np.ndarray:
        """The pixels themselves."""
        return self.decode(reference)

    def stack(self, prepared: Sequence[np.ndarray]) -> Tensor:
        """uint8 [h, w, c] images -> uint8 [k, c, h, w]; those with a mask are padded to the largest."""
        if prepared and prepared[0].shape[2] > 3:
            height, width = (max(image.shape[axis] for image in prepared) for axis in (0, 1))
            room = [(height - image.shape[0], width - image.shape[1]) for image in prepared]
            prepared = [
                np.pad(image, ((0, down), (0, right), (0, 0))) if down or right else image
                for image, (down, right) in zip(prepared, room, strict=True)
            ]
        return torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2)


def images_of(example: Example) -> tuple[ImageRef, ...]:
    """The images of an example, in their order; () of a text alone."""
    return references_of(example.inputs.get(IMAGE))


def image_files_of(example: Example) -> tuple[ImageRef, ...]:
    """The images of every input of an example, those of `image` first."""
    others = (value for name, value in example.inputs.items() if name != IMAGE)
    found = (reference for value in others for reference in references_of(value))
    return images_of(example) + tuple(one for one in found if isinstance(one, ImageRef))
