"""Base classes of encoder configs: the keys of a kind, how it is built, its preprocessing or tokenizer, its files.

An encoder's file has the module and a subclass of `ImageTowerConfig` or `TextTowerConfig`. The tables in
`models.encoders` map a `kind` to that subclass; no other code branches on a kind.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from tokenizers import Tokenizer
from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.resizing import Resizing

ProjectionName = Literal["norm", "linear", "none", "classes"]


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of the model that an encoder trained from scratch is built with."""

    dim: int
    """Token width."""
    heads: int
    """Attention heads."""
    dropout: float = 0.0
    """Probability, in [0, 1), on each residual branch."""
    vocabulary: int = 0
    """Number of token ids of the tokenizer, for a text encoder."""


class ImagePreprocessing(NamedTuple):
    """Preprocessing of an image before its encoder; read once per pipeline.

    Attributes:
        resizing: to uint8 pixels of one size; the encoder itself normalises them.
        name: part of the cache key of the encoder's outputs; it changes when the preprocessing changes.
    """

    resizing: Resizing
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTowerConfig(ABC):
    """The image encoder: keys of every kind."""

    kind: str = ""
    """Kind of encoder: a key of `models.encoders.IMAGE_ENCODERS`."""
    projection: ProjectionName = "norm"
    """Projection of the tower's vector into the space shared with texts: layer norm, then linear or MLP ("norm");
    linear alone, as in CLIP; or none, as in SigLIP, whose vector is as wide as the space. "classes" is "norm",
    concatenated with the starter's vector over ImageNet's 1,000 classes (`init_from=starter` sets it)."""
    size_px: int = 48
    """Side of the square that images are resized to; the height if `width_px` is set."""
    width_px: int = 0
    """Width of the images; 0 means a square."""
    frozen: bool = False
    """Keep the pre-trained weights and encode each image once; the outputs are cached by content."""
    grid: bool = False
    """Pass the frozen tower's grid of tokens to fusion and captions; if False, only its pooled vector."""
    pool_queries: int = 0
    """Learned queries that pool the image tokens for captions, plus one for contrast (CoCa); 0 uses the grid and its
    mean."""

    modality: ClassVar[str] = "image"
    """Modality of the input: a key of `data.modalities.MODALITIES`."""
    from_scratch: ClassVar[bool] = False
    """True: the tower starts untrained, is as wide as the model, and images are resized without keeping their shape."""
    is_packaged: ClassVar[bool] = False
    """True: the weights come from an installed package; a run folder omits them while they are frozen."""
    gives_equal_tokens: ClassVar[bool] = True
    """True: every image becomes equally many tokens, so that a frozen tower's output can be cached."""
    has_codes: ClassVar[bool] = False
    """True: the tower is an image tokenizer, `models.prior.ImageCodes`, whose codes a prior can draw."""
    has_linear_layers: ClassVar[bool] = True
    """True: the tower has linear layers that low-rank adaptation can adapt (`train.adapt=lora`)."""

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.size_px, self.width_px or self.size_px

    @abstractmethod
    def build(self, shape: EncoderShape) -> nn.Module:
        """Build the encoder: float images [n, 3, h, w] in [-1, 1] -> Tokens.

        Its `dim` is the width of `pooled`; `token_dim`, if it has one, is the width of `values`.
        """

    def preprocessing(self) -> ImagePreprocessing:
        """The preprocessing: from scratch, a resize to the size; pre-trained, a resize that covers it and a crop.

        Raises:
            InputError: the encoder comes from a folder without a preprocessing file.
        """
        method: Literal["squeeze", "cover"] = "squeeze" if self.from_scratch else "cover"
        name = f"{self.size_px}" + (f"x{self.width_px}" if self.width_px else "")
        return ImagePreprocessing(Resizing(method, self.shape_px), name)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of the grid of `tokens` tokens; further tokens, such as a class token, come before it."""
        height, width = self.shape_px
        rows = math.isqrt(max(tokens * height // width, 1))
        return rows, rows * width // height

    def moved_to(self, folder: Path) -> "ImageTowerConfig":
        """The config of the same tower when its files are in a run folder."""
        return self

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """Further files of a run folder that describe the encoder: file name -> content."""
        return {}

    def check(self) -> None:
        """Check ranges of numbers, which types do not.

        Raises:
            InputError: names the key and its range.
        """
        above_zero("model.image.size_px", self.size_px)


class TextLimits(NamedTuple):
    """Limits of a text network's input.

    Attributes:
        max_tokens: maximum length of a text, special tokens included.
        vocabulary: number of token embeddings.
        pads_to_max: True where every text is padded to `max_tokens`, as in pre-training (SigLIP).
    """

    max_tokens: int
    vocabulary: int
    pads_to_max: bool


@dataclass(frozen=True, slots=True)
class LearnedTokenizer:
    """The tokenizer is learned from the texts of the training data."""

    vocabulary: int
    """Maximum number of token ids."""


@dataclass(frozen=True, slots=True)
class PackagedTokenizer:
    """The tokenizer comes with an installed package."""

    load: Callable[[], Tokenizer]
    """Loads it, without padding and truncation."""
    before: tuple[str, ...]
    """Special tokens before each text."""
    after: tuple[str, ...]
    pad: str
    mask: str = ""
    """The mask token; "" where the network has none."""
    is_wrap_stored: bool = True
    """True: `tokenizer.json` of a run folder also holds these special tokens; False: the tokenizer alone."""


@dataclass(frozen=True, slots=True)
class FolderTokenizer:
    """The tokenizer is read from the folder that the network comes from."""

    folder: Path
    limits: Callable[[], TextLimits]
    """Reads the network's input limits, without its weights."""
    has_clip_merges: bool = False
    """True: a folder without `tokenizer.json` may hold CLIP's list of merges instead (open_clip's layout)."""


