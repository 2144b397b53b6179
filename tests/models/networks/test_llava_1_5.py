"""LLaVA-1.5 out of folders against transformers: ids, logits, greedy text, several images, and training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import (
    asked_about,
    given_to,
    llava_folder,
    logits_of,
    pictures,
    processor_of,
    reply_by_transformers,
    reply_of,
)

import chiasm
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_ID
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.networks import build_model

KINDS = [("llama", "clip", -2), ("qwen2", "siglip", -1), ("llama", "clip", [-2, 1])]


@pytest.mark.parametrize(("words", "eyes", "layer"), KINDS)
def test_logits_are_those_of_transformers(words: str, eyes: str, layer: int | list[int], tmp_path: Path) -> None:
    """Guards layers, class token, preprocessing, projector, template, start token, and two images in a turn."""
    network = llava_folder(tmp_path, words, eyes, layer)
    model = chiasm.load(tmp_path)
    for images in (pictures((40, 60)), pictures((33, 32), (90, 50))):
        given = given_to(processor_of(tmp_path), images, "what is there")
        ids = model.pipeline.codec.tokenizer.prompt(asked_about(len(images), "what is there"))
        assert [one for one in ids if one != IMAGE_ID] == [one for one in given["input_ids"][0].tolist() if one != 4]
        with torch.no_grad():
            theirs = network(**given).logits[0]
        torch.testing.assert_close(logits_of(model, images, "what is there"), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("words", "eyes", "layer"), KINDS[:2])
def test_greedy_text_is_that_of_transformers(words: str, eyes: str, layer: int, tmp_path: Path) -> None:
    """Guards cached keys and values, positions after an image, and the token that ends a reply."""
    network = llava_folder(tmp_path, words, eyes, layer)
    model, images = chiasm.load(tmp_path), pictures((40, 60))
    said = set()
    for text in ("what is there", "two green dogs", "紅 狗"):
        given = given_to(processor_of(tmp_path), images, text)
        ours = reply_of(model, images, text, 16)
        assert ours == reply_by_transformers(network, model, given, 16)
        said.add(ours)
    assert len(said) == 3


def test_a_network_answers_and_describes(tmp_path: Path) -> None:
    """Guards the verbs of a folder that nobody converted."""
    llava_folder(tmp_path)
    model = chiasm.load(tmp_path)
    assert model.tasks == ("conversation",)
    assert model.caption(pictures((40, 60)))[0].answer
    assert 0 <= model.ask(pictures((40, 60))[0], "what is there").confidence <= 1
    assert model.pipeline.model.image_tokens("conversation") == 16


def test_low_rank_changes_of_the_language_model_get_the_gradient(tmp_path: Path) -> None:
    """Guards training further: frozen weights of the language model stay, projector and low-rank changes move."""
    llava_folder(tmp_path)
    pipeline = chiasm.load(tmp_path).pipeline
    config = pipeline.config.model
    adapted = replace(config, text=config.text.with_lora(2, 4.0))
    model = build_model(adapted, pipeline.model.parts)
    language = model.text_encoder
    assert isinstance(language, LanguageModel)
    image = model.encode_image(torch.rand(1, 3, 32, 32))
    out = model.bridge("conversation")(image).values
    states = language.states(out, None, torch.arange(out.shape[1])[None])
    language.words(states).square().sum().backward()
    moved = {name for name, one in model.named_parameters() if one.grad is not None and bool(one.grad.any())}
    assert any(name.endswith(".lora_b") for name in moved)
    assert "heads.conversation.projector.layers.linear_1.weight" in moved


def test_a_network_without_chat_template_is_refused(tmp_path: Path) -> None:
    """Guards against a guessed template, which gives bad answers and no error."""
    llava_folder(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        chiasm.load(tmp_path)


def test_a_language_model_that_computes_otherwise_inside_is_refused(tmp_path: Path) -> None:
    """Guards against logits that Gemma 2 caps alone and not inside a LLaVA."""
    llava_folder(tmp_path, "gemma2")
    with pytest.raises(InputError, match="logits are other than those of the language model alone"):
        chiasm.load(tmp_path)
