"""The model: two encoders, and those of projections, fusion, heads and decoders that the tasks need."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import IMAGE, Encoded, InputValue, TextTokens, Tokens
from chiasm.models.adapter import TokenAdapter
from chiasm.models.bridge.language_bridge import LanguageBridge
from chiasm.models.config import ModelConfig
from chiasm.models.decoder import Decoder, TextTower
from chiasm.models.decoding import DecodingConfig, Generated
from chiasm.models.encoders import widths
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder
from chiasm.models.fusion import build_fusion
from chiasm.models.fusion.base import Aligning, Fusion
from chiasm.models.heads import HeadShape, HeadSpec, build_heads
from chiasm.models.inputs import encode_rows
from chiasm.models.pooling import AttentionalPooler
from chiasm.models.projection import AnyProjection, build_projection

START_LOGIT_SCALE = {"softmax": math.log(1 / 0.07), "additive": math.log(1 / 0.07), "sigmoid": math.log(10)}
"""ln of the initial logit scale: CLIP's (Radford et al. 2021, section 2.5) and SigLIP's (Zhai et al. 2023)."""
START_LOGIT_BIAS = -10.0
"""SigLIP's initial bias: almost all pairs are negative, and the first steps need not learn that (section 3.2)."""
MAX_LOGIT_SCALE = math.log(100)
"""CLIP's upper bound of the logit scale, enforced after every step."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the model that the tasks of a run need."""

    vocabulary: int
    """Number of token ids of the tokenizer."""
    contrast: str = ""
    """Objective of the contrast; "" builds no projections into a shared space."""
    heads: Mapping[str, HeadSpec] = field(default_factory=dict)
    """Task -> its head."""
    learned_weights: tuple[str, ...] = ()
    """Tasks whose losses are weighted by a learned variance."""

    def has(self, reads: str) -> bool:
        """Whether a head reads "pooled", "image" or "fused"."""
        return any(spec.reads == reads for spec in self.heads.values())

    @property
    def fusion(self) -> bool:
        """Whether the model has a fusion block."""
        return self.has("fused")


