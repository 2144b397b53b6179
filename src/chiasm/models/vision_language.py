"""The model: towers, and as many of projection, fusion with answer head, and caption decoder as the tasks need."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.run_config import ModelConfig
from chiasm.core.types import TextTokens, Tokens
from chiasm.models.decoder import CaptionDecoder
from chiasm.models.encoders import build_image_tower, build_text_tower
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.fusion.cross_attention import CrossAttentionFusion
from chiasm.models.projection import Projection
from chiasm.models.transformer import init_weights

START_LOGIT_SCALE = 2.659
"""ln(1 / 0.07): CLIP's first temperature (Radford et al. 2021, section 2.5)."""
MAX_LOGIT_SCALE = 4.6052
"""ln(100): CLIP's bound, held after every step."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the tasks of a run ask of the model."""

    vocabulary: int
    """Token ids of the tokenizer."""
    answers: int = 0
    """Size of the answer vocabulary; 0 builds no fusion and no answer head."""
    contrast: bool = False
    captions: bool = False


class VisionLanguageModel(nn.Module):
    """Two towers, and heads over them; each head is None where `parts` does not ask for it.

    A picture is encoded once into `Tokens`; embedding, answering and captioning all start from these.
    """

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.config, self.parts = config, parts
        self.image_encoder = build_image_tower(config)
        self.text_encoder = build_text_tower(config, parts.vocabulary)
        image_dim, text_dim = cast(int, self.image_encoder.dim), cast(int, self.text_encoder.dim)
        hidden, space, dropout = config.projection_hidden, config.embedding_dim, config.dropout
        self.image_projection = Projection(image_dim, space, hidden, dropout) if parts.contrast else None
        self.text_projection = Projection(text_dim, space, hidden, dropout) if parts.contrast else None
        self.logit_scale = nn.Parameter(torch.tensor(START_LOGIT_SCALE)) if parts.contrast else None
        self.fusion: CrossAttentionFusion | None = None
        self.answer_head: nn.Sequential | None = None
        if parts.answers:
            summary = config.text.summary_tokens
            self.fusion = CrossAttentionFusion(config.dim, config.fusion_layers, config.heads, config.fusion_mlp_ratio)
            self.answer_head = nn.Sequential(
                nn.Linear(config.dim * max(summary, 1), 2 * config.dim),
                nn.GELU(),
                nn.Linear(2 * config.dim, parts.answers),
            )
            self.answer_head.apply(init_weights)
        self.caption_decoder = (
            CaptionDecoder(cast(TextEncoder, self.text_encoder), config.decoder_layers, config.heads)
            if parts.captions
            else None
        )

    def encode_image(self, image: Tensor) -> Tokens:
        """Pictures float [n, 3, h, w] in [-1, 1], or a frozen tower's cached vectors [n, d] -> Tokens."""
        if image.ndim == 2:
            is_real = torch.ones(image.shape[0], 1, dtype=torch.bool, device=image.device)
            return Tokens(image[:, None], is_real, image)
        return cast(Tokens, self.image_encoder(image))

    def encode_text(self, text: TextTokens) -> Tokens:
        """Token ids -> Tokens of the text tower."""
        return cast(Tokens, self.text_encoder(text))

    def embed_image(self, image: Tokens) -> Float[Tensor, "n e"]:
        """Encoded pictures -> unit vectors in the shared space, float32."""
        assert self.image_projection is not None, "this model was not trained for contrast"
        return cast(Tensor, self.image_projection(image.pooled))

    def embed_text(self, pooled: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Pooled text vectors -> unit vectors in the shared space, float32."""
        assert self.text_projection is not None, "this model was not trained for contrast"
        return cast(Tensor, self.text_projection(pooled))

    def answer(
        self,
        image: Tokens,
        question: TextTokens,
        question_index: Int[Tensor, " m"],
        image_index: Int[Tensor, " m"],
    ) -> Float[Tensor, "m a"]:
        """Logits over the answer vocabulary, float32.

        Args:
            image: n encoded pictures.
            question: u distinct questions; each is encoded once however often it is asked.
            question_index: which question row i asks.
            image_index: which picture row i asks about.
        """
        assert self.fusion is not None and self.answer_head is not None, "this model was not trained on questions"
        text = self.encode_text(question)
        summary = self.config.text.summary_tokens
        if summary:
            text = Tokens(text.values[:, :summary], text.is_real[:, :summary], text.pooled)
        fused = self.fusion({"text": text.rows(question_index), "image": image}, image_index)
        seen = fused.values.flatten(1) if summary else fused.pooled
        return cast(Tensor, self.answer_head(seen)).float()

    def caption_logits(self, image: Tokens, ids: Int[Tensor, "n l"]) -> Float[Tensor, "n l v"]:
        """Logits, float32, of the word after each given word of the captions."""
        assert self.caption_decoder is not None, "this model was not trained on captions"
        embedding = cast(TextEncoder, self.text_encoder).embedding
        return cast(Tensor, self.caption_decoder(embedding, ids, image)).float()

    def generate_captions(self, image: Tokens, start_id: int, end_id: int) -> tuple[Tensor, Tensor]:
        """Greedy captions: ids int64 [n, l] and the mean log-probability of a word, float32 [n]."""
        assert self.caption_decoder is not None, "this model was not trained on captions"
        embedding = cast(TextEncoder, self.text_encoder).embedding
        return self.caption_decoder.generate(embedding, image, start_id, end_id)

    def clamp_logit_scale(self) -> None:
        """Keep the temperature within CLIP's bounds; called after every optimiser step."""
        if self.logit_scale is not None:
            with torch.no_grad():
                self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
