"""Sizes and kinds of a model's parts, as a run's config says them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chiasm.core.config import by_kind, by_kind_each, check_positive
from chiasm.core.errors import InputError
from chiasm.models.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig, TextTowerConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.text import TransformerTextConfig

FusionName = Literal[
    "sum",
    "shared_sum",
    "concat_mlp",
    "gated",
    "bilinear",
    "film",
    "cross_attention",
    "co_attention",
    "merged_attention",
    "align_then_fuse",
    "resampler",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and parts of the model; parts that no task uses are not built."""

    dim: int = 128
    """Token width."""
    heads: int = 2
    fusion: FusionName = "cross_attention"
    """How pictures and words meet; docs/fusion.md compares the methods."""
    fusion_layers: int = 2
    fusion_mlp_ratio: float = 4.0
    decoder_layers: int = 2
    embedding_dim: int = 256
    """Width of the space that pictures and sentences share."""
    modality_dropout: float = 0.0
    """Probability, in [0, 1), that fusion sees a training row without its picture; as often, among the rest, without
    its text."""
    projection_hidden: int = 0
    """Hidden width of the projection into that space; 0 means a linear projection."""
    dropout: float = 0.0
    network: str = ""
    """Folder of a whole network of pictures and words (BLIP, ViLT), local, in place of all the parts named here; the
    towers below then name the same folder, for its preprocessing and its tokenizer."""
    image: ImageTowerConfig = field(default_factory=ConvConfig, metadata=by_kind(lambda: IMAGE_ENCODERS))
    """The image encoder; `kind` decides which keys there are."""
    text: TextTowerConfig = field(default_factory=TransformerTextConfig, metadata=by_kind(lambda: TEXT_ENCODERS))
    """The text encoder; `kind` decides which keys there are."""

    inputs: Mapping[str, ImageTowerConfig] = field(default_factory=dict, metadata=by_kind_each(lambda: IMAGE_ENCODERS))
    """Encoders of further inputs of an example, by the input's name; an example may lack any of them."""

    def check(self, where: str) -> None:
        """Check what the types do not; `where` is the section's name in the config.

        Raises:
            InputError: a size that is not above 0, heads of unequal width, or texts too short for a word.
        """
        check_positive({f"{where}.dim": self.dim, f"{where}.heads": self.heads})
        self.image.check()
        if self.dim % self.heads:
            raise InputError(
                f"{where}.dim {self.dim} is no multiple of {where}.heads {self.heads}", "equal heads", "change one"
            )
        if self.text.max_tokens < 3:
            raise InputError(
                f"{where}.text.max_tokens is {self.text.max_tokens}",
                "3 or more: start, a word, end",
                f"--set {where}.text.max_tokens=48",
            )

    def encoder_shape(self, vocabulary: int = 0) -> EncoderShape:
        """The sizes that encoders trained from scratch take from here; `vocabulary` is the tokenizer's."""
        return EncoderShape(self.dim, self.heads, self.dropout, vocabulary)
