"""Projectors between an image tower and a language model, one file each, and their table `PROJECTORS`."""

from chiasm.models.bridge.linear import LinearProjectorConfig
from chiasm.models.bridge.mlp2x_gelu import MlpProjectorConfig
from chiasm.models.bridge.pixel_shuffle import PixelShuffleConfig
from chiasm.models.bridge.projector import ProjectorConfig
from chiasm.models.bridge.qformer import QFormerConfig
from chiasm.models.bridge.resampler import ResamplerConfig

PROJECTORS: dict[str, type[ProjectorConfig]] = {
    "linear": LinearProjectorConfig,
    "mlp2x_gelu": MlpProjectorConfig,
    "pixel_shuffle": PixelShuffleConfig,
    "resampler": ResamplerConfig,
    "qformer": QFormerConfig,
}
