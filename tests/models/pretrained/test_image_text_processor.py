"""Processors of networks of images and words, read without torchvision: ids and pixels are those of transformers."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from PIL import Image
from vlm_folders import pictures, tiled_folder, tiling_processor_of

from chiasm.core.errors import InputError
from chiasm.models.pretrained.image_text_processor import image_text_processor, read_image_text_processor

KINDS = ["LlavaOnevisionForConditionalGeneration", "SmolVLMForConditionalGeneration"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_becomes_the_same_ids_and_pixels(kind: str, tmp_path: Path) -> None:
    """Guards parts for videos that are absent, and the processor that stands in for SmolVLM's."""
    tiled_folder(tmp_path, kind)
    own, theirs = read_image_text_processor(tmp_path), tiling_processor_of(tmp_path)
    for one in pictures((40, 60), (90, 50)):
        found = own.prepare(one)
        given = theirs(images=[Image.fromarray(one)], text=["<image>"], return_tensors="pt", add_special_tokens=False)
        assert torch.equal(found["input_ids"], given["input_ids"])
        assert torch.equal(found["pixel_values"], given["pixel_values"])
    again = image_text_processor(json.loads(json.dumps(own.files)), tmp_path)
    assert torch.equal(again.prepare(one)["input_ids"], found["input_ids"])


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    """Guards against pixels of a guessed preprocessing."""
    tiled_folder(tmp_path, KINDS[1])
    (tmp_path / "processor_config.json").write_text("{}")
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        told = json.loads((tmp_path / name).read_text())
        told.pop("processor_class", None)
        (tmp_path / name).write_text(json.dumps(told))
    with pytest.raises(InputError, match="the processor is not named"):
        read_image_text_processor(tmp_path)
