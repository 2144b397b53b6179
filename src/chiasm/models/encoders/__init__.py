"""Encoders: a field of a batch -> Tokens. One file each; this table is where a config's word finds its class."""

from torch import nn

from chiasm.core.run_config import ModelConfig
from chiasm.models.encoders.conv import ConvEncoder
from chiasm.models.encoders.efficientnet_lite import load_efficientnet_lite0
from chiasm.models.encoders.minilm import load_minilm
from chiasm.models.encoders.text import TextEncoder


def build_image_tower(config: ModelConfig) -> nn.Module:
    """Build the image tower that the config names; pre-trained ones come with their weights."""
    image = config.image
    if image.kind == "conv":
        return ConvEncoder(image.size_px, image.channels, config.dim, image.layers, config.heads)
    return load_efficientnet_lite0()


def build_text_tower(config: ModelConfig, vocabulary: int) -> nn.Module:
    """Build the text tower that the config names; `vocabulary` counts for towers trained from scratch."""
    text = config.text
    if text.kind == "transformer":
        return TextEncoder(vocabulary, text.max_tokens, config.dim, text.layers, config.heads, text.summary_tokens)
    return load_minilm()