@dataclass(frozen=True, slots=True)
class ChatTokenizerSource:
    """The tokenizer of a language model, with its template of conversations."""

    folder: Callable[[], Path]
    """Finds the folder in Hugging Face layout that holds it."""
    takes_images: bool = False
    """The folder holds a network of images and words, whose template writes a token of its own for an image."""


TokenizerSource = LearnedTokenizer | PackagedTokenizer | FolderTokenizer | ChatTokenizerSource


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTowerConfig(ABC):
    """The text encoder: keys of every kind."""

    kind: str = ""
    """Kind of encoder: a key of `models.encoders.TEXT_ENCODERS`."""
    projection: ProjectionName = "norm"
    """As `model.image.projection`."""
    max_tokens: int = 48
    """Maximum length of a text in tokens, special tokens included; longer texts are truncated and counted."""
    frozen: bool = False
    """Keep the pre-trained weights and encode each text once."""

    from_scratch: ClassVar[bool] = False
    """True: the token embeddings are trained from scratch, and decoders share them."""
    is_packaged: ClassVar[bool] = False
    """As `ImageTowerConfig.is_packaged`."""
    has_two_streams: ClassVar[bool] = False
    """True: a second stream predicts each token from some of the others, in any order (`two_stream`)."""
    pads_beyond_max: ClassVar[bool] = True
    """True: a batch may be padded beyond `max_tokens`; False where the position embeddings end there."""
    keeps_lora: ClassVar[bool] = False
    """True: low-rank changes belong to the tower and stay beside its weights; else they are merged when a run ends."""
    is_chat_model: ClassVar[bool] = False
    """True: the tower is a language model that continues conversations (`encoders.language_model`)."""

    @property
    def summary_tokens(self) -> int:
        """Learned tokens that replace the text's tokens in fusion; 0 keeps the text's tokens."""
        return 0

    @abstractmethod
    def build(self, shape: EncoderShape) -> nn.Module:
        """Build the encoder: TextTokens -> Tokens. It has `dim`, its width, and `max_tokens`."""

    def with_lora(self, rank: int, alpha: float) -> "TextTowerConfig":
        """The tower with low-rank changes of its own, for one that `keeps_lora`."""
        return self

    @abstractmethod
    def tokenizer(self) -> TokenizerSource:
        """Where the tokenizer comes from; no file is read before it is needed."""

    def moved_to(self, folder: Path) -> "TextTowerConfig":
        """As `ImageTowerConfig.moved_to`."""
        return self

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """As `ImageTowerConfig.describing_files`."""
        return {}


ImageEncoderType = type[ImageTowerConfig]
TextEncoderType = type[TextTowerConfig]


def above_zero(key: str, value: int) -> None:
    """Raise `InputError` for a number that is not above 0; `key` is the full config key."""
    if value <= 0:
        raise InputError(f"{key} is {value}", "a number above 0", f"--set {key}=...")
