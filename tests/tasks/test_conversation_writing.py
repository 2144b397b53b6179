"""Writing against transformers' generate, and likelihoods against the steps that wrote."""

from dataclasses import replace

import pytest
import torch

from chiasm.core.types import IMAGE, Example, Turn
from chiasm.data.tokenizers.chat import Spans
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation_writing import captions_and_answers, log_likelihoods, replies
from speaking import GREEDY, by_hand, encoded_of, image


@torch.no_grad()
def test_greedy_replies_are_those_of_transformers(speaker: Pipeline, spoken: list[Example]) -> None:
    """Batched with others of unequal length, beginnings about one image read once, from a cache; generate alone."""
    some, tokenizer = spoken[:3], speaker.codec.tokenizer
    prompts = [
        (0, tokenizer.prompt((Turn("user", "<image>\ndescribe"),))),  # type: ignore[attr-defined]
        (1, tokenizer.prompt((Turn("user", "what color is this thing here? <image>"),))),  # type: ignore[attr-defined]
        (2, tokenizer.prompt(spoken[2].turns[:3])),  # type: ignore[attr-defined]
        (0, tokenizer.prompt((Turn("user", "<image>\ndescribe the dog"),))),  # type: ignore[attr-defined]
        (1, tokenizer.prompt((Turn("user", "what is <image>?"),))),  # type: ignore[attr-defined]
        (0, tokenizer.prompt((Turn("user", "<image>\na color?"),))),  # type: ignore[attr-defined]
        (0, tokenizer.prompt((Turn("user", "<image>\ndescribe"),))),  # type: ignore[attr-defined]
    ]
    written = replies(speaker.model, "conversation", tokenizer, encoded_of(speaker, some), prompts, GREEDY)  # type: ignore[arg-type]
    for (row, ids), reply in zip(prompts, written, strict=True):
        shown = some[row].inputs[IMAGE]
        embeddings = by_hand(speaker, ids, shown if isinstance(shown, tuple) else (shown,))
        banned = [one for one in tokenizer.special_ids if one != tokenizer.end_id]
        theirs = speaker.model.language.network.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=tokenizer.end_id,
            pad_token_id=tokenizer.pad_id,
            suppress_tokens=banned,
        )[0].tolist()
        ours = list(reply.ids)
        assert ours[: len(theirs)] == theirs[: len(ours)], (ours, theirs)
        assert len(reply.by_token) == len(ours)


@torch.no_grad()
def test_a_replys_probability_is_the_likelihood_of_its_tokens(speaker: Pipeline, spoken: list[Example]) -> None:
    """The cached steps and one pass over the whole conversation give the same numbers."""
    tokenizer, encoded = speaker.codec.tokenizer, encoded_of(speaker, spoken[:2])
    prompts = [(row, tokenizer.prompt((Turn("user", "<image>\nwhat?"),))) for row in (0, 1)]  # type: ignore[attr-defined]
    written = replies(speaker.model, "conversation", tokenizer, encoded, prompts, GREEDY)  # type: ignore[arg-type]
    whole = [
        (row, Spans([*ids, *reply.ids], [*[False] * len(ids), *[True] * len(reply.ids)]))
        for (row, ids), reply in zip(prompts, written, strict=True)
    ]
    read = log_likelihoods(speaker.model, "conversation", tokenizer, encoded, whole)  # type: ignore[arg-type]
    for reply, values in zip(written, read, strict=True):
        assert values == pytest.approx(reply.by_token, abs=1e-3)
        assert sum(values) == pytest.approx(reply.log_probability, abs=1e-3)


@torch.no_grad()
def test_an_image_stands_where_its_placeholder_is(speaker: Pipeline) -> None:
    """Exchanging two images changes the likelihood; naming them in the other order as well undoes it."""
    one, two, tokenizer = image(1), image(2), speaker.codec.tokenizer
    turns = (Turn("user", "a <image> b <image> which?"), Turn("assistant", "the first"))
    spans = tokenizer.conversation(turns)  # type: ignore[attr-defined]
    values = []
    for shown in ((one, two), (two, one)):
        encoded = encoded_of(speaker, [Example("x", {IMAGE: shown}), Example("y", {IMAGE: one})])
        (found,) = log_likelihoods(speaker.model, "conversation", tokenizer, encoded, [(0, spans)])  # type: ignore[arg-type]
        values.append(found)
        by_them = speaker.model.language.network(inputs_embeds=by_hand(speaker, spans.ids, shown)).logits[0, -3]
        assert by_them.isfinite().all()
    assert values[0] != pytest.approx(values[1], abs=1e-6)


@torch.no_grad()
def test_captions_are_searched_by_beams_and_answers_written_greedily(speaker: Pipeline, spoken: list[Example]) -> None:
    tokenizer, encoded = speaker.codec.chat_tokenizer, encoded_of(speaker, spoken[:2])
    prompts = [
        (row, tokenizer.prompt((Turn("user", f"<image>\n{text}"),)))
        for row, text in ((0, "what?"), (1, "describe"), (1, "who?"))
    ]
    beam = replace(GREEDY, method="beam", beams=3)
    given = speaker.model, "conversation", tokenizer, encoded, prompts
    found = captions_and_answers(*given, beam, [False, True, False])
    searched, greedy = replies(*given, beam), replies(*given, GREEDY)
    assert searched[0].ids != greedy[0].ids, "beams find something else"
    assert [one.ids for one in found] == [greedy[0].ids, searched[1].ids, greedy[2].ids]
    sampled = replace(GREEDY, method="nucleus", temperature=1e-4)
    assert [one.ids for one in captions_and_answers(*given, sampled, [False, True, False])] == [
        one.ids for one in greedy
    ]
