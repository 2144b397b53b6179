"""Config of the model: sizes and kinds of its parts."""

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
    """Fusion method; docs/fusion.md compares them."""
    fusion_layers: int = 2
    fusion_mlp_ratio: float = 4.0
    decoder_layers: int = 2
    embedding_dim: int = 256
    """Width of the shared space of images and texts."""
    modality_dropout: float = 0.0
    """Probability, in [0, 1), that fusion gets a training row without its image; of the other rows, as many lose their
    text."""
    projection_hidden: int = 0
    """Hidden width of the projection into that space; 0 means a linear projection."""
    dropout: float = 0.0
    execution: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """How an opened model computes on a CPU: in the number format of its weights; with weights in bf16;
    with weights and inputs in eight bits; or in the fastest of them whose outputs stay within a stated distance of
    fp32. Training does not read it."""
    least_cosine: float = 0.999
    """Least cosine to fp32 that outputs in another number format must have, in [-1, 1]; a part that is further off
    computes in fp32. Of 0.999 or more, answers about the stored example must stay too. `chiasm compress --to int8` sets
    0.9, since its gate measures what eight bits cost in the score."""
    network: str = ""
    """Local folder of a pre-trained vision-language network (BLIP, ViLT) replacing all parts; `image` and `text` then
    name the same folder, for its preprocessing and its tokenizer."""
    image: ImageTowerConfig = field(default_factory=ConvConfig, metadata=by_kind(lambda: IMAGE_ENCODERS))
    """The image encoder; its other keys depend on `kind`."""
    text: TextTowerConfig = field(default_factory=TransformerTextConfig, metadata=by_kind(lambda: TEXT_ENCODERS))
    """The text encoder; its other keys depend on `kind`."""

    pruned: tuple[str, ...] = ()
    """"MODULE=KEPT": how many heads, hidden units or blocks a pruned module has kept (`models.pruning`). `chiasm
    compress` sets it, and a run takes that of `init_from`."""
    inputs: Mapping[str, ImageTowerConfig] = field(default_factory=dict, metadata=by_kind_each(lambda: IMAGE_ENCODERS))
    """Encoders of further inputs of an example, by the input's name; an example may lack any of them."""

    def check(self, where: str) -> None:
        """Check ranges; `where` is the name of this section in the config.

        Raises:
            InputError: a size is not above 0, `dim` is no multiple of `heads`, `max_tokens` is below 3, or
                `least_cosine` is no cosine.
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
        if not -1 <= self.least_cosine <= 1:
            raise InputError(
                f"{where}.least_cosine is {self.least_cosine}", "-1 to 1", f"--set {where}.least_cosine=0.999"
            )

    def encoder_shape(self, vocabulary: int = 0) -> EncoderShape:
        """The sizes for encoders trained from scratch; `vocabulary` is the number of token ids of the tokenizer."""
        return EncoderShape(self.dim, self.heads, self.dropout, vocabulary)