class VisionLanguageModel(nn.Module):
    """Image and text encoder, projections, fusion, and a head for each task that needs one: `heads[task]`.

    An image is encoded once into `Tokens`; embedding, fusion and generation all use these. Subclasses build the
    members: `AssembledVLM` from its config, `PretrainedVLM` from one network of transformers. An optional member that a
    subclass does not build is None.

    Args:
        config: sizes and kinds of the parts.
        parts: the parts that the tasks need.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module
    input_encoders: nn.ModuleDict
    """Encoders of the inputs other than the image, by name."""
    input_adapters: nn.ModuleDict
    """Input -> layer that maps its tokens to the model's width, where they have another."""
    heads: nn.ModuleDict
    """Task -> its head."""
    task_log_variance: nn.ParameterDict
    """Task -> learned log variance that weights its loss."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.config, self.parts = config, parts
        self.sees_pooled_alone = self.trains_on_vectors = False
        self.image_pooler: AttentionalPooler | None = None
        self.image_adapter: TokenAdapter | None = None
        self.text_adapter: TokenAdapter | None = None
        self.fusion: Fusion | None = None
        self.image_projection: AnyProjection | None = None
        self.text_projection: AnyProjection | None = None
        self.logit_scale: nn.Parameter | None = None
        self.logit_bias: nn.Parameter | None = None

    # --- towers ---------------------------------------------------------------------------------------------

    def encode_image(self, image: Tensor | Tokens) -> Tokens:
        """Images float [n, 3, h, w] in [-1, 1] -> Tokens; cached Tokens of a frozen tower are returned unchanged.

        A frozen tower without `image.grid` returns one token, its pooled vector, as in the cache; so does in training a
        tower whose tokens nothing reads.
        """
        if self.training and self.trains_on_vectors and not isinstance(image, Tokens):
            pooled = cast(Any, self.image_encoder).vectors(image)
            return Tokens(pooled[:, None], pooled.new_ones(len(pooled), 1, dtype=torch.bool), pooled)
        tokens = image if isinstance(image, Tokens) else cast(Tokens, self.image_encoder(image))
        if self.sees_pooled_alone:
            return Tokens(tokens.pooled[:, None], tokens.is_real[:, :1], tokens.pooled)
        return tokens

    def encode(self, inputs: Mapping[str, InputValue]) -> dict[str, Tokens]:
        """Inputs of n examples, by name -> Tokens of n rows each; each input is encoded once for all tasks.

        Of a `Stacked` input an example with several values has the tokens of all of them, and one without any has a row
        without a real token (`models.inputs.grouped`).
        """
        return {name: encode_rows(value, partial(self.encode_input, name)) for name, value in inputs.items()}

    def encode_input(self, name: str, value: Tensor | Tokens) -> Tokens:
        """Values of an input, one row each -> Tokens; the image as in `encode_image`, other Tokens unchanged."""
        if name == IMAGE:
            return self.encode_image(value)
        return value if isinstance(value, Tokens) else cast(Tokens, self.input_encoders[name](value))

    def encode_text(self, text: TextTokens) -> Tokens:
        """Token ids -> Tokens of the text tower."""
        return cast(Tokens, self.text_encoder(text))

    def text_vectors(self, text: TextTokens) -> Float[Tensor, "m d"]:
        """The `pooled` of `encode_text` alone, by the tower's own `vectors` if it has them.

        A tower whose `forward` is replaced as a whole (bf16, `models.execution`) computes by that.
        """
        is_own = "forward" not in vars(self.text_encoder)
        quicker = getattr(self.text_encoder, "vectors", None) if is_own else None
        return self.encode_text(text).pooled if quicker is None else cast(Tensor, quicker(text))

    @property
    def shares_prefixes(self) -> bool:
        """Whether `text_vectors` computes equal beginnings of texts once and no padding (`encoders.prefix_tree`)."""
        return bool(getattr(self.text_encoder, "shares_prefixes", False))

    def fusion_image(self, image: Tokens) -> Tokens:
        """Image tokens for fusion and captions: of the model's width, and pooled by the attention pooler if any."""
        if self.image_pooler is not None:
            return cast(Tokens, self.image_pooler(image))
        return image if self.image_adapter is None else cast(Tokens, self.image_adapter(image))

    def fusion_inputs(self, encoded: Encoded) -> dict[str, Tokens]:
        """All encoded inputs for fusion: tokens of the model's width."""
        return {
            name: self.fusion_image(tokens)
            if name == IMAGE
            else cast(Tokens, self.input_adapters[name](tokens))
            if name in self.input_adapters
            else tokens
            for name, tokens in encoded.items()
        }

    def fusion_text(self, text: Tokens) -> Tokens:
        """The text for fusion: tokens of the model's width; only the summary tokens where the tower has them."""
        text = text if self.text_adapter is None else cast(Tokens, self.text_adapter(text))
        summary = self.config.text.summary_tokens
        return Tokens(text.values[:, :summary], text.is_real[:, :summary], text.pooled) if summary else text

    # --- contrast -------------------------------------------------------------------------------------------

    def embed_image(self, image: Tokens) -> Float[Tensor, "n e"]:
        """Encoded images -> unit vectors in the shared space, float32."""
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
        inputs: Encoded,
        image_index: Int[Tensor, " m"],
        text_allowed: Bool[Tensor, "m q k"] | None = None,
    ) -> Tokens:
        """Fuse m texts with the inputs of their examples.

        Args:
            text: m encoded texts, from `fusion_text`.
            inputs: inputs of n examples, from `fusion_inputs`; any may be missing.
            image_index: the example of row i.
            text_allowed: True where a token may attend to a token; None allows all.
        """
        assert self.fusion is not None, "this model was built without fusion"
        return cast(Tokens, self.fusion({"text": text, **inputs}, image_index, text_allowed))

    def ask(
        self,
        encoded: Encoded,
        question: TextTokens | Tokens,
        question_index: Int[Tensor, " m"],
        image_index: Int[Tensor, " m"],
    ) -> Tokens:
        """Questions fused with the inputs of their examples, for heads that read them.

        Args:
            encoded: inputs of n examples.
            question: u distinct questions, token ids or already encoded; each is encoded once.
            question_index: the question of row i.
            image_index: the example of row i.
        """
        read = question if isinstance(question, Tokens) else self.encode_text(question)
        return self.fuse(self.fusion_text(read).rows(question_index), self.fusion_inputs(encoded), image_index)

    def two_stream(self, text: TextTokens, order: Int[Tensor, "m l"]) -> tuple[Tokens, Tokens]:
        """Content and query stream of a two-stream text tower (XLNet)."""
        assert isinstance(self.text_encoder, TwoStreamTextEncoder), "the text tower has one stream"
        return self.text_encoder.two_stream(text, order)

    @property
    def tower(self) -> TextTower:
        """The text tower, whose embedding and positions decoders share."""
        assert isinstance(self.text_encoder, TextTower), "the text tower does not share embeddings with a decoder"
        return self.text_encoder

    @property
    def language(self) -> LanguageModel:
        """The text tower as a language model."""
        assert isinstance(self.text_encoder, LanguageModel), "the text tower is no language model"
        return self.text_encoder

    @torch.no_grad()
    def image_tokens(self, task: str) -> int:
        """Tokens that the language model gets of one image, by the bridge that is a task's head."""
        height, width = self.config.image.shape_px
        parameter = next(self.parameters())
        blank = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
        return self.bridge(task)(self.encode_image(blank)).values.shape[1]

    def bridge(self, task: str) -> LanguageBridge:
        """The bridge that is a task's head."""
        return cast(LanguageBridge, self.heads[task])

    # --- heads ----------------------------------------------------------------------------------------------

    def logits(self, task: str, values: Float[Tensor, "*r d"]) -> Float[Tensor, "*r o"]:
        """Apply a task's head to vectors, in float32."""
        return cast(Tensor, self.heads[task](values)).float()

    def writer_logits(
        self,
        task: str,
        context: Tokens,
        ids: Int[Tensor, "m l"],
        chosen: Bool[Tensor, "m l"],
        context_index: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "r v"]:
        """Logits, float32, of the token after each chosen token, from the decoder that is a task's head.

        Args:
            task: name of the task.
            context: input of cross-attention: n images from `fusion_image`, or fused rows.
            ids: the tokens so far.
            chosen: True at the tokens after which logits are needed.
            context_index: the row of `context` of text i; None: as many rows, in order.
        """
        return cast(Decoder, self.heads[task]).logits(self.tower, ids, context, context_index, chosen)

    def write(
        self,
        task: str,
        context: Tokens,
        start_ids: Int[Tensor, " n"],
        end_id: int,
        decoding: DecodingConfig,
        suppressed: list[int],
    ) -> Generated:
        """Generate a text for each row of `context` after its start id; suppressed ids are never generated."""
        decoder = cast(Decoder, self.heads[task])
        return decoder.write(self.tower, context, start_ids, end_id, decoding, suppressed)

    def clamp_logit_scale(self) -> None:
        """Clamp the logit scale to CLIP's bounds; called after every optimiser step.

        A sigmoid contrast has no bounds (Zhai et al. 2023), and published SigLIP models exceed CLIP's.
        """
        if self.logit_scale is not None and self.logit_bias is None:
            with torch.no_grad():
                self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


