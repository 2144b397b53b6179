"""What an encoder states about itself, in one class: its config keys, how it is built, its input and its origin.

An encoder's file has the module and a subclass of `ImageTowerConfig` or `TextTowerConfig`. The tables in
`models.encoders` map a `kind` to that subclass; nothing else in the package names a kind to decide what to do.
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
    """Sizes that an encoder trained from scratch takes from the rest of the model."""

    dim: int
    """Token width."""
    heads: int
    """Attention heads."""
    dropout: float = 0.0
    """Probability, in [0, 1), on each residual branch."""
    vocabulary: int = 0
    """Token ids of the tokenizer, for a text encoder."""


class ImagePreprocessing(NamedTuple):
    """What happens to an image before its encoder takes it; read once a pipeline.

    Attributes:
        resizing: to uint8 pixels of one size; normalisation is the encoder's own first step.
        name: part of the names under which an encoder's outputs are cached: it changes when the preprocessing does.
    """

    resizing: Resizing
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTowerConfig(ABC):
    """The image encoder: the keys that every kind has."""

    kind: str = ""
    """Which encoder: a key of `models.encoders.IMAGE_ENCODERS`, whose class says what it is for."""
    projection: ProjectionName = "norm"
    """How the tower's vector gets into the space shared with texts: layer norm, then linear or MLP ("norm"); linear
    alone, as CLIP does; or not at all, as SigLIP does, whose vector is as wide as the space. "classes" is "norm" beside
    the vector among ImageNet's 1,000 classes that the starter has (`init_from=starter` sets it)."""
    size_px: int = 48
    """Side of the square that images are resized to; the height where `width_px` is given."""
    width_px: int = 0
    """Width of the images; 0 means a square."""
    frozen: bool = False
    """Keep the pre-trained weights and encode each image once; the outputs are cached by content."""
    grid: bool = False
    """Give fusion and captions the frozen tower's grid of tokens; without it an image is its pooled vector alone."""
    pool_queries: int = 0
    """Learned queries that pool the image for captions, with one more for contrast (CoCa); 0 takes the grid and
    its mean."""

    modality: ClassVar[str] = "image"
    """What is encoded: a key of `data.modalities.MODALITIES`."""
    from_scratch: ClassVar[bool] = False
    """The tower starts untrained, is as wide as the model, and sees the whole image, squeezed."""
    is_packaged: ClassVar[bool] = False
    """The weights come with an installed package; frozen, they are left out of a run folder."""
    gives_equal_tokens: ClassVar[bool] = True
    """Every image becomes as many tokens, so that a frozen tower's output can be cached."""
    has_linear_layers: ClassVar[bool] = True
    """There are linear layers, to which low-rank adaptation can be added (`train.adapt=lora`)."""

    @property
    def shape_px(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.size_px, self.width_px or self.size_px

    @abstractmethod
    def build(self, shape: EncoderShape) -> nn.Module:
        """The encoder, float images [n, 3, h, w] in [-1, 1] -> Tokens, with `dim` and, where another, `token_dim`."""

    def preprocessing(self) -> ImagePreprocessing:
        """How an image becomes what the encoder takes: squeezed where trained from scratch, else covered and cropped.

        Raises:
            InputError: the encoder comes from a folder that does not say it.
        """
        method: Literal["squeeze", "cover"] = "squeeze" if self.from_scratch else "cover"
        name = f"{self.size_px}" + (f"x{self.width_px}" if self.width_px else "")
        return ImagePreprocessing(Resizing(method, self.shape_px), name)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of the grid of places behind so many tokens; further tokens (class token) stand first."""
        height, width = self.shape_px
        rows = math.isqrt(max(tokens * height // width, 1))
        return rows, rows * width // height

    def moved_to(self, folder: Path) -> "ImageTowerConfig":
        """The config of the same tower in a run folder, which holds what the tower was read from."""
        return self

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """Files of a run folder, by name, that say beside `config.json` what the encoder is."""
        return {}

    def check(self) -> None:
        """Check numbers that no type can.

        Raises:
            InputError: names the key and its range.
        """
        above_zero("model.image.size_px", self.size_px)


class TextLimits(NamedTuple):
    """What a text network can read.

    Attributes:
        max_tokens: longest text, special tokens included.
        vocabulary: number of token embeddings.
        pads_to_max: every text is padded to `max_tokens`, as in training (SigLIP).
    """

    max_tokens: int
    vocabulary: int
    pads_to_max: bool


@dataclass(frozen=True, slots=True)
class LearnedTokenizer:
    """The tokenizer is learned from the texts of the training data."""

    vocabulary: int
    """Most token ids."""


@dataclass(frozen=True, slots=True)
class PackagedTokenizer:
    """The tokenizer comes with an installed package."""

    load: Callable[[], Tokenizer]
    """Reads it, without padding and truncation."""
    before: tuple[str, ...]
    """Special tokens before each text."""
    after: tuple[str, ...]
    pad: str
    mask: str = ""
    """The token that hides a word; "" where the network knows none."""
    is_wrap_stored: bool = True
    """`tokenizer.json` of a run folder also holds the special tokens named here; False keeps the tokenizer alone."""


@dataclass(frozen=True, slots=True)
class FolderTokenizer:
    """The tokenizer is read from the folder that the network comes from."""

    folder: Path
    limits: Callable[[], TextLimits]
    """Reads what the folder's network can read, without its weights."""
    has_clip_merges: bool = False
    """Where there is no `tokenizer.json`, the folder may hold CLIP's own list of merges (open_clip's layout)."""


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
    """The text encoder: the keys that every kind has."""

    kind: str = ""
    """Which encoder: a key of `models.encoders.TEXT_ENCODERS`, whose class says what it is for."""
    projection: ProjectionName = "norm"
    """As `model.image.projection`."""
    max_tokens: int = 48
    """Longest text in tokens, special tokens included; longer texts are cut and counted."""
    frozen: bool = False
    """Keep the weights and encode each text once."""

    from_scratch: ClassVar[bool] = False
    """The token embeddings are trained on the data, and decoders share them."""
    is_packaged: ClassVar[bool] = False
    """As `ImageTowerConfig.is_packaged`."""
    has_two_streams: ClassVar[bool] = False
    """A second stream predicts each word from some of the others, in any order (`two_stream`)."""
    pads_beyond_max: ClassVar[bool] = True
    """Padding may stand beyond `max_tokens`; False where position embeddings end there."""
    keeps_lora: ClassVar[bool] = False
    """Low-rank changes belong to the tower and stay beside its weights; else they are merged when a run ends."""
    is_chat_model: ClassVar[bool] = False
    """The tower is a language model that continues conversations (`encoders.language_model`)."""

    @property
    def summary_tokens(self) -> int:
        """Learned tokens that replace the words in fusion; 0 keeps the words."""
        return 0

    @abstractmethod
    def build(self, shape: EncoderShape) -> nn.Module:
        """The encoder, TextTokens -> Tokens, with `dim` and `max_tokens`."""

    def with_lora(self, rank: int, alpha: float) -> "TextTowerConfig":
        """The tower with low-rank changes of its own, for one that `keeps_lora`."""
        return self

    @abstractmethod
    def tokenizer(self) -> TokenizerSource:
        """Where the tokenizer comes from. Nothing is read before it is asked for."""

    def moved_to(self, folder: Path) -> "TextTowerConfig":
        """As `ImageTowerConfig.moved_to`."""
        return self

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """As `ImageTowerConfig.describing_files`."""
        return {}


ImageEncoderType = type[ImageTowerConfig]
TextEncoderType = type[TextTowerConfig]


def above_zero(key: str, value: int) -> None:
    """Refuse a number that is not above 0; `key` is the whole config key."""
    if value <= 0:
        raise InputError(f"{key} is {value}", "a number above 0", f"--set {key}=...")
