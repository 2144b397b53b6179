"""ViLT (Kim et al. 2021): image patches and tokens in one transformer, for question answering and for ranking pairs.

Images keep their aspect ratio, so a batch holds canvases of one size with a fourth channel, positive where the image
is. transformers shuffles the patches at each call; here they are in row order, so that results are deterministic.

Axis legend: n images, m texts, l tokens, d token width, h/w height and width in pixels.
"""

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Encoded, TextTokens, Tokens
from chiasm.models.config import ModelConfig
from chiasm.models.heads import FusedClasses, HeadSpec
from chiasm.models.networks.base import NetworkSpec, PretrainedVLM
from chiasm.models.vision_language import Parts


class Vilt(PretrainedVLM):
    """One of ViLT's networks, named by `spec.network`."""

    vilt: Any
    rank_head: Any

    names: ClassVar[tuple[tuple[str, str], ...]] = (("vilt.", "vilt."),)
    offers: ClassVar[dict[str, type[HeadSpec]]] = {
        "ViltForQuestionAnswering": FusedClasses,
        "ViltForImageAndTextRetrieval": FusedClasses,
    }
    head_names: ClassVar[dict[str, tuple[str, str]]] = {
        "ViltForQuestionAnswering": ("", "classifier."),
        "ViltForImageAndTextRetrieval": ("score.", "rank_output."),
    }
    chooses_answers: ClassVar[frozenset[str]] = frozenset({"ViltForQuestionAnswering"})

    @classmethod
    def wrap(cls, config: ModelConfig, parts: Parts, spec: NetworkSpec, network: Any) -> "Vilt":
        """Assign the transformer and the head."""
        made = cls(config, parts, spec)
        most = spec.fixed.size_px[0] // network.config.patch_size
        if 0 < network.config.max_image_length < most * most:
            raise InputError(
                f"max_image_length is {network.config.max_image_length}: patches are left out by chance",
                "-1, all patches, so that an answer repeats itself",
                "set it to -1 in config.json",
            )
        made.vilt = network.vilt
        answers = getattr(network, "classifier", None)
        made._take_head(RankHead(network.rank_output) if answers is None else answers)
        return made

    # Properties, because a second module with the same weights would store each of them twice.
    @property
    def image_encoder(self) -> nn.Module:  # type: ignore[override]
        """The transformer, which encodes images and texts together."""
        return cast(nn.Module, self.vilt)

    @property
    def text_encoder(self) -> nn.Module:  # type: ignore[override]
        """As `image_encoder`."""
        return cast(nn.Module, self.vilt)

    def encode_image(self, image: Tensor | Tokens) -> Tokens:
        """Canvases float [n, 4, h, w] in [-1, 1] -> class token and patches with their positions, row by row.

        The fourth channel is above 0 where the image is: from the upper left corner, in whole patches.
        """
        if isinstance(image, Tokens):
            return image
        rows = [self._patches(canvas) for canvas in image]
        lengths = torch.tensor([len(row) for row in rows], device=image.device)
        values = pad_sequence(rows, batch_first=True)
        is_real = torch.arange(values.shape[1], device=image.device) < lengths[:, None]
        return Tokens(values, is_real, values[:, 0])

    def _patches(self, canvas: Float[Tensor, "4 h w"]) -> Float[Tensor, "l d"]:
        embeddings = self.vilt.embeddings
        real = canvas[3] > 0
        height, width = int(real[:, 0].sum()), int(real[0].sum())
        preprocessing = self.spec.fixed
        mean, std = (canvas.new_tensor(row)[:, None, None] for row in (preprocessing.mean, preprocessing.std))
        image = (canvas[:3, :height, :width] * 0.5 + 0.5 - mean) / std
        grid = embeddings.patch_embeddings.projection(image[None])
        table = embeddings.position_embeddings
        side = int((table.shape[1] - 1) ** 0.5)
        places = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        places = F.interpolate(places, size=grid.shape[2:], mode="bilinear", align_corners=True)
        first = embeddings.cls_token[0] + table[0, :1]
        return torch.cat([first, (grid + places)[0].flatten(1).T])

    def encode_text(self, text: TextTokens) -> Tokens:
        """Token ids -> token embeddings; positions and modality embeddings are added in `fuse`."""
        values = self.vilt.embeddings.text_embeddings.word_embeddings(text.ids)
        return Tokens(values, text.is_real, values[:, 0])

    def fuse(
        self,
        text: Tokens,
        inputs: Encoded,
        image_index: Int[Tensor, " m"],
        text_allowed: Bool[Tensor, "m q k"] | None = None,
    ) -> Tokens:
        """Apply the transformer to the tokens, class token and patches; `pooled` is the pooler's vector."""
        assert text_allowed is None, "ViLT lets every token look at every token"
        image = inputs[IMAGE]
        is_patch = image.is_real[image_index]
        out = self.vilt(
            inputs_embeds=text.values,
            attention_mask=text.is_real.long(),
            image_embeds=image.values[image_index],
            pixel_mask=is_patch.long(),
        )
        return Tokens(out.last_hidden_state, torch.cat([text.is_real, is_patch], dim=1), out.pooler_output)


class RankHead(nn.Module):
    """ViLT's ranking score as logits of "do not belong together" and "belong together": 0 and the score.

    The score is the second logit of ViLT's matching head, fine-tuned to rank. It orders pairs; the probability computed
    from it is not calibrated.

    Args:
        score: linear layer, fusion's vector -> one number.
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, pooled: Float[Tensor, "m d"]) -> Float[Tensor, "m 2"]:
        """Pooled vectors -> two logits."""
        score = self.score(pooled).float()
        return torch.cat([torch.zeros_like(score), score], dim=1)
