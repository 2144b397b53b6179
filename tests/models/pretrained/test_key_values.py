"""Rows that join, leave and are repeated in a cache, against the whole pass of each row."""

import pytest
import torch

from chiasm.models.bridge.splicing import GivenRows, spliced
from chiasm.models.encoders.language_model import LanguageModel, LanguageModelConfig
from chiasm.models.pretrained.key_values import KeyValues

pytest.importorskip("transformers", reason="needs the extra [llm]")
from language_folders import network


def read(language: LanguageModel, ids: torch.Tensor) -> KeyValues:
    """The cache after reading one text."""
    given = GivenRows(ids, torch.ones_like(ids).bool())
    rows = spliced(given, language.embed(ids), None, torch.full_like(ids, -1))
    cache = KeyValues()
    language.states(rows.embeddings, rows.allowed, rows.positions, cache)
    return cache


def test_words_behind_an_image_stand_where_its_rows_and_columns_end() -> None:
    """Guards places on axes over rows that are cut, joined and repeated; without an image they are the count."""
    cache, words = KeyValues(), KeyValues()
    positions = torch.arange(6)[None]
    axes = torch.tensor([[[0, 0], [1, 1], [1, 2], [2, 1], [2, 2], [3, 3]]])
    cache.add_positions(positions, axes)
    assert cache.axes_of_words(torch.tensor([[6, 7]]), 2).tolist() == [[[4, 4], [5, 5]]]
    words.add_positions(torch.arange(3)[None], words.axes_of_words(torch.arange(3)[None], 2))
    assert words.axes_of_words(torch.tensor([[3]]), 2).tolist() == [[[3, 3]]]
    cache.append_rows(words)
    cache.select(torch.tensor([1, 0]))
    cache.keep_last(2)
    assert cache.axes_of_words(torch.tensor([[3], [6]]), 2).tolist() == [[[3, 3]], [[4, 4]]]


@torch.no_grad()
def test_rows_join_padded_on_the_left_and_leave() -> None:
    """A row that joins later computes as if it were there from the start; so does one whose neighbour has left."""
    language = LanguageModel(network("gemma3_text", 100), LanguageModelConfig(precision="fp32")).eval()
    ids = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(1))
    texts = [ids[:1, :9], ids[1:, :5]]
    cache = read(language, texts[0])
    cache.append_rows(read(language, texts[1]))
    assert cache.length == 9 and cache.positions[1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    seen = torch.tensor([[True] * 9, [False] * 4 + [True] * 5])
    newest, seen = torch.tensor([[11], [12]]), torch.cat([seen, torch.ones(2, 1).bool()], 1)
    states = language.states(language.embed(newest), seen[:, None], torch.tensor([[9], [5]]), cache)
    logits = [language.words(states[:, 0])]
    cache.select(torch.tensor([1]))
    cache.keep_last(6)
    last = torch.tensor([[13]])
    states = language.states(language.embed(last), torch.ones(1, 1, 7).bool(), torch.tensor([[6]]), cache)
    logits.append(language.words(states[:, 0]))
    wholes = [torch.cat([text, newest[row : row + 1]], 1) for row, text in enumerate(texts)]
    wholes.append(torch.cat([wholes[1], last], 1))
    ours = [logits[0][0], logits[0][1], logits[1][0]]
    for mine, whole in zip(ours, wholes, strict=True):
        theirs = language.network(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0, -1]
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)
