"""The model: towers, and as many of projection, fusion, heads and decoders as the tasks need."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.adapter import TokenAdapter
from chiasm.models.config import ModelConfig
from chiasm.models.decoder import CaptionDecoder, Decoder, MultimodalDecoder, TextTower
from chiasm.models.decoding import DecodingConfig, Generated
from chiasm.models.encoders import widths
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder
from chiasm.models.fusion import build_fusion
from chiasm.models.fusion.base import Aligning, Fusion
from chiasm.models.pooling import AttentionalPooler
from chiasm.models.projection import build_projection
from chiasm.models.transformer import init_weights

START_LOGIT_SCALE = {"softmax": math.log(1 / 0.07), "additive": math.log(1 / 0.07), "sigmoid": math.log(10)}
"""ln of the first factor on the cosine: CLIP's (Radford et al. 2021, section 2.5) and SigLIP's (Zhai et al. 2023)."""
START_LOGIT_BIAS = -10.0
"""SigLIP's first bias: almost all pairs are negative, and the first steps need not learn that (section 3.2)."""
MAX_LOGIT_SCALE = math.log(100)
"""CLIP's bound, held after every step."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the tasks of a run ask of the model."""

    vocabulary: int
    """Token ids of the tokenizer."""
    answers: int = 0
    """Size of the answer vocabulary; 0 builds no answer head."""
    classes: int = 0
    """Classes that are named from the picture alone; 0 builds no class head."""
    contrast: str = ""
    """Objective of the contrast; "" builds no projections."""
    captions: bool = False
    written_answers: bool = False
    matching: bool = False
    word_prediction: bool = False
    """Hidden words are predicted from fused tokens (masked or permutation language modelling)."""
    learned_weights: tuple[str, ...] = ()
    """Tasks whose losses are weighed by a learned variance."""

    @property
    def fusion(self) -> bool:
        """Whether pictures and words meet in a fusion block."""
        return bool(self.answers) or self.written_answers or self.matching or self.word_prediction


