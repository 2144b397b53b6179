"""BLIP-2 (Li et al. 2023) around a causal language model, such as OPT, in transformers' layout.

Learned queries, which attend to the states of a vision network in a querying transformer, become tokens by one linear
layer and stand before the prompt. It continues one prompt; the authors ask "Question: ... Answer:".

Axis legend: k images, h/w height and width in pixels.
"""

from collections.abc import Mapping
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


class QueriedEyes(nn.Module):
    """Images -> queries that have attended to the states of a vision network.

    Args:
        network: a BLIP-2 of transformers.
        preprocessing: how its images are normalised.
    """

    def __init__(self, network: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.vision_model, self.qformer, self.query_tokens = network.vision_model, network.qformer, network.query_tokens
        self.preprocessing = preprocessing
        self.dim = int(network.config.qformer_config.hidden_size)

    def forward(self, image: Float[Tensor, "k 3 h w"]) -> Tokens:
        """Images with values in [-1, 1], resized as `preprocessing` says; `pooled` is the mean of the queries."""
        states = self.vision_model(pixel_values=normalised(image, self.preprocessing)).last_hidden_state
        found = self.qformer(
            query_embeds=self.query_tokens.expand(len(states), -1, -1),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
        ).last_hidden_state
        return Tokens(found, torch.ones(found.shape[:2], dtype=torch.bool, device=found.device), found.mean(1))


class Blip2(LanguageNetwork):
    """BLIP-2 around a causal language model."""

    offers: ClassVar[dict[str, type[HeadSpec]]] = language_writers("Blip2ForConditionalGeneration")
    projector_name: ClassVar[str] = "language_projection"

    @classmethod
    def check_folder(cls, network: str, architecture: Mapping[str, Any], folder: Path) -> None:
        """See `PretrainedVLM.check_folder`; a language model that encodes the prompt apart (T5) is refused."""
        text = architecture.get("text_config") or {}
        if text.get("is_encoder_decoder") or not architecture.get("use_decoder_only_language_model", True):
            raise InputError(
                f"{folder} holds a BLIP-2 around a {text.get('model_type')}, which reads the prompt by an encoder",
                "one around a causal language model, such as blip2-opt",
                "use transformers itself for this folder, or give another one",
            )

    def eyes(self, network: Any) -> tuple[nn.Module, NetworkBridge]:
        """See `LanguageNetwork.eyes`.

        Raises:
            InputError: a preprocessing for another size.
        """
        pixels = self.spec.fixed
        check_picture_size(network.vision_model.config, pixels, Path(self.config.network))
        return QueriedEyes(network, pixels), NetworkBridge(LayersOnTokens(network.language_projection))

    def _names(self) -> list[tuple[str, str]]:
        """See `LanguageNetwork`."""
        names = [("text_encoder.network.", "language_model."), ("image_encoder.", "")]
        return names + [(f"heads.{task}.projector.layers.", f"{self.projector_name}.") for task in self.heads]
