"""Images for a whole network that prepares them by its own processor (kind "network", with `model.network`)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes
from chiasm.core.resizing import Resizing
from chiasm.models.encoders.base import EncoderShape, ImagePreprocessing, ImageTowerConfig
from chiasm.models.pretrained.hugging_face_folder import NETWORK_FILE

MOST_PX = 4096
"""Longest side of an image that reaches a network's processor; larger images are scaled down first."""
PROCESSOR_FILES = (NETWORK_FILE, "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkImageConfig(ImageTowerConfig):
    """Images at their own sizes, for a network that cuts them into tiles or resizes them by itself."""

    kind: Literal["network"] = "network"
    name: str = ""
    """Folder of the network, as `model.network`."""

    gives_equal_tokens: ClassVar[bool] = False

    def build(self, shape: EncoderShape) -> nn.Module:
        """Refused: the network of `model.network` has this tower inside.

        Raises:
            InputError: always.
        """
        raise InputError(
            "model.image.kind 'network' without model.network",
            "the folder of a whole network in model.network",
            f"--set model.network={self.name or 'FOLDER'}",
        )

    def preprocessing(self) -> ImagePreprocessing:
        """Nothing but a bound on the size; the name follows the processor's files."""
        files = [Path(self.name) / one for one in PROCESSOR_FILES]
        content = b"".join(path.read_bytes() for path in files if path.is_file())
        return ImagePreprocessing(Resizing("own", (MOST_PX, MOST_PX)), sha256_bytes(content)[:8])

    def moved_to(self, folder: Path) -> ImageTowerConfig:
        """See `ImageTowerConfig.moved_to`."""
        return replace(self, name=str(folder))

    def check(self) -> None:
        """Refuse a frozen tower, whose output would be cached.

        Raises:
            InputError: `frozen` is set.
        """
        if self.frozen:
            raise InputError(
                "model.image.frozen with model.image.kind 'network', whose images become different numbers of tokens",
                "an open tower, of which train.adapt=lora or train.trainable=text_encoder.* trains nothing",
                "--set model.image.frozen=false",
            )
