"""Networks that cut images into tiles, out of folders, against transformers: logits and greedy text; the rest refused."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import (
    given_to,
    logits_of,
    pictures,
    reply_by_transformers,
    reply_of,
    tiled_folder,
    tiling_processor_of,
)

import chiasm

KINDS = [
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """Guards tiles, padding cut away, line ends, row and column tokens; images of several shapes in one turn."""
    network = tiled_folder(tmp_path, kind)
    model = chiasm.load(tmp_path)
    for images in (pictures((40, 60)), pictures((90, 50)), pictures((33, 32), (20, 100))):
        given = given_to(tiling_processor_of(tmp_path), images, "what is there")
        with torch.no_grad():
            theirs = network(**given).logits[0]
        torch.testing.assert_close(logits_of(model, images, "what is there"), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    """Guards positions after an image of any number of tokens."""
    network = tiled_folder(tmp_path, kind)
    model, images = chiasm.load(tmp_path), pictures((40, 60))
    for text in ("what is there", "two green dogs"):
        given = given_to(tiling_processor_of(tmp_path), images, text)
        assert reply_of(model, images, text, 12) == reply_by_transformers(network, model, given, 12)
