"""Towers out of Hugging Face folders against transformers itself: features, pixels, words, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="needs the extra [hf]")
import transformers
from hf_folders import LINES, save_pixels, save_words, text_folder, vision_folder

from chiasm.core.errors import InputError
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.checks import check_encoder
from chiasm.models.encoders.folder import FolderImageConfig, FolderTextConfig
from chiasm.models.encoders.hugging_face import load_image_tower, load_text_tower
from chiasm.pipeline.batching import stack_images, to_model_range
from chiasm.pipeline.tokenizers import pretrained_tokenizer

VISION_KINDS = ("vit", "dinov2", "convnext", "clip_vision", "siglip_vision")
TEXT_KINDS = ("bert", "roberta", "xlnet", "clip_text", "siglip_text")
SIZES = ((50, 71), (71, 50), (33, 33), (20, 90), (64, 32))


def pictures() -> list[np.ndarray]:
    made = np.random.default_rng(0)
    return [made.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]


def their_pixels(folder: Path) -> torch.Tensor:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    given = [Image.fromarray(one) for one in pictures()]
    return processor(given, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_pictures_are_encoded_as_by_transformers(kind: str, tmp_path: Path) -> None:
    """Guards against another resize, crop, mean or pooled token: numbers that are silently wrong."""
    reference = vision_folder(tmp_path, kind)
    tower = load_image_tower(str(tmp_path))
    pixels = stack_images(pictures(), FolderImageConfig(name=str(tmp_path)).preprocessing().resizing)
    with torch.no_grad():
        got = tower(to_model_range(pixels, torch.float32))
        expected = reference(pixel_values=their_pixels(tmp_path))
    values = expected.last_hidden_state
    values = values.flatten(2).transpose(1, 2) if values.ndim == 4 else values
    torch.testing.assert_close(got.values, values, rtol=1e-4, atol=1e-5)
    pooled = expected.last_hidden_state[:, 0] if kind in ("vit", "dinov2") else expected.pooler_output.flatten(1)
    torch.testing.assert_close(got.pooled, pooled, rtol=1e-4, atol=1e-5)
    assert got.is_real.all() and tower.dim == got.pooled.shape[1]


def test_small_pictures_and_odd_crops_keep_the_pixels_of_transformers(tmp_path: Path) -> None:
    """Guards the black border and the rounding of a crop that is larger than the picture."""
    crop = {"height": 45, "width": 30}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 33}, crop_size=crop).save_pretrained(tmp_path)
    transformers.CLIPVisionConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    pixels = stack_images(pictures(), FolderImageConfig(name=str(tmp_path)).preprocessing().resizing)
    mean, std = (
        torch.tensor(row)[:, None, None]
        for row in (transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD)
    )
    torch.testing.assert_close((pixels / 255 - mean) / std, their_pixels(tmp_path), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_words_are_encoded_as_by_transformers(kind: str, tmp_path: Path) -> None:
    """Guards against other ids, a wrong mask, padding on the wrong side and the wrong pooled token."""
    reference = text_folder(tmp_path, kind)
    text = FolderTextConfig(name=str(tmp_path), max_tokens=32)
    tokenizer, tower = pretrained_tokenizer(text), load_text_tower(str(tmp_path))
    texts = [*LINES, " ".join(LINES * 3)]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        got = tower(tokenizer.batch(texts))
        for row, words in enumerate(texts):
            padding = "max_length" if kind == "siglip_text" else False
            given = theirs(words, return_tensors="pt", truncation=True, max_length=32, padding=padding)
            mask = {} if kind == "siglip_text" else {"attention_mask": given["attention_mask"]}
            expected = reference(input_ids=given["input_ids"], **mask)
            hidden = expected.last_hidden_state[0]
            torch.testing.assert_close(got.values[row, : len(hidden)], hidden, rtol=1e-4, atol=1e-5)
            is_own = kind in ("clip_text", "siglip_text")
            pooled = expected.pooler_output[0] if is_own else hidden.mean(0)
            torch.testing.assert_close(got.pooled[row], pooled, rtol=1e-4, atol=1e-5)
    assert tokenizer.num_truncated >= 1
    again = PretrainedTokenizer.from_json(tokenizer.to_json(), 32)
    assert all(torch.equal(one, other) for one, other in zip(again.batch(texts), tokenizer.batch(texts), strict=True))


@pytest.mark.parametrize("kind", ["vit", "convnext", "bert", "roberta", "clip_text"])
def test_the_encoder_contract_holds(kind: str, tmp_path: Path) -> None:
    """Guards against padding that is seen, weights that are not saved or get no gradient, and bf16 that breaks."""
    if kind in VISION_KINDS:
        vision_folder(tmp_path, kind)
        generator = torch.Generator().manual_seed(0)
        check_encoder(load_image_tower(str(tmp_path)), torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1)
        return
    text_folder(tmp_path, kind)
    tokenizer = pretrained_tokenizer(FolderTextConfig(name=str(tmp_path), max_tokens=32))
    tower = load_text_tower(str(tmp_path))
    check_encoder(tower, tokenizer.batch(LINES))


def test_special_tokens_are_not_made_from_text(tmp_path: Path) -> None:
    """Guards against a person who types the end token and hides the words after it."""
    text_folder(tmp_path, "clip_text")
    tokenizer = pretrained_tokenizer(FolderTextConfig(name=str(tmp_path), max_tokens=32))
    assert tokenizer.ids("a <|endoftext|> dog").count(tokenizer.end_id) == 1


def test_hub_names_pickles_and_missing_parts_are_refused(tmp_path: Path) -> None:
    """Guards against a download nobody asked for, a pickle that runs code, and random weights."""
    with pytest.raises(InputError, match="hf download google/vit-base"):
        load_image_tower("google/vit-base")
    vision_folder(tmp_path, "clip_vision")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="a pickle can run code"):
        load_image_tower(str(tmp_path))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    weights = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            **{**transformers.AutoConfig.from_pretrained(tmp_path).to_dict(), "num_hidden_layers": 1}
        )
    )
    config = (tmp_path / "config.json").read_bytes()
    weights.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(InputError, match="would be random"):
        load_image_tower(str(tmp_path))


def test_a_preprocessing_of_another_model_is_refused(tmp_path: Path) -> None:
    """Guards against sizes or a preprocessing that do not belong to the weights."""
    vision_folder(tmp_path, "clip_vision")
    transformers.CLIPImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="they come from different models"):
        load_image_tower(str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="has no preprocessor_config"):
        load_image_tower(str(tmp_path))
    save_pixels(tmp_path, "clip")
    with pytest.raises(InputError, match="an encoder of texts"):
        load_text_tower(str(tmp_path))


def test_lengths_that_the_network_cannot_read_are_refused(tmp_path: Path) -> None:
    """Guards against an index error in the middle of training, and SigLIP texts padded to a length it never saw."""
    text_folder(tmp_path / "roberta", "roberta")
    text_folder(tmp_path / "siglip", "siglip_text")
    for name, wrong in (("roberta", 33), ("siglip", 31)):
        with pytest.raises(InputError, match="max_tokens=32"):
            pretrained_tokenizer(FolderTextConfig(name=str(tmp_path / name), max_tokens=wrong))
    save_words(tmp_path / "siglip", "bert")
    (tmp_path / "siglip" / "tokenizer.json").unlink()
    (tmp_path / "siglip" / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no tokenizer that can be read"):
        pretrained_tokenizer(FolderTextConfig(name=str(tmp_path / "siglip"), max_tokens=32))
