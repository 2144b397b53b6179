"""LLaVA-1.5 (Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning") in transformers' layout.

An image tower's states at the layers that the config names, with or without their class token, two linear layers, and
a causal language model.

Axis legend: k images, l tokens, c their width, h/w height and width in pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.encoders.hugging_face import normalised
from chiasm.models.heads import HeadSpec
from chiasm.models.networks.language import LanguageNetwork, LayersOnTokens, NetworkBridge, language_writers
from chiasm.models.pretrained.hugging_face_folder import Preprocessing, check_picture_size


class VisionTower(nn.Module):
    """Images -> states of a vision network at given layers, side by side.

    Args:
        model: a vision network of transformers.
        preprocessing: how its images are normalised.
        layers: numbers of the layers, as indices of its hidden states; 0 is what its first layer reads.
        drops_first: whether each layer's first token, the class token, is left out.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing, layers: Sequence[int], drops_first: bool) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing
        self.layers, self.drops_first = tuple(layers), drops_first
        self.dim = int(model.config.hidden_size) * len(self.layers)

    def forward(self, image: Float[Tensor, "k 3 h w"]) -> Tokens:
        """Images with values in [-1, 1], resized as `preprocessing` says; `pooled` is the mean of the tokens."""
        pixels = normalised(image, self.preprocessing)
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        found = torch.cat([states[layer][:, 1:] if self.drops_first else states[layer] for layer in self.layers], -1)
        return Tokens(found, torch.ones(found.shape[:2], dtype=torch.bool, device=found.device), found.mean(1))


class Llava(LanguageNetwork):
    """LLaVA-1.5 and what has its layout."""

    offers: ClassVar[dict[str, type[HeadSpec]]] = language_writers("LlavaForConditionalGeneration")
    projector_name: ClassVar[str] = "multi_modal_projector"
    image_name: ClassVar[str] = "vision_tower"

    def eyes(self, network: Any) -> tuple[nn.Module, NetworkBridge]:
        """See `LanguageNetwork.eyes`.

        Raises:
            InputError: a tower that takes images of any size (Pixtral), or a preprocessing for another size.
        """
        config, tower, pixels = network.config, network.model.vision_tower, self.spec.fixed
        if not hasattr(tower.config, "image_size") or tower.config.model_type == "pixtral":
            raise InputError(
                f"a LLaVA with the image tower {tower.config.model_type}, whose images keep their shapes",
                "a tower for images of one size, such as CLIP's or SigLIP's",
                "use transformers itself for this folder",
            )
        check_picture_size(tower.config, pixels, Path(self.config.network))
        layer = config.vision_feature_layer
        layers = [layer] if isinstance(layer, int) else list(layer)
        drops = config.vision_feature_select_strategy == "default"
        projector = LayersOnTokens(network.model.multi_modal_projector)
        return VisionTower(tower, pixels, layers, drops), NetworkBridge(projector)
