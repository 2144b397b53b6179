"""PaliGemma: an answer's likelihood against transformers, one prompt alone, and the window of Gemma 2."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import asked_about, encoded, pictures
from whole_networks import given_to_pali_gemma, pali_gemma_folder

import chiasm
from chiasm.core.errors import InputError
from chiasm.core.types import Turn
from chiasm.tasks.conversation_writing import log_likelihoods


def test_the_likelihood_of_an_answer_is_that_of_transformers(tmp_path: Path) -> None:
    """Guards what training computes: the prompt sees itself in both directions, the answer what stands before it."""
    network = pali_gemma_folder(tmp_path)
    model, images = chiasm.load(tmp_path), pictures((40, 60))
    tokenizer = model.pipeline.codec.tokenizer
    spans = tokenizer.conversation((*asked_about(1, "what is there"), Turn("assistant", "two dogs")))
    about = [(0, spans), (0, tokenizer.conversation((*asked_about(1, "who"), Turn("assistant", "a dog runs"))))]
    ours = log_likelihoods(model.pipeline.model, "conversation", tokenizer, encoded(model, [images]), about)[0]
    given = given_to_pali_gemma(tmp_path, images, "what is there")
    said = torch.tensor([one for one, is_counted in zip(*spans, strict=True) if is_counted])
    assert int(said[-1]) == tokenizer.end_id
    ids = torch.cat([given["input_ids"], said[None]], 1)
    kinds = torch.cat([given["token_type_ids"], torch.ones_like(said[None])], 1)
    with torch.no_grad():
        logits = network(
            input_ids=ids,
            pixel_values=given["pixel_values"],
            attention_mask=torch.ones_like(ids),
            token_type_ids=kinds,
        ).logits[0]
    theirs = logits.log_softmax(-1)[-len(said) - 1 : -1].gather(1, said[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(ours), theirs, atol=1e-4, rtol=1e-4)


def test_it_answers_one_prompt(tmp_path: Path) -> None:
    """Guards against a layout that it was not trained on; system words go before the prompt."""
    pali_gemma_folder(tmp_path)
    model = chiasm.load(tmp_path)
    tokenizer = model.pipeline.codec.tokenizer
    turns = (Turn("system", "s"), *asked_about(1, "who"))
    assert tokenizer.decode(tokenizer.prompt(turns)) == "s\n\nwho"
    with pytest.raises(InputError, match="it answers one prompt"):
        model.chat([{"role": role, "content": "a"} for role in ("user", "assistant", "user")])


def test_an_image_that_fills_the_window_is_refused(tmp_path: Path) -> None:
    """Guards layers of a Gemma 2 that would see different things."""
    pali_gemma_folder(tmp_path, "gemma2", sliding_window=140)
    with pytest.raises(InputError, match="fills the window of 140"):
        chiasm.load(tmp_path)
    pali_gemma_folder(tmp_path, "gemma2", sliding_window=150)
    model = chiasm.load(tmp_path)
    with pytest.raises(InputError, match=r"a prompt of 1\d\d tokens"):
        model.chat("what is there " * 20, pictures((40, 60)))
