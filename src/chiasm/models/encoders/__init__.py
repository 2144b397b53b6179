"""Encoders: an input of a batch -> Tokens. One file each; these tables map a config's `kind` to its encoder.

The entry of a kind is the encoder's config class, which defines how it is built, preprocessed and tokenised
(`models.encoders.base`). An entry may be added at run time:

    IMAGE_ENCODERS["mine"] = MyConfig
"""

from torch import nn

from chiasm.models.encoders.base import ImageEncoderType, TextEncoderType
from chiasm.models.encoders.causal import CausalTextConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.efficientnet_lite import (
    EfficientNetLite0Config,
    EfficientNetLite1Config,
    EfficientNetLite2Config,
)
from chiasm.models.encoders.folder import FolderImageConfig, FolderTextConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.encoders.keypoints import KeypointConfig
from chiasm.models.encoders.language_model import Gemma3Config, LanguageModelConfig, SmolLM2Config
from chiasm.models.encoders.minilm import MiniLMConfig
from chiasm.models.encoders.multilingual_e5 import MultilingualE5Config
from chiasm.models.encoders.multilingual_use import MultilingualUSEConfig
from chiasm.models.encoders.network_images import NetworkImageConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.models.encoders.two_stream import TwoStreamTextConfig

IMAGE_ENCODERS: dict[str, ImageEncoderType] = {
    "conv": ConvConfig,
    "keypoints": KeypointConfig,
    "image_codes": ImageCodesConfig,
    "efficientnet_lite0": EfficientNetLite0Config,
    "efficientnet_lite1": EfficientNetLite1Config,
    "efficientnet_lite2": EfficientNetLite2Config,
    "hugging_face": FolderImageConfig,
    "network": NetworkImageConfig,
}
TEXT_ENCODERS: dict[str, TextEncoderType] = {
    "transformer": TransformerTextConfig,
    "causal": CausalTextConfig,
    "two_stream": TwoStreamTextConfig,
    "minilm": MiniLMConfig,
    "multilingual_e5": MultilingualE5Config,
    "multilingual_use": MultilingualUSEConfig,
    "hugging_face": FolderTextConfig,
    "smollm2": SmolLM2Config,
    "gemma3_270m": Gemma3Config,
    "language_model": LanguageModelConfig,
}


def widths(tower: nn.Module) -> tuple[int, int]:
    """Width of an encoder's `values` and of its `pooled`."""
    dim = tower.dim
    token_dim = getattr(tower, "token_dim", dim)
    assert isinstance(dim, int) and isinstance(token_dim, int), "a tower states its widths"
    return token_dim, dim
