"""Batches of texts for a text tower: each distinct text once, texts of like lengths together, by a number of tokens.

A vector does not depend on the batch (`models.batch_invariant`), so that neither the order nor the batches show.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from chiasm.core.types import TextTokens
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.batch_invariant import TOKEN_MULTIPLE
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.codec import Codec
from chiasm.tasks.texts import batch_invariant_tokens

TOKENS_AT_ONCE = 2048
"""Tokens in a batch on a CPU (docs/encoding.md compares budgets)."""
TOKENS_AT_ONCE_ELSEWHERE = 16_384
"""Tokens in a batch on a GPU, as in Hugging Face's text-embeddings-inference."""
MOST_TEXTS = 1024
"""Texts in a batch, however short they are."""
Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Encodes texts as one batch: m texts -> [m, d]."""


def ordered(texts: Sequence[str], tokenizer: TextTokenizer, shares_prefixes: bool) -> list[str]:
    """Texts in the order in which batches take them: by their tokens where beginnings are shared, else by length."""
    if shares_prefixes:
        return sorted(texts, key=tokenizer.ids)
    return sorted(texts, key=lambda text: len(tokenizer.ids(text)))


def in_batches(
    texts: Sequence[str], tokenizer: TextTokenizer, shares_prefixes: bool, tokens_at_once: int
) -> Iterator[list[str]]:
    """Distinct texts in batches of at most so many tokens, padding included where it is computed; at least one text."""
    batch: list[str] = []
    total = longest = 0
    for text in ordered(list(dict.fromkeys(texts)), tokenizer, shares_prefixes):
        length = tokenizer.padded_length(len(tokenizer.ids(text)))
        longest = max(longest, -(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE)
        total += length
        computed = total if shares_prefixes else longest * (len(batch) + 1)
        if batch and (computed > tokens_at_once or len(batch) == MOST_TEXTS):
            yield batch
            batch, total, longest = [], length, -(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
        batch.append(text)
    if batch:
        yield batch


def encode_texts(
    texts: Sequence[str],
    model: VisionLanguageModel,
    codec: Codec,
    encode: Encode,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """Encode one or more texts in batches -> a row for each text, in their order.

    Args:
        texts: any texts; equal ones are encoded once.
        model: its text tower decides the order, its device the size of a batch.
        codec: its tokenizer measures the texts.
        encode: encodes the texts of one batch.
        progress: called with (distinct texts done, all distinct texts).
    """
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    is_cpu = next(model.parameters()).device.type == "cpu"
    budget = TOKENS_AT_ONCE if is_cpu else TOKENS_AT_ONCE_ELSEWHERE
    found: npt.NDArray[np.float32] | None = None
    done = 0
    for batch in in_batches(list(place), codec.tokenizer, model.shares_prefixes, budget):
        rows = encode(batch)
        if found is None:
            found = np.empty((len(place), *rows.shape[1:]), dtype=rows.dtype)
        found[[place[text] for text in batch]] = rows
        done += len(batch)
        progress(done, len(place))
    assert found is not None, "at least one text"
    return found if len(place) == len(texts) else found[[place[text] for text in texts]]


def tower_vectors(texts: Sequence[str], model: VisionLanguageModel, codec: Codec) -> npt.NDArray[np.float32]:
    """One or more texts -> vectors of the text tower [m, d], before any projection."""
    device = next(model.parameters()).device

    def encode(some: Sequence[str]) -> npt.NDArray[np.float32]:
        tokens = batch_invariant_tokens(some, codec, model.config)
        return model.text_vectors(TextTokens(*(part.to(device) for part in tokens))).float().cpu().numpy()

    with torch.no_grad():
        return encode_texts(texts, model, codec, encode)
