"""Projector `mlp2x_gelu`: two linear layers with GELU between, as LLaVA-1.5 (Liu et al. 2023, "Improved Baselines")."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig, TokenwiseProjector


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpProjectorConfig(ProjectorConfig):
    """Linear, GELU, linear on each token; the hidden width is that of the word embeddings."""

    kind: Literal["mlp2x_gelu"] = "mlp2x_gelu"
    input_norm: bool = True
    """Normalise the image tower's tokens first. LLaVA's layout has no such norm: without it and `output_norm` a run
    over a Hugging Face tower can be exported as LLaVA."""

    def build(self, shape: BridgeShape) -> nn.Module:
        """See `ProjectorConfig.build`."""
        hidden = nn.Linear(shape.image_dim, shape.text_dim)
        change = nn.Sequential(hidden, nn.GELU(), nn.Linear(shape.text_dim, shape.text_dim))
        return TokenwiseProjector(shape.image_dim, change, self.input_norm)