class AssembledVLM(VisionLanguageModel):
    """A model whose encoders, fusion and heads are built separately from the config.

    Args:
        config: sizes and kinds of the parts.
        parts: the parts that the tasks need.
        towers: existing image and text encoder; None builds both from `config`.
    """

    def __init__(self, config: ModelConfig, parts: Parts, towers: tuple[nn.Module, nn.Module] | None = None) -> None:
        super().__init__(config, parts)
        self.image_encoder = config.image.build(config.encoder_shape()) if towers is None else towers[0]
        self.text_encoder = config.text.build(config.encoder_shape(parts.vocabulary)) if towers is None else towers[1]
        token_dim, image_dim = widths(self.image_encoder)
        self.sees_pooled_alone = config.image.frozen and not config.image.grid
        token_dim = image_dim if self.sees_pooled_alone else token_dim
        word_dim, text_dim = widths(self.text_encoder)
        dim, queries = config.dim, config.image.pool_queries
        uses_tokens = parts.fusion or parts.has("image")
        reads_tokens = uses_tokens or parts.has("tokens") or queries > 0
        self.trains_on_vectors = hasattr(self.image_encoder, "vectors") and not reads_tokens
        self.image_pooler = AttentionalPooler(token_dim, dim, queries, config.heads) if queries else None
        self.image_adapter = _adapter(token_dim, image_dim, config) if uses_tokens and not queries else None
        self.text_adapter = _adapter(word_dim, text_dim, config) if parts.fusion else None
        self.fusion = build_fusion(config, ("text", IMAGE, *config.inputs)) if parts.fusion else None
        self._build_contrast(dim if queries else image_dim, text_dim)
        self.heads = build_heads(parts.heads, self._head_shape(image_dim, token_dim))
        self._build_inputs()
        self.task_log_variance = nn.ParameterDict({name: torch.zeros(()) for name in parts.learned_weights})

    def _build_inputs(self) -> None:
        """Build encoders of the inputs other than the image, and layers that map their tokens to the model's width."""
        shape = self.config.encoder_shape()
        built = {name: encoder.build(shape) for name, encoder in self.config.inputs.items()}
        self.input_encoders = nn.ModuleDict(built)
        adapters = {name: _adapter(*widths(encoder), self.config) for name, encoder in built.items()}
        self.input_adapters = nn.ModuleDict({name: layer for name, layer in adapters.items() if layer is not None})

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

    def _head_shape(self, image_dim: int, token_dim: int) -> HeadShape:
        config, fusion = self.config, self.fusion
        return HeadShape(
            dim=config.dim,
            image_dim=image_dim,
            fused_dim=0 if fusion is None else fusion.dim,
            fused_token_dim=0 if fusion is None else fusion.token_dim,
            heads=config.heads,
            layers=config.decoder_layers,
            dropout=config.dropout,
            vocabulary=self.parts.vocabulary,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
            token_dim=token_dim,
            grid_of=config.image.grid_of,
        )


def _adapter(token_dim: int, pooled_dim: int, config: ModelConfig) -> TokenAdapter | None:
    same = token_dim == pooled_dim == config.dim
    return None if same else TokenAdapter(token_dim, pooled_dim, config.dim, config.dropout)
