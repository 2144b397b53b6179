"""Encoders from a local folder, in Hugging Face's layout, open_clip's, or that of a chiasm run (kind "hugging_face").

Preprocessing and tokenizer are the folder's. The run folder stores all of it, including frozen weights.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes
from chiasm.models.encoders.base import (
    EncoderShape,
    FolderTokenizer,
    ImagePreprocessing,
    ImageTowerConfig,
    TextTowerConfig,
    TokenizerSource,
)
from chiasm.models.encoders.hugging_face import (
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    load_image_tower,
    load_text_tower,
    preprocessing_of,
    text_limits,
)
from chiasm.models.encoders.open_clip import (
    is_open_clip,
    open_clip_text_limits,
    read_open_clip,
    read_open_clip_preprocessing,
)
from chiasm.models.pretrained.hugging_face_folder import SPEC_FILES


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderImageConfig(ImageTowerConfig):
    """An image encoder from a local folder, which determines the image size."""

    kind: Literal["hugging_face"] = "hugging_face"
    name: str = ""
    """Local folder of the network, with its preprocessing and safetensors."""
    patch_dropout: float = 0.0
    """Share, in [0, 1), of an image's patches that training leaves out, drawn anew each time (FLIP, Li et al. 2023: 0.5
    takes about half of the time); the last `train.unmasked_share` of the steps sees whole images."""
    recompute: bool = False
    """As `model.text.recompute`."""

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `ImageTowerConfig.build`."""
        folder = Path(self.name)
        tower = read_open_clip(folder).image if is_open_clip(folder) else load_image_tower(self.name)
        return tower.train_with(self.patch_dropout, self.recompute)

    def check(self) -> None:
        """See `ImageTowerConfig.check`.

        Raises:
            InputError: a share outside [0, 1), or patch dropout of a frozen tower, which encodes each image once.
        """
        ImageTowerConfig.check(self)
        if not 0 <= self.patch_dropout < 1:
            raise InputError(
                f"model.image.patch_dropout is {self.patch_dropout}", "a share in [0, 1)", "FLIP takes 0.5 or 0.75"
            )
        if self.patch_dropout and self.frozen:
            raise InputError(
                f"model.image.patch_dropout {self.patch_dropout} with model.image.frozen true",
                "a trained tower: a frozen one encodes every image once",
                "--set model.image.patch_dropout=0",
            )

    def preprocessing(self) -> ImagePreprocessing:
        """The folder's own preprocessing, with which the weights were trained."""
        folder = Path(self.name)
        found = read_open_clip_preprocessing(folder) if is_open_clip(folder) else preprocessing_of(self.name)
        return ImagePreprocessing(found.resizing, sha256_bytes(str(sorted(asdict(found).items())).encode())[:8])

    def moved_to(self, folder: Path) -> ImageTowerConfig:
        """See `ImageTowerConfig.moved_to`."""
        return replace(self, name=str(folder))

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """The architecture and preprocessing; {} for a part of a `PretrainedVLM`, which has its own description."""
        return {SPEC_FILES["image"]: encoder.spec.to_json()} if isinstance(encoder, HuggingFaceImageEncoder) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderTextConfig(TextTowerConfig):
    """A text encoder from a local folder."""

    kind: Literal["hugging_face"] = "hugging_face"
    name: str = ""
    """Local folder of the network, with its tokenizer and safetensors."""
    recompute: bool = False
    """Compute each block again in the backward pass in place of keeping its activations: less memory, a third more
    time (gradient checkpointing, Chen et al. 2016)."""

    pads_beyond_max: ClassVar[bool] = False

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        folder = Path(self.name)
        tower = read_open_clip(folder).text if is_open_clip(folder) else load_text_tower(self.name)
        tower.recompute = self.recompute
        return tower

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`."""
        folder = Path(self.name)
        if is_open_clip(folder):
            return FolderTokenizer(folder, partial(open_clip_text_limits, folder), has_clip_merges=True)
        return FolderTokenizer(folder, partial(text_limits, self.name))

    def moved_to(self, folder: Path) -> TextTowerConfig:
        """See `ImageTowerConfig.moved_to`."""
        return replace(self, name=str(folder))

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """As `FolderImageConfig.describing_files`."""
        return {SPEC_FILES["text"]: encoder.spec.to_json()} if isinstance(encoder, HuggingFaceTextEncoder) else {}
