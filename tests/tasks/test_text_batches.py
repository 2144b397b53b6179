"""Batches of texts: each once, by tokens, and rows that come back in their places."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.tasks import text_batches
from chiasm.tasks.text_batches import encode_texts, in_batches

TEXTS = ["b " * 30, "a", "a b c", "a", "a b d", "b " * 30, "c", "d e f g h", "a b c d e f", "a b"]


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["a b c d e f g h"], 100, 40)


@pytest.mark.parametrize("shares_prefixes", [False, True])
@pytest.mark.parametrize("budget", [1, 32, 40, 64, 10_000])
def test_batches_hold_each_text_once_within_the_tokens(
    tokenizer: TextTokenizer, budget: int, shares_prefixes: bool
) -> None:
    """Guards against a text computed twice or lost, and a batch whose padding passes the budget."""
    batches = list(in_batches(TEXTS, tokenizer, shares_prefixes, budget))
    assert sorted(text for batch in batches for text in batch) == sorted(set(TEXTS))
    for batch in batches:
        lengths = [len(tokenizer.ids(text)) for text in batch]
        computed = sum(lengths) if shares_prefixes else len(batch) * -(-max(lengths) // 16) * 16
        assert computed <= budget or len(batch) == 1
    if budget == 10_000:
        assert len(batches) == 1


def test_texts_that_begin_alike_stand_together(tokenizer: TextTokenizer) -> None:
    """Guards against beginnings that fall into different batches and are computed in each."""
    assert text_batches.ordered(["b", "a b c", "a", "a b"], tokenizer, True) == ["a", "a b", "a b c", "b"]
    assert text_batches.ordered(["a b c", "b", "a b"], tokenizer, False) == ["b", "a b", "a b c"]


def test_rows_come_back_in_their_places(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a vector that is returned under another text's place, and against texts encoded twice."""
    monkeypatch.setattr(text_batches, "TOKENS_AT_ONCE", 48)
    model = cast(Any, SimpleNamespace(shares_prefixes=False, parameters=lambda: iter([nn.Parameter(torch.zeros(1))])))
    asked: list[str] = []
    done: list[tuple[int, int]] = []

    def encode(some: Sequence[str]) -> np.ndarray:
        asked.extend(some)
        return np.array([[len(text), text.count("b")] for text in some], dtype=np.float32)

    codec = cast(Any, SimpleNamespace(tokenizer=tokenizer))
    found = encode_texts(TEXTS, model, codec, encode, lambda *counts: done.append(counts))
    assert found.tolist() == [[len(text), text.count("b")] for text in TEXTS]
    assert sorted(asked) == sorted(set(TEXTS))
    assert done[-1] == (8, 8) and len(done) > 2
