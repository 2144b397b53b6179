"""Encoders: a field of a batch -> Tokens. One file each; this table is where a config's word finds its class."""

from pathlib import Path

from torch import nn

from chiasm.models.config import ModelConfig
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.conv import ConvEncoder
from chiasm.models.encoders.efficientnet_lite import load_efficientnet_lite0
from chiasm.models.encoders.hugging_face import load_image_tower, load_text_tower
from chiasm.models.encoders.keypoints import KeypointEncoder
from chiasm.models.encoders.minilm import load_minilm
from chiasm.models.encoders.multilingual_e5 import load_multilingual_e5
from chiasm.models.encoders.multilingual_use import load_multilingual_use
from chiasm.models.encoders.open_clip import is_open_clip, read_open_clip
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder


def build_image_tower(config: ModelConfig) -> nn.Module:
    """Build the image tower that the config names; pre-trained ones come with their weights."""
    image = config.image
    size_px = (image.size_px, image.width_px or image.size_px)
    if image.kind == "keypoints":
        return KeypointEncoder(size_px, image.channels, config.dim, image.points, image.layers, config.heads)
    if image.kind == "conv":
        return ConvEncoder(size_px, image.channels, config.dim, image.layers, config.heads, image.centred)
    if image.kind == "hugging_face":
        folder = Path(image.name)
        return read_open_clip(folder).image if is_open_clip(folder) else load_image_tower(image.name)
    return load_efficientnet_lite0(grid=image.grid)


def build_text_tower(config: ModelConfig, vocabulary: int) -> nn.Module:
    """Build the text tower that the config names; `vocabulary` counts for towers trained from scratch."""
    text = config.text
    if text.kind == "minilm":
        return load_minilm()
    if text.kind == "multilingual_e5":
        return load_multilingual_e5()
    if text.kind == "multilingual_use":
        return load_multilingual_use()
    if text.kind == "hugging_face":
        folder = Path(text.name)
        return read_open_clip(folder).text if is_open_clip(folder) else load_text_tower(text.name)
    if text.kind == "causal":
        return CausalTextEncoder(vocabulary, text.max_tokens, config.dim, text.layers, config.heads, config.dropout)
    sizes = vocabulary, text.max_tokens, config.dim, text.layers, config.heads, text.summary_tokens
    return (TextEncoder if text.kind == "transformer" else TwoStreamTextEncoder)(*sizes, text.summary_std)


def widths(tower: nn.Module) -> tuple[int, int]:
    """Width of a tower's `values` and of its `pooled`."""
    dim = tower.dim
    token_dim = getattr(tower, "token_dim", dim)
    assert isinstance(dim, int) and isinstance(token_dim, int), "a tower states its widths"
    return token_dim, dim
