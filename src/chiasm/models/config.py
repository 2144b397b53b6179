"""Sizes and kinds of a model's parts, as a run's config says them."""

from dataclasses import dataclass, field
from typing import Literal

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
ProjectionName = Literal["norm", "linear", "none", "classes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTowerConfig:
    """The image encoder."""

    kind: Literal["conv", "keypoints", "efficientnet_lite0", "hugging_face"] = "conv"
    """From scratch: a grid of tokens ("conv"), or a few points that know where they are ("keypoints"), for few things
    anywhere and questions on how they lie. Packaged: "efficientnet_lite0". A folder's own: "hugging_face"."""
    name: str = ""
    """Folder of the network, local, with its preprocessing and safetensors (kind "hugging_face")."""
    projection: ProjectionName = "norm"
    """How the tower's vector gets into the space shared with texts: layer norm, then linear or MLP ("norm"); linear
    alone, as CLIP does; or not at all, as SigLIP does, whose vector is as wide as the space. "classes" is "norm" beside
    the vector among ImageNet's 1,000 classes that the starter has (`init_from=starter` sets it)."""
    size_px: int = 48
    """Side of the square that pictures are resized to; the height where `width_px` is given. A folder of kind
    "hugging_face" brings its own size."""
    width_px: int = 0
    """Width of the pictures; 0 means a square."""
    centred: bool = False
    """Start the small convolutional tower from what differs between places: for pictures that are mostly empty and hold
    their objects anywhere. On scenes, whose objects fill the cells of a grid, it costs accuracy (docs/log.md)."""
    channels: tuple[int, ...] = (32, 64, 128, 128)
    """Output channels of the stem's 3x3 convolutions (kinds "conv" and "keypoints"), each of stride 2; of "keypoints"
    the last has stride 1."""
    points: int = 12
    """Points that a picture is read at (kind "keypoints"): about twice as many as it shows things."""
    layers: int = 1
    """Blocks of attention among the image tokens (kinds "conv" and "keypoints")."""
    frozen: bool = False
    """Keep the pre-trained weights and encode each picture once; the outputs are cached by content."""
    grid: bool = False
    """Give fusion and captions the frozen tower's grid of tokens; without it a picture is its pooled vector alone."""
    pool_queries: int = 0
    """Learned queries that gather the picture for captions, with one more for contrast (CoCa); 0 takes the grid and
    its mean."""

    @property
    def from_scratch(self) -> bool:
        """Whether the tower starts untrained, is as wide as the model, and is shown the whole picture, squeezed."""
        return self.kind in ("conv", "keypoints")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTowerConfig:
    """The text encoder."""

    kind: Literal[
        "transformer", "causal", "two_stream", "minilm", "multilingual_e5", "multilingual_use", "hugging_face"
    ] = "transformer"
    """From scratch: words that see all words ("transformer"), that see the words before them ("causal", CoCa), that
    can also be predicted in any order ("two_stream", XLNet). Packaged: "minilm" reads English, "multilingual_use"
    sixteen languages at a tenth of the cost, "multilingual_e5" a hundred. A folder's own: "hugging_face"."""
    name: str = ""
    """Folder of the network, local, with its tokenizer and safetensors (kind "hugging_face")."""
    projection: ProjectionName = "norm"
    """As `ImageTowerConfig.projection`."""
    summary_std: float = 1.0
    """Spread of learned summary tokens at the start; words have 1, of which a summary token first gathers the mean."""
    layers: int = 1
    max_tokens: int = 48
    """Longest text in tokens, special tokens included; longer texts are cut and counted."""
    vocabulary: int = 4000
    """Largest vocabulary that the tokenizer may learn from the data (kind "transformer")."""
    summary_tokens: int = 0
    """Learned tokens that gather a question for fusion; 0 lets every word take part."""
    frozen: bool = False

    @property
    def from_scratch(self) -> bool:
        """Whether the tower learns its words from the data; others bring words, and lend them to no decoder."""
        return self.kind in ("transformer", "causal", "two_stream")


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
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
