"""The bridge: size of its tokens, and which image stands for which placeholder."""

import torch
from projecting import SHAPE

from chiasm.core.types import IMAGE, IMAGE_ID, Example, Tokens
from chiasm.models.bridge.language_bridge import LanguageBridge, states_of_rows
from chiasm.models.bridge.mlp2x_gelu import MlpProjectorConfig
from chiasm.models.bridge.splicing import GivenRows
from chiasm.models.pretrained.key_values import KeyValues
from chiasm.pipeline.pipeline import Pipeline
from speaking import encoded_of, image


@torch.no_grad()
def test_tokens_start_as_large_as_word_embeddings() -> None:
    bridge = LanguageBridge(MlpProjectorConfig(), SHAPE, embedding_rms=0.05)
    values = torch.randn(4, 9, 6) * 30
    found = bridge(Tokens(values, torch.ones(4, 9, dtype=torch.bool), values.mean(1))).values
    torch.testing.assert_close(found.square().mean().sqrt(), torch.tensor(0.05), rtol=0.02, atol=0)


@torch.no_grad()
def test_placeholders_take_the_images_of_their_example_in_order(speaker: Pipeline) -> None:
    """Of an example with fewer images the last is repeated; without any, nothing stands there."""
    one, two = image(1), image(2)
    examples = [Example("a", {IMAGE: (one, two)}), Example("b", {IMAGE: two}), Example("c", {})]
    image_tokens, bridge = encoded_of(speaker, examples)[IMAGE], speaker.model.bridge("conversation")
    first, second = (bridge(speaker.encode_images([shown])).values[0] for shown in (one, two))
    ids = torch.tensor([[IMAGE_ID, 5, IMAGE_ID]]).expand(3, -1)
    given = GivenRows(ids, torch.ones_like(ids).bool())
    rows = bridge.rows(speaker.model.language, image_tokens, given, torch.tensor([0, 1, 2]))
    for row, shown in ((0, (first, second)), (1, (second, second))):
        torch.testing.assert_close(rows.embeddings[row, :9], shown[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(rows.embeddings[row, 10:], shown[1], atol=1e-5, rtol=1e-4)
    assert rows.is_real.sum(1).tolist() == [19, 19, 1]


def test_words_that_all_rows_begin_with_are_computed_once(speaker: Pipeline) -> None:
    """Shared = not shared, in value, gradient, and what the cache holds afterwards."""
    shown = encoded_of(speaker, [Example("a", {IMAGE: image(1)}), Example("b", {IMAGE: image(2)})])[IMAGE]
    language, bridge = speaker.model.language, speaker.model.bridge("conversation")
    ids = torch.tensor([[7, 8, 9, IMAGE_ID, 5, 6], [7, 8, 9, IMAGE_ID, 6, 5]])
    is_real = torch.tensor([[True] * 6, [True] * 5 + [False]])
    row, column = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 5, 3, 4])
    found = []
    for shares in (True, False):
        rows = bridge.rows(language, shown, GivenRows(ids, is_real), torch.tensor([0, 1]))
        assert rows.shared == 3
        caches = KeyValues()
        with torch.no_grad():
            states_of_rows(language, rows, 3 if shares else 0, caches)
        states = bridge.states_at(language, rows if shares else rows._replace(shared=0), row, column)
        speaker.model.zero_grad()
        states.square().sum().backward()
        gradients = [one.grad.clone() for one in speaker.model.parameters() if one.grad is not None]
        kept = [part for layer in caches.cache.layers for part in (layer.keys, layer.values)]
        found.append((states.detach(), gradients, kept, caches.positions))
    assert len(found[0][1]) > 10
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-3)
