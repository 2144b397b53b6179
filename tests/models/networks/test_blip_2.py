"""BLIP-2: how an answer begins and ends, and a language model that encodes its prompt."""

from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import asked_about
from whole_networks import blip_2_folder

import chiasm
from chiasm.core.errors import InputError
from chiasm.core.types import Turn


def test_an_answer_begins_with_a_space_and_ends_with_the_language_models_own_token(tmp_path: Path) -> None:
    """Guards what is learned from own data against what the network writes: " two" and a line break."""
    blip_2_folder(tmp_path)
    model = chiasm.load(tmp_path)
    tokenizer = model.pipeline.codec.tokenizer
    prompt = tokenizer.prompt(asked_about(1, "Question: what is there Answer:"))
    spans = tokenizer.conversation((*asked_about(1, "Question: what is there Answer:"), Turn("assistant", "two dogs")))
    said = [one for one, is_counted in zip(*spans, strict=True) if is_counted]
    assert spans.ids[: len(prompt)] == prompt and spans.ids[len(prompt) :] == said
    assert tokenizer.tokenizer.decode(said, skip_special_tokens=False) == " two dogs\n"
    assert said[-1] == tokenizer.end_id != tokenizer.tokenizer.token_to_id("</s>")
    assert tokenizer.decode(said) == "two dogs"
    with pytest.raises(InputError, match="it answers one prompt"):
        model.chat([{"role": role, "content": "a"} for role in ("user", "assistant", "user")])


def test_a_language_model_that_encodes_its_prompt_is_refused_unread(tmp_path: Path) -> None:
    """Guards FLAN-T5's BLIP-2, whose words would not stand behind the image's."""
    blip_2_folder(tmp_path, "t5")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="a BLIP-2 around a t5, which reads the prompt by an encoder"):
        chiasm.load(tmp_path)
