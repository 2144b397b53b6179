"""The prior of DALL-E: one causal transformer over a caption's tokens, then an image's tokens.

After Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.2 and appendix B: every text position has a
padding token of its own, image tokens have a learned row and column position, and text and image have an output layer
each. The paper's sparse attention patterns are left out: with a few hundred tokens full attention is the faster one.

Axis legend: m captions with an image each, t text positions, p image tokens, d model width, k codes of the image
tokenizer, v vocabulary of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import TextTokens
from chiasm.models.decoder import TextTower
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.heads import HeadShape, HeadSpec
from chiasm.models.transformer import POSITION_STD, Block, KeyValueCache, causal, init_weights

IMPOSSIBLE = -1e4
"""Logit of a token that its place cannot have; finite, so that guidance may subtract it from itself."""


@runtime_checkable
class ImageTokenizer(Protocol):
    """What drawing needs of an image tower: image -> ids -> image, such as `encoders.image_codes.ImageCodes`.

    Attributes:
        part_codes: how many ids each of the ids of a cell may be: the first ids the first, the next ones the second.
        grid: rows and columns of an image's ids; those of a cell stand side by side.
    """

    part_codes: tuple[int, ...]
    grid: tuple[int, int]

    def ids(self, pixels: Tensor) -> Tensor:
        """Images float [n, 3, h, w] in [-1, 1] -> int64 [n, rows * columns], row by row."""
        ...

    def ids_of(self, values: Tensor) -> Tensor:
        """Values [n, rows * columns, d] that the tower returned in evaluation, or a cache of them -> the same ids."""
        ...

    def pixels(self, ids: Tensor) -> Tensor:
        """Ids int64 [n, rows * columns] -> images float [n, 3, h, w] in [0, 1]."""
        ...


class ImagePrior(nn.Module):
    """Predicts each token of a caption, then each token of its image, from all tokens before it.

    The text tower is passed to each call and is not a submodule: the prior reads words with the tower's embedding.

    Args:
        text: the tower; determines width and text positions.
        part_codes: ids of each code of a cell, see `ImageTokenizer`.
        grid: rows and columns of an image's ids.
        layers: blocks.
        heads: attention heads.
        dropout: probability in [0, 1) on each residual branch.

    Attributes:
        text_length: text positions t, the same for every caption.
        image_length: tokens of an image.
        codes: different image tokens k.
        parts: tokens of a cell.
        is_possible: bool [p, k], True for the tokens that each place may have.
    """

    is_possible: Tensor

    # Six arguments, the sizes of a transformer.
    def __init__(
        self,
        text: TextTower,
        part_codes: tuple[int, ...],
        grid: tuple[int, int],
        layers: int,
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dim, (rows, columns) = text.dim, grid
        self.codes, self.grid = sum(part_codes), grid
        self.text_length, self.image_length = text.max_tokens, rows * columns
        self.parts = len(part_codes)
        part = torch.repeat_interleave(torch.arange(len(part_codes)), torch.tensor(part_codes))
        is_possible = torch.arange(self.image_length)[:, None] % len(part_codes) == part
        self.register_buffer("is_possible", is_possible, persistent=False)
        self.padding = nn.Parameter(torch.randn(self.text_length, dim))
        self.text_position = nn.Parameter(torch.randn(self.text_length, dim) * POSITION_STD)
        self.code_embedding = nn.Embedding(self.codes, dim)
        self.row_position = nn.Parameter(torch.randn(rows, dim) * POSITION_STD)
        self.column_position = nn.Parameter(torch.randn(columns, dim) * POSITION_STD)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.to_words = nn.Linear(dim, text.embedding.num_embeddings)
        self.to_codes = nn.Linear(dim, self.codes)
        self.apply(init_weights)

    def text_states(self, tower: TextTower, text: TextTokens) -> Float[Tensor, "m t d"]:
        """Embeddings of captions, whose every position past the end is that position's padding token."""
        ids, is_real = (part[:, : self.text_length] for part in text)
        room = self.text_length - ids.shape[1]
        words = F.pad(tower.embedding(ids), (0, 0, 0, room))
        return torch.where(F.pad(is_real, (0, room))[..., None], words, self.padding) + self.text_position

    def image_states(self, ids: Int[Tensor, "m p"], start: int = 0) -> Float[Tensor, "m p d"]:
        """Embeddings of image tokens `start` and after, each with the position of its row and column."""
        places = (self.row_position[:, None] + self.column_position[None]).flatten(0, 1)
        return self.code_embedding(ids) + places[start : start + ids.shape[1]]

    def empty_caches(self) -> list[KeyValueCache]:
        """An empty cache for each block."""
        return [KeyValueCache() for _ in self.blocks]

    def run(
        self, states: Float[Tensor, "m l d"], caches: Sequence[KeyValueCache] | None = None
    ) -> Float[Tensor, "m l d"]:
        """The blocks and the last norm; with `caches` the states are those of the newest tokens only."""
        start, length = caches[0].length if caches else 0, states.shape[1]
        # A single new token attends to all before it, which needs no mask.
        needs_mask = length > 1 and not (caches and caches[0].by_query)
        allowed = causal(length, states.device, start) if needs_mask else None
        kept: Sequence[KeyValueCache | None] = caches or [None] * len(self.blocks)
        for block, cache in zip(self.blocks, kept, strict=True):
            states = block(states, allowed=allowed, cache=cache)
        return self.norm(states)

    def code_logits(self, states: Float[Tensor, "m w d"], start: int = 0) -> Float[Tensor, "m w k"]:
        """Logits, in float32, of image tokens `start` and after, each by the state before it."""
        logits: Tensor = self.to_codes(states).float()
        if self.parts == 1:
            return logits
        return logits.masked_fill(~self.is_possible[start : start + states.shape[1]], IMPOSSIBLE)

    def forward(
        self, tower: TextTower, text: TextTokens, ids: Int[Tensor, "m p"]
    ) -> tuple[Float[Tensor, "r v"], Int[Tensor, " r"], Float[Tensor, "m p k"]]:
        """Teacher forcing: the logits of every caption's tokens and of every image's.

        Args:
            tower: the text tower.
            text: captions with their start tokens; tokens beyond `text_length` are not read.
            ids: all tokens of the image of each caption.

        Returns:
            Logits, float32, of the r words after a start token, these words, and the logits of the image tokens.
        """
        states = torch.cat([self.text_states(tower, text), self.image_states(ids[:, :-1])], dim=1)
        states = self.run(states)
        follows: Bool[Tensor, "m l"] = text.is_real[:, 1 : self.text_length]
        words = self.to_words(states[:, : follows.shape[1]][follows]).float()
        targets = text.ids[:, 1 : self.text_length][follows]
        return words, targets, self.code_logits(states[:, self.text_length - 1 :])


@dataclass(frozen=True, slots=True)
class ImageDrawer(HeadSpec):
    """A prior over the captions of the text tower and the ids of the image tower, which is an image tokenizer."""

    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "tokens"

    def build(self, shape: HeadShape) -> nn.Module:
        """The prior."""
        tokenizer, text = shape.image_encoder, shape.text_encoder
        assert isinstance(tokenizer, ImageTokenizer), "the image tower has no codes"
        assert isinstance(text, TextEncoder | CausalTextEncoder), "the text tower does not share its embedding"
        return ImagePrior(text, tokenizer.part_codes, tokenizer.grid, shape.layers, shape.heads, shape.dropout)
