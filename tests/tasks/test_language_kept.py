"""Language kept: plain texts through transformers' own loss, and equality where adaptation changes nothing."""

import math

import pytest
import torch

from chiasm.data.plain_texts import TEXTS
from chiasm.models.lora import LORA_NAMES
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.language_kept import is_answer, language_kept, text_log_likelihoods


@torch.no_grad()
def test_likelihoods_of_texts_of_unequal_length_are_transformers_loss(speaker: Pipeline) -> None:
    tokenizer, language = speaker.codec.tokenizer, speaker.model.language
    sums, counts = text_log_likelihoods(language, tokenizer, TEXTS[:3])  # type: ignore[arg-type]
    for text, total, count in zip(TEXTS, sums, counts, strict=False):
        ids = torch.tensor([tokenizer.pieces(text)])
        loss = language.network(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
        assert -total / count == pytest.approx(float(loss), abs=1e-3)


@torch.no_grad()
def test_the_ratio_is_that_of_both_perplexities_and_one_without_change(speaker: Pipeline) -> None:
    tokenizer, model = speaker.codec.tokenizer, speaker.model
    found = language_kept(model, "conversation", tokenizer, 0, brief=True)  # type: ignore[arg-type]
    after, counts = text_log_likelihoods(model.language, tokenizer, TEXTS)  # type: ignore[arg-type]
    with model.language.without_adapters():
        before, _ = text_log_likelihoods(model.language, tokenizer, TEXTS)  # type: ignore[arg-type]
    assert found["perplexity_ratio"].value == pytest.approx(math.exp((sum(before) - sum(after)) / sum(counts)))
    assert found["perplexity_ratio"].value != pytest.approx(1.0, abs=1e-3)
    kept = {name: one.clone() for name, one in model.named_parameters() if name.endswith(LORA_NAMES)}
    try:
        for name, one in model.named_parameters():
            if name in kept:
                one.zero_()
        whole = language_kept(model, "conversation", tokenizer, 0, brief=False)  # type: ignore[arg-type]
    finally:
        for name, one in model.named_parameters():
            if name in kept:
                one.copy_(kept[name])
    assert whole["perplexity_ratio"].value == 1.0
    assert whole["text_questions"] == whole["text_questions_before"]


def test_an_answer_is_a_word_of_its_own() -> None:
    assert is_answer("The capital is Paris.", ("paris",))
    assert not is_answer("Comparison", ("paris", "a"))
