"""Heads: what a task asks of the model beside its towers, fusion and shared space.

A task names one `HeadSpec`; the model builds it and keeps it as `model.heads[task]`, where the task finds it. A new
kind of head is a new subclass, wherever it stands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from torch import nn

from chiasm.models.bridge.language_bridge import LanguageBridge
from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig
from chiasm.models.decoder import CaptionDecoder, MultimodalDecoder
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.transformer import init_weights


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Sizes of the model that heads are built for."""

    dim: int
    """Token width of the model."""
    image_dim: int
    """Width of the image tower's pooled vector."""
    fused_dim: int
    """Width of fusion's pooled vector; 0 without fusion."""
    fused_token_dim: int
    """Width of fused tokens; 0 without fusion."""
    heads: int
    """Attention heads of a decoder."""
    layers: int
    """Blocks of a decoder."""
    dropout: float
    vocabulary: int
    """Token ids of the tokenizer."""
    text_encoder: nn.Module
    """The text tower, whose embeddings a decoder shares."""
    image_encoder: nn.Module
    """The image tower, whose codes a prior draws."""
    token_dim: int
    """Width of the image tower's tokens."""
    grid_of: Callable[[int], tuple[int, int]]
    """As `ImageTowerConfig.grid_of`."""


class HeadSpec(ABC):
    """How one head is built.

    Attributes:
        reads: "pooled", the image tower's vector; "tokens", its tokens as they are; "image", the image as fusion takes
            it; "fused", what fusion returns.
    """

    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]]

    @abstractmethod
    def build(self, shape: HeadShape) -> nn.Module:
        """The head, with new weights."""


@dataclass(frozen=True, slots=True)
class PooledClasses(HeadSpec):
    """A linear layer on the image tower's pooled vector [n, d] -> logits [n, outputs]."""

    outputs: int
    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "pooled"

    def build(self, shape: HeadShape) -> nn.Module:
        """Linear with bias."""
        return nn.Linear(shape.image_dim, self.outputs)


@dataclass(frozen=True, slots=True)
class FusedClasses(HeadSpec):
    """An MLP on fusion's pooled vector [m, d] -> logits [m, outputs]; its hidden width is `widening` model widths."""

    outputs: int
    widening: int = 1
    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "fused"

    def build(self, shape: HeadShape) -> nn.Module:
        """Linear, GELU, linear."""
        return _mlp(shape.fused_dim, self.widening * shape.dim, self.outputs)


@dataclass(frozen=True, slots=True)
class FusedWords(HeadSpec):
    """An MLP on fused tokens [r, d] -> logits over the tokenizer's vocabulary [r, v]."""

    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "fused"

    def build(self, shape: HeadShape) -> nn.Module:
        """Linear, GELU, linear."""
        return _mlp(shape.fused_token_dim, shape.dim, shape.vocabulary)


@dataclass(frozen=True, slots=True)
class ImageWriter(HeadSpec):
    """A decoder that writes about images; with a causal text tower, on top of the tower itself (CoCa)."""

    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "image"

    def build(self, shape: HeadShape) -> nn.Module:
        """The decoder."""
        tower = shape.text_encoder
        if isinstance(tower, CausalTextEncoder):
            return MultimodalDecoder(tower, shape.layers, shape.heads, shape.dropout)
        return CaptionDecoder(cast(TextEncoder, tower), shape.layers, shape.heads, shape.dropout)


@dataclass(frozen=True, slots=True)
class FusedWriter(HeadSpec):
    """A decoder that writes about fused rows."""

    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "fused"

    def build(self, shape: HeadShape) -> nn.Module:
        """The decoder."""
        tower = cast(TextEncoder, shape.text_encoder)
        return CaptionDecoder(tower, shape.layers, shape.heads, shape.dropout, context_dim=shape.fused_token_dim)


@dataclass(frozen=True, slots=True)
class LanguageWriter(HeadSpec):
    """A bridge through which a language model, the text tower, sees images and writes about them."""

    projector: ProjectorConfig
    reads: ClassVar[Literal["pooled", "tokens", "image", "fused"]] = "tokens"

    def build(self, shape: HeadShape) -> nn.Module:
        """The bridge."""
        language = shape.text_encoder
        assert isinstance(language, LanguageModel), "the text tower is no language model"
        sizes = BridgeShape(shape.token_dim, language.embedding_dim, shape.grid_of)
        return LanguageBridge(self.projector, sizes, language.embedding_rms)


def build_heads(specs: Mapping[str, HeadSpec], shape: HeadShape) -> nn.ModuleDict:
    """The heads of all tasks, by the task's name, in the order given."""
    return nn.ModuleDict({task: spec.build(shape) for task, spec in specs.items()})


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    head = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
    head.apply(init_weights)
    return head
