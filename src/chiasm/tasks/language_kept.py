"""Language kept: perplexity of plain text, and answers to plain questions, with low-rank adaptation on and off.

Switched off, the language model is the one that was read, bit for bit; the ratio of both perplexities is what
adaptation has cost. A model without low-rank adaptation is not measured: a frozen one keeps its language, and one that
was trained whole has nothing to compare with.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch

from chiasm.core.types import Score, Turn
from chiasm.data.plain_texts import QUESTIONS, TEXTS
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.metrics.classic import accuracy
from chiasm.metrics.perplexity import perplexity_ratio
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.lora import has_lora
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.conversation_writing import replies

RATIO, ANSWERS, ANSWERS_BEFORE = "perplexity_ratio", "text_questions", "text_questions_before"
SHORT = DecodingConfig(max_words=24)


@torch.no_grad()
def text_log_likelihoods(
    language: LanguageModel, tokenizer: ChatTokenizer, texts: Sequence[str]
) -> tuple[list[float], list[int]]:
    """Summed log-probability, and number, of the tokens of plain texts after the first of each."""
    device = next(language.parameters()).device
    tokens = [tokenizer.pieces(text) for text in texts]
    width = max(map(len, tokens))
    ids = torch.tensor([[*own, *[tokenizer.pad_id] * (width - len(own))] for own in tokens], device=device)
    positions = torch.arange(width, device=device)
    allowed = (positions[:, None] >= positions).expand(len(texts), -1, -1)
    states = language.states(language.embed(ids), allowed, positions.expand_as(ids))
    values = language.words(states[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    counts = [len(own) - 1 for own in tokens]
    return [float(row[:count].sum()) for row, count in zip(values, counts, strict=True)], counts


def language_kept(
    model: VisionLanguageModel, task: str, tokenizer: ChatTokenizer, seed: int, brief: bool
) -> dict[str, Score]:
    """`perplexity_ratio` of adapted over not adapted, and the share of plain questions answered by both.

    Args:
        model: in evaluation mode.
        task: whose bridge; no image is shown.
        tokenizer: the language model's.
        seed: of the intervals.
        brief: leave out the questions.

    Returns:
        {} for a language model without low-rank adaptation.
    """
    language = model.language
    if not has_lora(language):
        return {}
    after, counts = text_log_likelihoods(language, tokenizer, TEXTS)
    with language.without_adapters():
        before, _ = text_log_likelihoods(language, tokenizer, TEXTS)
    found = {RATIO: perplexity_ratio(after, before, counts, seed)}
    if brief:
        return found
    found[ANSWERS] = _answered(model, task, tokenizer, seed)
    with language.without_adapters():
        found[ANSWERS_BEFORE] = _answered(model, task, tokenizer, seed)
    return found


def _answered(model: VisionLanguageModel, task: str, tokenizer: ChatTokenizer, seed: int) -> Score:
    prompts = [(0, tokenizer.prompt((Turn("user", text),))) for text, _ in QUESTIONS]
    said = replies(model, task, tokenizer, {}, prompts, SHORT)
    right = [is_answer(one.text, words) for one, (_, words) in zip(said, QUESTIONS, strict=True)]
    return accuracy(np.array(right), np.arange(len(right)), seed)


def is_answer(text: str, words: Sequence[str]) -> bool:
    """Whether a text contains one of the words, as a word of its own, ignoring case."""
    return not set(re.findall(r"\w+", text.casefold())).isdisjoint(words)
