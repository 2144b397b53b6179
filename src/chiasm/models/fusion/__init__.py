"""Fusion methods: dict of Tokens -> Tokens. One file each; `FUSIONS` maps the name in a config to its class.

Whoever chooses: `cross_attention` is the default, since it shares an image among its questions; `merged_attention`
and `co_attention` are more expressive and dearer; `resampler` is for large images and long texts; `film` is the
cheapest that sees which property belongs to which object; `sum`, `shared_sum`, `concat_mlp`, `gated` and `bilinear`
fuse one vector of each modality. Each class says its equation, cost and source.
"""

from chiasm.models.config import ModelConfig
from chiasm.models.fusion.align_then_fuse import AlignThenFuse
from chiasm.models.fusion.base import Fusion, FusionShape
from chiasm.models.fusion.bilinear import BilinearFusion
from chiasm.models.fusion.co_attention import CoAttentionFusion
from chiasm.models.fusion.concat_mlp import ConcatMlpFusion
from chiasm.models.fusion.cross_attention import CrossAttentionFusion
from chiasm.models.fusion.film import FilmFusion
from chiasm.models.fusion.gated import GatedFusion
from chiasm.models.fusion.merged_attention import MergedAttentionFusion
from chiasm.models.fusion.resampler import ResamplerFusion
from chiasm.models.fusion.shared_sum import SharedSum
from chiasm.models.fusion.sum import SumFusion

FUSIONS: dict[str, type[Fusion]] = {
    "sum": SumFusion,
    "shared_sum": SharedSum,
    "concat_mlp": ConcatMlpFusion,
    "gated": GatedFusion,
    "bilinear": BilinearFusion,
    "film": FilmFusion,
    "cross_attention": CrossAttentionFusion,
    "co_attention": CoAttentionFusion,
    "merged_attention": MergedAttentionFusion,
    "align_then_fuse": AlignThenFuse,
    "resampler": ResamplerFusion,
}


def build_fusion(config: ModelConfig, modalities: tuple[str, ...] = ("text", "image")) -> Fusion:
    """Build the fusion that the config names; the first modality asks, the others are attended to."""
    return FUSIONS[config.fusion](
        FusionShape(
            config.dim,
            config.fusion_layers,
            config.heads,
            config.fusion_mlp_ratio,
            config.dropout,
            config.text.summary_tokens,
            config.modality_dropout,
            modalities,
        )
    )
