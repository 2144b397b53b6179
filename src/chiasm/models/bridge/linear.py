"""Projector `linear`: one linear layer, as LLaVA 1.0 (Liu et al. 2023, "Visual Instruction Tuning", equation 1)."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig, TokenwiseProjector


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProjectorConfig(ProjectorConfig):
    """One linear layer on each token."""

    kind: Literal["linear"] = "linear"
    input_norm: bool = True
    """Normalise the image tower's tokens first. LLaVA's layout has no such norm: without it and `output_norm` a run
    over a Hugging Face tower can be exported as LLaVA."""

    def build(self, shape: BridgeShape) -> nn.Module:
        """See `ProjectorConfig.build`."""
        return TokenwiseProjector(shape.image_dim, nn.Linear(shape.image_dim, shape.text_dim), self.input_norm)
