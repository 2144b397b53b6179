"""Decoders: causal text blocks with cross-attention to image tokens, which predict the next token.

Axis legend: n rows of tokens, r rows of the context, l tokens, d model width, v vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.decoding import DecodingConfig, Generated, decode
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.transformer import (
    POSITION_STD,
    Block,
    KeyValueCache,
    causal,
    drop_uniform_index,
    init_weights,
    key_padding_mask,
)

TextTower = TextEncoder | CausalTextEncoder
"""Text towers whose token embedding a decoder shares: those trained from scratch."""


class Decoder(nn.Module, ABC):
    """Predicts the next token from the tokens so far and a context, such as an image.

    The text tower is passed to each call and is not a submodule: the model registers its parameters, once.
    """

    def __init__(self, text: TextTower) -> None:
        super().__init__()
        self.max_tokens = text.max_tokens

    def build(self, text: TextTower, layers: int, heads: int, dropout: float, context_dim: int | None) -> None:
        """Build the blocks (causal self-attention, cross-attention, MLP) and the output layer."""
        assert layers > 0, "a decoder without blocks has no cross-attention to the image"
        context_dim = context_dim or text.dim
        self.blocks = nn.ModuleList(
            Block(text.dim, heads, context_dim=context_dim, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(text.dim)
        self.to_words = nn.Linear(text.dim, text.embedding.num_embeddings)
        self.apply(init_weights)

    @abstractmethod
    def states(
        self, tower: TextTower, ids: Int[Tensor, "n l"], start: int, caches: list[KeyValueCache] | None
    ) -> Float[Tensor, "n l d"]:
        """Input of the decoder's first block for tokens at position `start` and after."""

    def empty_caches(self, tower: TextTower) -> list[KeyValueCache]:
        """An empty cache for each block used in generation; those of the decoder's own blocks come last."""
        return [KeyValueCache() for _ in self.blocks]

    def forward(
        self,
        tower: TextTower,
        ids: Int[Tensor, "n l"],
        context: Tokens,
        context_index: Int[Tensor, " n"] | None = None,
        caches: list[KeyValueCache] | None = None,
        chosen: Bool[Tensor, "n l"] | None = None,
    ) -> Float[Tensor, "*words v"]:
        """Logits of the token after each token, [n, l, v]; after the `chosen` ones alone, [r, v].

        With `caches`, `ids` are the newest tokens only, and the logits are the same as without. Padding is on the
        right, so that the causal mask hides it.

        Args:
            tower: the text tower.
            ids: tokens, with their start token.
            context: r rows of tokens for cross-attention.
            context_index: the row of `context` for each row of `ids`, so that captions of an image share its keys
                and values. None: n / r consecutive rows of `ids` share one (n = r: each row has its own).
            caches: from `empty_caches`; modified by the call.
            chosen: True at the tokens after which logits are needed. The output layer is most of the work, and in
                captions of unequal length almost half of the positions are padding.
        """
        start, length = caches[-1].length if caches else 0, ids.shape[1]
        x = self.states(tower, ids, start, caches)
        # A single new token attends to all before it, which needs no mask.
        allowed = causal(length, ids.device, start) if length > 1 else None
        context_index = drop_uniform_index(context_index, len(context.values)) if self.training else context_index
        is_real = context.is_real if context_index is None else context.is_real[context_index]
        own = caches[-len(self.blocks) :] if caches else [None] * len(self.blocks)
        for block, cache in zip(self.blocks, own, strict=True):
            x = block(
                x,
                allowed=allowed,
                context=context.values,
                context_allowed=key_padding_mask(is_real),
                cache=cache,
                context_index=context_index,
            )
        return cast(Tensor, self.to_words(self.norm(x if chosen is None else x[chosen])))

    def logits(
        self,
        tower: TextTower,
        ids: Int[Tensor, "n l"],
        context: Tokens,
        context_index: Int[Tensor, " n"] | None = None,
        chosen: Bool[Tensor, "n l"] | None = None,
    ) -> Float[Tensor, "*words v"]:
        """`forward` in float32, for a loss."""
        return cast(Tensor, self(tower, ids, context, context_index, chosen=chosen)).float()

    @torch.no_grad()
    def write(
        self,
        tower: TextTower,
        context: Tokens,
        start_ids: Int[Tensor, " n"],
        end_id: int,
        config: DecodingConfig,
        banned: Sequence[int] = (),
    ) -> Generated:
        """Generate one text for each row of `context`, after its start token; see `decode`."""
        assert len(start_ids) == len(context.values), f"{len(start_ids)} starts for {len(context.values)} rows"
        caches = self.empty_caches(tower)

        def step(ids: Tensor, rows: Tensor | None) -> Tensor:
            if rows is not None:
                for cache in caches:
                    cache.select(rows)
            return cast(Tensor, self(tower, ids, context, caches=caches))[:, -1]

        return decode(step, start_ids, end_id, config, self.max_tokens, banned)


class CaptionDecoder(Decoder):
    """Shares only the tower's embedding: BLIP's image-grounded text decoder (Li et al. 2022, section 3.1).

    Unlike `MultimodalDecoder`, it works with any tower that has an embedding, and shares none of its blocks.

    Args:
        text: the text tower; determines width, vocabulary and maximum length.
        layers: blocks.
        heads: attention heads.
        dropout: probability in [0, 1) on each residual branch.
        context_dim: width of the tokens looked at; None means the tower's.
    """

    def __init__(
        self, text: TextTower, layers: int, heads: int, dropout: float = 0.0, context_dim: int | None = None
    ) -> None:
        super().__init__(text)
        self.position = nn.Parameter(torch.randn(text.max_tokens, text.dim) * POSITION_STD)
        self.build(text, layers, heads, dropout, context_dim)

    def states(
        self, tower: TextTower, ids: Int[Tensor, "n l"], start: int, caches: list[KeyValueCache] | None
    ) -> Float[Tensor, "n l d"]:
        """Token embedding plus position embedding."""
        return tower.embedding(ids) + self.position[start : start + ids.shape[1]]


class MultimodalDecoder(Decoder):
    """Continues from the token states of a causal tower: CoCa's multimodal text decoder (Yu et al. 2022, section 3.2).

    The tower is used for the contrast as well, so half of the decoder is computed once for both.

    Args:
        text: the causal tower; determines width, vocabulary and maximum length.
        layers: blocks on top of the tower's.
        heads: attention heads.
        dropout: probability in [0, 1) on each residual branch.
        context_dim: width of the tokens looked at; None means the tower's.
    """

    def __init__(
        self, text: CausalTextEncoder, layers: int, heads: int, dropout: float = 0.0, context_dim: int | None = None
    ) -> None:
        super().__init__(text)
        self.build(text, layers, heads, dropout, context_dim)

    def empty_caches(self, tower: TextTower) -> list[KeyValueCache]:
        """Caches of the tower's blocks, then of the decoder's own."""
        assert isinstance(tower, CausalTextEncoder), "generation needs a causal text tower"
        return [KeyValueCache() for _ in (*tower.blocks, *self.blocks)]

    def states(
        self, tower: TextTower, ids: Int[Tensor, "n l"], start: int, caches: list[KeyValueCache] | None
    ) -> Float[Tensor, "n l d"]:
        """The tower's token states, which include the positions."""
        assert isinstance(tower, CausalTextEncoder), "states that depend on later tokens would leak the targets"
        return tower.words(ids, start, None if caches is None else caches[: len(tower.blocks)])