class VisionLanguageModel(nn.Module):
    """Two towers, and heads over them; each head is None where `parts` does not ask for it.

    A picture is encoded once into `Tokens`; embedding, fusing and captioning all start from these.

    Args:
        config: sizes and kinds of the parts.
        parts: what the tasks ask for.
        towers: of pictures and of texts, where they are read already; otherwise they are built as `config` says.
    """

    def __init__(self, config: ModelConfig, parts: Parts, towers: tuple[nn.Module, nn.Module] | None = None) -> None:
        super().__init__()
        self.config, self.parts = config, parts
        self.image_encoder = config.image.build(config.encoder_shape()) if towers is None else towers[0]
        self.text_encoder = config.text.build(config.encoder_shape(parts.vocabulary)) if towers is None else towers[1]
        token_dim, image_dim = widths(self.image_encoder)
        self.sees_pooled_alone = config.image.frozen and not config.image.grid
        token_dim = image_dim if self.sees_pooled_alone else token_dim
        word_dim, text_dim = widths(self.text_encoder)
        dim, queries = config.dim, config.image.pool_queries
        uses_tokens = parts.fusion or parts.captions
        self.image_pooler = AttentionalPooler(token_dim, dim, queries, config.heads) if queries else None
        self.image_adapter = _adapter(token_dim, image_dim, config) if uses_tokens and not queries else None
        self.text_adapter = _adapter(word_dim, text_dim, config) if parts.fusion else None
        self.fusion: Fusion | None = build_fusion(config) if parts.fusion else None
        self._build_contrast(dim if queries else image_dim, text_dim)
        self._build_heads()
        self.class_head = nn.Linear(image_dim, parts.classes) if parts.classes else None
        self.task_log_variance = nn.ParameterDict({name: torch.zeros(()) for name in parts.learned_weights})

    def _build_contrast(self, image_dim: int, text_dim: int) -> None:
        config, contrast = self.config, self.parts.contrast
        hidden, space, dropout = config.projection_hidden, config.embedding_dim, config.dropout
        is_aligned = isinstance(self.fusion, Aligning)
        has_own = bool(contrast) and not is_aligned
        image, text = config.image.projection, config.text.projection
        self.image_projection = build_projection(image, image_dim, space, hidden, dropout, "image") if has_own else None
        self.text_projection = build_projection(text, text_dim, space, hidden, dropout, "text") if has_own else None
        start = torch.tensor(START_LOGIT_SCALE[contrast]) if contrast else None
        self.logit_scale = None if start is None else nn.Parameter(start)
        self.logit_bias = nn.Parameter(torch.tensor(START_LOGIT_BIAS)) if contrast == "sigmoid" else None

    def _build_heads(self) -> None:
        config, parts = self.config, self.parts
        dim, heads, layers = config.dim, config.heads, config.decoder_layers
        pooled, fused = (self.fusion.dim, self.fusion.token_dim) if self.fusion is not None else (0, 0)
        self.answer_head = _head(pooled, 2 * dim, parts.answers) if parts.answers else None
        self.match_head = _head(pooled, dim, 2) if parts.matching else None
        self.word_head = _head(fused, dim, parts.vocabulary) if parts.word_prediction else None
        tower = self.text_encoder
        self.caption_decoder: Decoder | None = None
        if parts.captions and isinstance(tower, CausalTextEncoder):
            self.caption_decoder = MultimodalDecoder(tower, layers, heads, config.dropout)
        elif parts.captions:
            self.caption_decoder = CaptionDecoder(cast(TextEncoder, tower), layers, heads, config.dropout)
        self.answer_decoder = (
            CaptionDecoder(cast(TextEncoder, tower), layers, heads, config.dropout, context_dim=fused)
            if parts.written_answers
            else None
        )

    # --- towers ---------------------------------------------------------------------------------------------

    def encode_image(self, image: Tensor | Tokens) -> Tokens:
        """Pictures float [n, 3, h, w] in [-1, 1] -> Tokens; what a frozen tower gave before passes through.

        A frozen tower without `image.grid` gives one token, its pooled vector, live as from the cache.
        """
        tokens = image if isinstance(image, Tokens) else cast(Tokens, self.image_encoder(image))
        if self.sees_pooled_alone:
            return Tokens(tokens.pooled[:, None], tokens.is_real[:, :1], tokens.pooled)
        return tokens

    def encode_text(self, text: TextTokens) -> Tokens:
        """Token ids -> Tokens of the text tower."""
        return cast(Tokens, self.text_encoder(text))

    def fusion_image(self, image: Tokens) -> Tokens:
        """The picture as fusion and captions look at it: tokens of the model's width, gathered by the pooler if any."""
        if self.image_pooler is not None:
            return cast(Tokens, self.image_pooler(image))
        return image if self.image_adapter is None else cast(Tokens, self.image_adapter(image))

    def fusion_text(self, text: Tokens) -> Tokens:
        """The text as fusion takes it: tokens of the model's width; its summary alone where the tower makes one."""
        text = text if self.text_adapter is None else cast(Tokens, self.text_adapter(text))
        summary = self.config.text.summary_tokens
        return Tokens(text.values[:, :summary], text.is_real[:, :summary], text.pooled) if summary else text

    # --- contrast -------------------------------------------------------------------------------------------

    def embed_image(self, image: Tokens) -> Float[Tensor, "n e"]:
        """Encoded pictures -> unit vectors in the shared space, float32."""
        if isinstance(self.fusion, Aligning):
            return self.fusion.align("image", self.fusion_image(image).pooled)
        assert self.image_projection is not None, "this model was not trained for contrast"
        pooled = image.pooled if self.image_pooler is None else self.image_pooler(image).pooled
        return cast(Tensor, self.image_projection(pooled))

    def embed_text(self, pooled: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Pooled text vectors -> unit vectors in the shared space, float32."""
        if isinstance(self.fusion, Aligning):
            return self.fusion.align("text", pooled if self.text_adapter is None else self.text_adapter.pooled(pooled))
        assert self.text_projection is not None, "this model was not trained for contrast"
        return cast(Tensor, self.text_projection(pooled))

    # --- fusion ---------------------------------------------------------------------------------------------

    def fuse(
        self,
        text: Tokens,
        image: Tokens,
        image_index: Int[Tensor, " m"],
        text_allowed: Bool[Tensor, "m q k"] | None = None,
    ) -> Tokens:
        """Let m texts meet the pictures they belong to.

        Args:
            text: m encoded texts, as `fusion_text` gives them.
            image: n images, as `fusion_image` gives them.
            image_index: which picture row i is about.
            text_allowed: which word may look at which, where not all may.
        """
        assert self.fusion is not None, "this model was built without fusion"
        return cast(Tokens, self.fusion({"text": text, "image": image}, image_index, text_allowed))

    def ask(
        self,
        image: Tokens,
        question: TextTokens | Tokens,
        question_index: Int[Tensor, " m"],
        image_index: Int[Tensor, " m"],
    ) -> Tokens:
        """Questions fused with their pictures, for `answer` and `answer_decoder`.

        Args:
            image: n encoded pictures.
            question: u distinct questions; each is encoded once however often it is asked, or was encoded before.
            question_index: which question row i asks.
            image_index: which picture row i asks about.
        """
        encoded = question if isinstance(question, Tokens) else self.encode_text(question)
        return self.fuse(self.fusion_text(encoded).rows(question_index), self.fusion_image(image), image_index)

    def answer(self, fused: Tokens) -> Float[Tensor, "m a"]:
        """Logits over the answer vocabulary, float32."""
        assert self.answer_head is not None, "this model was not trained on questions"
        return cast(Tensor, self.answer_head(fused.pooled)).float()

    def name_classes(self, image: Tokens) -> Float[Tensor, "n c"]:
        """Logits over the classes, float32, from the image tower's pooled vector."""
        assert self.class_head is not None, "this model was not trained to name classes"
        return cast(Tensor, self.class_head(image.pooled)).float()

    def match(self, fused: Tokens) -> Float[Tensor, "m 2"]:
        """Logits, float32, of "do not belong together" and "belong together"."""
        assert self.match_head is not None, "this model was not trained for matching"
        return cast(Tensor, self.match_head(fused.pooled)).float()

    def words(self, fused: Float[Tensor, "r d"]) -> Float[Tensor, "r v"]:
        """Fused tokens of hidden words -> logits over the vocabulary, float32."""
        assert self.word_head is not None, "this model was not trained to predict words"
        return cast(Tensor, self.word_head(fused)).float()

    def two_stream(self, text: TextTokens, order: Int[Tensor, "m l"]) -> tuple[Tokens, Tokens]:
        """Content and query stream of a two-stream text tower (XLNet)."""
        assert isinstance(self.text_encoder, TwoStreamTextEncoder), "the text tower has one stream"
        return self.text_encoder.two_stream(text, order)

    @property
    def tower(self) -> TextTower:
        """The text tower as decoders read it: embedding and positions."""
        assert isinstance(self.text_encoder, TextTower), "the text tower does not share embeddings with a decoder"
        return self.text_encoder

    # --- words ----------------------------------------------------------------------------------------------

    def caption_logits(
        self, image: Tokens, ids: Int[Tensor, "m l"], image_index: Int[Tensor, " m"], chosen: Bool[Tensor, "m l"]
    ) -> Float[Tensor, "r v"]:
        """Logits, float32, of the word after each chosen word of the captions."""
        assert self.caption_decoder is not None, "this model was not trained on captions"
        return self.caption_decoder.logits(self.tower, ids, self.fusion_image(image), image_index, chosen)

    def write_captions(
        self, image: Tokens, start_ids: Int[Tensor, " n"], end_id: int, how: DecodingConfig, banned: list[int]
    ) -> Generated:
        """A caption for each picture, started by its token of `start_ids`; ids in `banned` are never written."""
        assert self.caption_decoder is not None, "this model was not trained on captions"
        return self.caption_decoder.write(self.tower, self.fusion_image(image), start_ids, end_id, how, banned)

    def answer_logits(
        self, fused: Tokens, ids: Int[Tensor, "m l"], chosen: Bool[Tensor, "m l"]
    ) -> Float[Tensor, "r v"]:
        """Logits, float32, of the word after each chosen word of the answers to fused questions."""
        assert self.answer_decoder is not None, "this model was not trained to write answers"
        return self.answer_decoder.logits(self.tower, ids, fused, chosen=chosen)

    def write_answers(
        self, fused: Tokens, start_ids: Int[Tensor, " m"], end_id: int, how: DecodingConfig, banned: list[int]
    ) -> Generated:
        """As `write_captions`, an answer to each fused question."""
        assert self.answer_decoder is not None, "this model was not trained to write answers"
        return self.answer_decoder.write(self.tower, fused, start_ids, end_id, how, banned)

    def clamp_logit_scale(self) -> None:
        """Keep the temperature within CLIP's bounds; called after every optimiser step.

        A sigmoid contrast has none (Zhai et al. 2023), and published SigLIP models lie beyond CLIP's.
        """
        if self.logit_scale is not None and self.logit_bias is None:
            with torch.no_grad():
                self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def _adapter(token_dim: int, pooled_dim: int, config: ModelConfig) -> TokenAdapter | None:
    same = token_dim == pooled_dim == config.dim
    return None if same else TokenAdapter(token_dim, pooled_dim, config.dim, config.dropout)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    head = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
    head.apply(init_weights)
    return head
