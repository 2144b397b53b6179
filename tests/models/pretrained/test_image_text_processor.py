"""Processors of networks of images and words, read without torchvision: ids and pixels are those of transformers."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from PIL import Image
from vlm_folders import pictures, tiling_processor_of
from whole_networks import WHOLE

from chiasm.core.errors import InputError
from chiasm.models.pretrained.image_text_processor import image_text_processor, read_image_text_processor


@pytest.mark.parametrize("name", ["LlavaOnevision", "SmolVLM", "Qwen2VL", "Qwen2_5_VL"])
def test_an_image_becomes_the_same_ids_and_pixels(name: str, tmp_path: Path) -> None:
    """Guards parts for videos that are absent, the processor that stands in for SmolVLM's, and Qwen's grids."""
    WHOLE[name].write(tmp_path)
    own, theirs = read_image_text_processor(tmp_path), tiling_processor_of(tmp_path)
    for one in pictures((40, 60), (90, 50)):
        found, image = own.prepare(one), theirs.image_token
        given = theirs(images=[Image.fromarray(one)], text=[image], return_tensors="pt", add_special_tokens=False)
        for key in found.keys() & {"input_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids"}:
            assert torch.equal(found[key], given[key])
        assert {"input_ids", "pixel_values"} <= found.keys()
        assert ("image_grid_thw" in found) == name.startswith("Qwen")
    again = image_text_processor(json.loads(json.dumps(own.files)), tmp_path)
    assert torch.equal(again.prepare(one)["input_ids"], found["input_ids"])


def test_a_shape_that_the_processor_refuses_is_told(tmp_path: Path) -> None:
    """Guards against a traceback of transformers' for an image of 1 to 400."""
    WHOLE["Qwen2VL"].write(tmp_path)
    with pytest.raises(InputError, match=r"an image of 800 x 2 px: absolute aspect ratio"):
        read_image_text_processor(tmp_path).prepare(pictures((2, 800))[0])


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    """Guards against pixels of a guessed preprocessing."""
    WHOLE["SmolVLM"].write(tmp_path)
    (tmp_path / "processor_config.json").write_text("{}")
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        told = json.loads((tmp_path / name).read_text())
        told.pop("processor_class", None)
        (tmp_path / name).write_text(json.dumps(told))
    with pytest.raises(InputError, match="the processor is not named"):
        read_image_text_processor(tmp_path)
