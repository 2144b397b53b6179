"""Checks and normalisation of the inputs of `Model`: images, texts and labels."""

import base64
import binascii
import os
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.resizing import Resizing
from chiasm.core.types import ImageRef
from chiasm.data.image_refs import image_ref, image_ref_from_array, image_ref_from_bytes
from chiasm.pipeline.batching import stack_images

ImageInput = str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8] | ImageRef | Tensor
"""A path, a data URI (`data:image/png;base64,...`), the bytes of a file, a Pillow image, an RGB array uint8 [h, w, 3],
or what `Model.prepare` made of one."""


def listed(given: ImageInput | Sequence[ImageInput]) -> tuple[list[ImageInput], bool]:
    """Images as a list, and whether a single one was given; a 4-dimensional array or tensor [n, ...] is a list of n."""
    if isinstance(given, np.ndarray | Tensor):
        return ([given], True) if given.ndim <= 3 else (list(given), False)
    if isinstance(given, str | bytes | PathLike | Image.Image | ImageRef):
        return [given], True
    return list(given), False


def ref_of(given: ImageInput) -> ImageRef:
    """Take an image in any of the accepted forms; nothing is decoded yet, except a Pillow image."""
    if isinstance(given, ImageRef):
        return given
    if isinstance(given, Tensor):
        raise InputError("a prepared image", "a path, bytes, a Pillow image or an array", "give the image itself")
    if isinstance(given, bytes):
        return image_ref_from_bytes(given)
    if isinstance(given, np.ndarray):
        return image_ref_from_array(given)
    if isinstance(given, Image.Image):
        return image_ref_from_array(np.asarray(given.convert("RGB")))
    if isinstance(given, str) and given[:5].lower() == "data:":
        return image_ref_from_bytes(_decoded(given))
    if isinstance(given, str) and given[:8].lower().startswith(("http://", "https://")):
        raise InputError(f"an image at {given[:80]}", "a file, bytes or a data URI", "download it, and give its path")
    return image_ref(os.path.expanduser(given))


def prepared(given: ImageInput, resizing: Resizing) -> Tensor:
    """Decode and resize an image: uint8 [3, h, w]; what was prepared before passes through.

    Raises:
        ImageError: the image cannot be used.
    """
    return given if isinstance(given, Tensor) else stack_images([ref_of(given).load()], resizing)[0]


def _decoded(uri: str) -> bytes:
    head, _, content = uri.partition(",")
    try:
        if not head.lower().endswith(";base64"):
            raise ValueError
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            f"a data URI that begins {uri[:40]!r}", "data:image/png;base64,... with base64 behind it", "give a path"
        ) from None


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Check the labels of `classify`.

    Raises:
        InputError: fewer than two, duplicates, or an empty label.
    """
    names = tuple(checked_words(label, "label") for label in ([labels] if isinstance(labels, str) else labels))
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(f"the labels {', '.join(names) or '(none)'}", "two or more different labels", "give others")
    return names


def choices(labels: Sequence[str], known: tuple[str, ...], reads_names: bool) -> tuple[str, ...]:
    """The labels that `classify` chooses among: those given, or all that the model was trained on.

    Args:
        labels: labels of the caller; empty means `known`.
        known: classes of the trained head.
        reads_names: whether the model supports zero-shot classification.

    Raises:
        InputError: as `check_labels`; or labels outside `known` without zero-shot classification.
    """
    if not labels and known:
        return known
    names = check_labels(labels)
    others = [name for name in names if name not in known]
    if others and known and not reads_names:
        raise InputError(
            f"this model was not trained on {', '.join(map(repr, others[:5]))}, and has no zero-shot classification",
            "classes that it was trained on: " + ", ".join(known),
            "leave the labels out, or use a model with zero-shot classification, such as starter",
        )
    return names


def paired(
    image: ImageInput | Sequence[ImageInput], text: str | Sequence[str], what: str
) -> tuple[list[ImageInput], list[str], bool]:
    """Images and texts as lists of equal length, and whether both were single items.

    Raises:
        InputError: lists of different lengths, or an empty text; `what` names the texts.
    """
    images, is_one = listed(image)
    texts = [checked_words(one, what) for one in ([text] if isinstance(text, str) else text)]
    if not isinstance(text, str) and is_one:
        images = images * len(texts)
    elif isinstance(text, str) and not is_one:
        texts = texts * len(images)
    if len(images) != len(texts):
        raise InputError(
            f"{len(images)} images and {len(texts)} {what}s",
            "lists of equal length, or a single item of either",
            f"give one {what} per image",
        )
    return images, texts, is_one and isinstance(text, str)


def checked_words(text: Any, what: str) -> str:
    """Check that a text is not empty, and return it.

    Raises:
        InputError: not a string, or empty; `what` names the argument.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"the {what} is {text!r}", "words", f"give a {what}")
    return text
