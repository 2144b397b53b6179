"""PaliGemma and PaliGemma 2 (Beyer et al. 2024, "PaliGemma"; Steiner et al. 2024) in transformers' layout.

SigLIP's last states, one linear layer, and a Gemma whose prompt, images included, attends to itself in both directions;
what it writes is causal. It answers one prompt.

Axis legend: k images, l tokens, h/w height and width in pixels.
"""

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

LEAST_WORDS = 128
"""Places for words that have to be left beside an image within the window of a Gemma 2."""


class LastStates(nn.Module):
    """Images -> last states of a vision network, behind its last norm.

    Args:
        model: a vision network of transformers.
        preprocessing: how its images are normalised.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing
        self.dim = int(model.config.hidden_size)

    def forward(self, image: Float[Tensor, "k 3 h w"]) -> Tokens:
        """Images with values in [-1, 1], resized as `preprocessing` says; `pooled` is the mean of the tokens."""
        states = self.model(pixel_values=normalised(image, self.preprocessing)).last_hidden_state
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device), states.mean(1))


class PaliGemma(LanguageNetwork):
    """PaliGemma around a Gemma or Gemma 2."""

    offers: ClassVar[dict[str, type[HeadSpec]]] = language_writers("PaliGemmaForConditionalGeneration")
    projector_name: ClassVar[str] = "multi_modal_projector"
    image_name: ClassVar[str] = "vision_tower"
    sees_ahead: ClassVar[bool] = True

    def eyes(self, network: Any) -> tuple[nn.Module, NetworkBridge]:
        """See `LanguageNetwork.eyes`.

        Raises:
            InputError: a preprocessing for another size, or an image that fills the window of a Gemma 2, whose layers
                then see different things (896 px).
        """
        tower, pixels = network.model.vision_tower, self.spec.fixed
        check_picture_size(tower.config, pixels, Path(self.config.network))
        text = network.config.get_text_config()
        window, tokens = (
            getattr(text, "sliding_window", None),
            (tower.config.image_size // tower.config.patch_size) ** 2,
        )
        if window and tokens + LEAST_WORDS > window:
            raise InputError(
                f"a PaliGemma whose image of {tokens} tokens fills the window of {window} of its {text.model_type}",
                "one for smaller images (224 or 448 px)",
                "use transformers itself for this folder",
            )
        return LastStates(tower, pixels), NetworkBridge(LayersOnTokens(network.model.multi_modal_projector))
