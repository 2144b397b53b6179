"""The processor of a network of images and words, as transformers has it: images -> pixels, and the tokens around them.

It is read from its files without torchvision (images by Pillow alone) and without parts for videos, and travels in a
run folder as those files.
"""

import json
import tempfile
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.models.pretrained.hugging_face_folder import reading

FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
STAND_INS = {"SmolVLMProcessor": "Idefics3Processor"}
"""Processor that needs a further package for videos -> one that writes the same tokens around images."""


class ImageTextProcessor:
    """One image -> what the network takes of it.

    Args:
        processor: transformers' own.
        files: content of the files that it was read from, by name: JSON.

    Attributes:
        image_id: id of the token at which a feature of an image stands.
    """

    def __init__(self, processor: Any, files: Mapping[str, Any], image_id: int) -> None:
        self.processor, self.files, self.image_id = processor, dict(files), image_id

    def prepare(self, image: np.ndarray) -> dict[str, Tensor]:
        """uint8 [h, w, 3] -> `input_ids` int64 [1, l], the tokens that stand for it, and pixels.

        Raises:
            InputError: a shape that the processor does not take, such as Qwen2-VL's beyond 200 to 1.
        """
        try:
            given = self.processor(
                images=[Image.fromarray(image)],
                text=[self.processor.image_token],
                return_tensors="pt",
                add_special_tokens=False,
            )
        except ValueError as error:
            raise InputError(
                f"an image of {image.shape[1]} x {image.shape[0]} px: {' '.join(str(error).split())[:200]}",
                "a shape that the network's processor takes",
                "crop the image",
            ) from error
        return {name: value for name, value in given.items() if isinstance(value, Tensor)}


def read_image_text_processor(folder: Path) -> ImageTextProcessor:
    """Read the processor of a folder in Hugging Face layout; nothing is downloaded.

    Raises:
        InputError: transformers cannot build it here, or its files do not say which it is.
    """
    files = {name: read_json(folder / name, "the processor") for name in FILES if (folder / name).is_file()}
    return image_text_processor(files, folder)


def image_text_processor(files: Mapping[str, Any], where: Path) -> ImageTextProcessor:
    """As `read_image_text_processor`, from the content of its files; `where` is named in errors."""
    config = files["config.json"]
    image_id = config.get("image_token_id", config.get("image_token_index"))
    processor = reading(where, "the processor", lambda: _built(files, where))
    return ImageTextProcessor(processor, files, int(image_id))


def _built(files: Mapping[str, Any], where: Path) -> Any:
    import transformers

    told = files.get("processor_config.json") or {}
    places = (told, files.get("preprocessor_config.json") or {}, files.get("tokenizer_config.json") or {})
    name = next((place["processor_class"] for place in places if place.get("processor_class")), "")
    kind = getattr(transformers, STAND_INS.get(name, name), None) if name else None
    if kind is None:
        raise InputError(
            f"{where}: the processor is {name or 'not named'}",
            "a processor_class of transformers in processor_config.json or preprocessor_config.json",
            "take the files from the model's page",
        )
    with tempfile.TemporaryDirectory() as place:
        for one, content in files.items():
            (Path(place) / one).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        local = {"local_files_only": True, "trust_remote_code": False}
        pixels = transformers.AutoImageProcessor.from_pretrained(place, backend="pil", **local)
        words = transformers.AutoTokenizer.from_pretrained(place, **local)
    taken = signature(kind.__init__).parameters
    settings = {key: value for key, value in told.items() if key in taken and key != "image_processor"}
    parts: dict[str, Any] = {"image_processor": pixels, "tokenizer": words}
    settings |= {key: value for key, value in parts.items() if key in taken}
    settings |= dict.fromkeys(set(taken) & {"video_processor", "feature_extractor"})
    settings.pop("chat_template", None)
    return _without_videos(kind)(**settings)


def _without_videos(kind: Any) -> Any:
    """The class, which then takes None for a part that is absent."""

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else kind.check_argument_for_proper_class(self, name, part)

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
