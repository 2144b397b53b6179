"""The head of a conversation: a projector from the image tower into a language model's word embeddings.

Axis legend: n examples, k images, m rows of conversation, l given tokens, e width of word embeddings.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.types import IMAGE_ID, Tokens
from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig
from chiasm.models.bridge.splicing import GivenRows, Spliced, spliced
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.inputs import separated, value_counts
from chiasm.models.pretrained.key_values import KeyValues


class LanguageBridge(nn.Module):
    """Image tokens -> tokens of the width and size of word embeddings.

    The language model is given to each call and is no part of the bridge: its parameters belong to the model's text
    tower, once.

    Args:
        projector: its config.
        shape: widths.
        embedding_rms: root mean square of the word embeddings, where the gain of the last norm starts.
    """

    def __init__(self, projector: ProjectorConfig, shape: BridgeShape, embedding_rms: float) -> None:
        super().__init__()
        self.projector = projector.build(shape)
        self.norm = nn.LayerNorm(shape.text_dim) if projector.output_norm else None
        if self.norm is not None:
            nn.init.constant_(self.norm.weight, embedding_rms)

    def forward(self, image: Tokens) -> Tokens:
        """Tokens of k images -> as many tokens as the projector makes, each [e]."""
        found = cast(Tokens, self.projector(image))
        return found if self.norm is None else found._replace(values=self.norm(found.values))

    def rows(
        self,
        language: LanguageModel,
        image: Tokens | None,
        given: GivenRows,
        image_index: Int[Tensor, " m"],
    ) -> Spliced:
        """Rows of conversation as the language model takes them.

        The j-th placeholder of a row stands for the j-th image of its example. Of an example with fewer images (a blind
        view) the last is repeated; without any, nothing stands there.

        Args:
            language: the language model.
            image: encoded images of n examples; None where no example has one.
            given: the rows.
            image_index: the example that row i is about.
        """
        is_image = (given.ids == IMAGE_ID) & given.is_real
        words = language.embed(given.ids.masked_fill(given.ids < 0, 0))
        if image is None or not bool(is_image.any()):
            return spliced(given, words, None, torch.full_like(given.ids, -1))
        alone, _ = separated(image)
        every = value_counts(image)
        counts, first = every[image_index][:, None], (every.cumsum(0) - every)[image_index][:, None]
        number = torch.minimum(is_image.long().cumsum(1) - 1, counts - 1)
        image_of = torch.where(is_image & (counts > 0), first + number, -1)
        projected = self(alone) if len(alone.values) else None
        return spliced(given, words, projected, image_of)

    def states_at(
        self, language: LanguageModel, rows: Spliced, row: Int[Tensor, " r"], column: Int[Tensor, " r"]
    ) -> Float[Tensor, "r d"]:
        """States at given tokens (row, column), from which what follows is predicted; of an image at its last token."""
        at = rows.ends(row, column)
        shared = 0 if language.recompute or not len(at) else min(rows.shared, int(at.min()))
        cache = KeyValues() if shared else None
        return states_of_rows(language, rows, shared, cache)[row, at - shared]


def states_of_rows(
    language: LanguageModel, rows: Spliced, shared: int, cache: KeyValues | None
) -> Float[Tensor, "m q d"]:
    """States of all positions behind the first `shared` ones, which are computed once for all rows.

    Args:
        language: the language model.
        rows: what it reads.
        shared: at most `rows.shared`, and fewer than there are positions; 0 computes each row by itself.
        cache: empty; gets all positions of all rows. Needed where `shared` is not 0.
    """
    if shared:
        assert cache is not None, "what is shared is passed on as keys and values"
        axes = None if rows.axes is None else rows.axes[:1, :shared]
        language.states(rows.embeddings[:1, :shared], None, rows.positions[:1, :shared], cache, axes)
        cache.select(rows.positions.new_zeros(len(rows.positions)))
    axes = None if rows.axes is None else rows.axes[:, shared:]
    embeddings, positions = rows.embeddings[:, shared:], rows.positions[:, shared:]
    return language.states(embeddings, rows.allowed[:, shared:], positions, cache, axes)
