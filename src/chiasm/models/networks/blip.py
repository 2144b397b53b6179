"""BLIP (Li et al. 2022): captioning, question answering and matching, each a separate network in transformers.

All have the same image tower. A text encoder with cross-attention to the image reads texts; a decoder with
cross-attention to the image (captions) or to the encoded question (answers) generates them.

Axis legend: n images, m texts, l tokens, d token width, v vocabulary.
"""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import IMAGE, Encoded, TextTokens, Tokens
from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig, Generated, Step, decode
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder
from chiasm.models.heads import FusedClasses, FusedWriter, HeadSpec, ImageWriter
from chiasm.models.networks.base import NetworkSpec, PretrainedVLM
from chiasm.models.pretrained.hugging_face_folder import TowerSpec
from chiasm.models.projection import PlainProjection
from chiasm.models.vision_language import Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BlipTextEncoder(nn.Module):
    """Token ids -> token embeddings, the input of the blocks in `Blip.fuse`.

    Args:
        model: transformers' BlipTextModel.
        is_embedded: True where a text also has a vector of its own, for which it is encoded without an image.
    """

    def __init__(self, model: "PreTrainedModel", is_embedded: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.is_embedded = is_embedded
        self.dim = int(model.config.hidden_size)
        self.max_tokens = int(model.config.max_position_embeddings)

    def forward(self, text: TextTokens) -> Tokens:
        """`values` [m, l, d] are embeddings with positions; `pooled` the first token's state, or its embedding."""
        values = self.model.embeddings(input_ids=text.ids)
        if not self.is_embedded:
            return Tokens(values, text.is_real, values[:, 0])
        alone = self.model(encoder_embeds=values, attention_mask=text.is_real.long())
        return Tokens(values, text.is_real, alone.last_hidden_state[:, 0])


class Blip(PretrainedVLM):
    """One of BLIP's networks, named by `spec.network`."""

    text_decoder: Any

    names: ClassVar[tuple[tuple[str, str], ...]] = (
        ("image_encoder.model.", "vision_model."),
        ("text_encoder.model.", "text_encoder."),
        ("image_projection.linear.", "vision_proj."),
        ("text_projection.linear.", "text_proj."),
    )
    offers: ClassVar[dict[str, type[HeadSpec]]] = {
        "BlipForConditionalGeneration": ImageWriter,
        "BlipForQuestionAnswering": FusedWriter,
        "BlipForImageTextRetrieval": FusedClasses,
    }
    has_space: ClassVar[frozenset[str]] = frozenset({"BlipForImageTextRetrieval"})
    head_names: ClassVar[dict[str, tuple[str, str]]] = {
        "BlipForConditionalGeneration": ("", "text_decoder."),
        "BlipForQuestionAnswering": ("", "text_decoder."),
        "BlipForImageTextRetrieval": ("", "itm_head."),
    }

    @classmethod
    def wrap(cls, config: ModelConfig, parts: Parts, spec: NetworkSpec, network: Any) -> "Blip":
        """Assign the image tower, and those of encoder, decoder, projections and head that the network has."""
        made = cls(config, parts, spec)
        vision = TowerSpec(network.config.vision_config.to_dict(), "first", spec.fixed)
        made.image_encoder = HuggingFaceImageEncoder(network.vision_model, vision)
        is_embedded = hasattr(network, "text_proj")
        has_encoder = hasattr(network, "text_encoder")
        made.text_encoder = BlipTextEncoder(network.text_encoder, is_embedded) if has_encoder else nn.Identity()
        made._take_head(network.itm_head if is_embedded else network.text_decoder)
        if is_embedded:
            made.image_projection = _projection(network.vision_proj)
            made.text_projection = _projection(network.text_proj)
            # The published files have no weight for the temperature; the config has its initial value.
            start = torch.tensor(float(network.config.logit_scale_init_value))
            made.logit_scale = nn.Parameter(start)
        return made

    def fuse(
        self,
        text: Tokens,
        inputs: Encoded,
        image_index: Int[Tensor, " m"],
        text_allowed: Bool[Tensor, "m q k"] | None = None,
    ) -> Tokens:
        """Encode the texts with cross-attention to their images; `pooled` is the first token's state."""
        assert text_allowed is None, "BLIP's encoder lets every word look at every word"
        out = cast(BlipTextEncoder, self.text_encoder).model(
            encoder_embeds=text.values,
            attention_mask=text.is_real.long(),
            encoder_hidden_states=inputs[IMAGE].values[image_index],
            encoder_attention_mask=inputs[IMAGE].is_real[image_index].long(),
        )
        return Tokens(out.last_hidden_state, text.is_real, out.last_hidden_state[:, 0])

    def writer_logits(
        self,
        task: str,
        context: Tokens,
        ids: Int[Tensor, "m l"],
        chosen: Bool[Tensor, "m l"],
        context_index: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "r v"]:
        """As in `VisionLanguageModel`; the first token of a row is replaced by BLIP's own start token."""
        context = context if context_index is None else context.rows(context_index)
        decoder: Any = self.heads[task]
        ids = torch.cat([torch.full_like(ids[:, :1], decoder.config.bos_token_id), ids[:, 1:]], dim=1)
        logits = context.values.new_zeros(*ids.shape, decoder.config.vocab_size)
        for rows, seen in _by_length(context):
            # Padding is on the right, so the causal mask hides it.
            mask = torch.ones_like(ids[rows])
            out = decoder(input_ids=ids[rows], attention_mask=mask, encoder_hidden_states=seen, use_cache=False)
            logits = logits.index_copy(0, rows, out.logits)
        return logits[chosen].float()

    @torch.no_grad()
    def write(
        self,
        task: str,
        context: Tokens,
        start_ids: Int[Tensor, " n"],
        end_id: int,
        decoding: DecodingConfig,
        suppressed: list[int],
    ) -> Generated:
        """As in `VisionLanguageModel`; a text starts with BLIP's own start token, which its tokenizer lacks."""
        decoder: Any = self.heads[task]
        starts = torch.full_like(start_ids, decoder.config.bos_token_id)
        longest = min(int(decoder.config.max_position_embeddings), self.config.text.max_tokens)
        parts = [
            (rows, decode(_step(decoder, seen), starts[rows], end_id, decoding, longest, suppressed))
            for rows, seen in _by_length(context)
        ]
        length = max((part.ids.shape[1] for _, part in parts), default=0)
        ids = torch.full((len(starts), length), end_id, device=starts.device)
        score = torch.zeros(len(starts), device=starts.device)
        is_finished = torch.ones(len(starts), dtype=torch.bool, device=starts.device)
        for rows, part in parts:
            ids[rows, : part.ids.shape[1]] = part.ids
            score[rows], is_finished[rows] = part.log_probability, part.is_finished
        return Generated(ids, score, is_finished)


def _step(decoder: Any, seen: Tensor) -> Step:
    """The decoder as a `Step` of `decode`, with cached keys and values of its context and of the tokens so far."""
    from transformers import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    cached = {_cache_name(decoder): cache, "use_cache": True}

    def step(ids: Tensor, rows: Tensor | None) -> Tensor:
        nonlocal seen
        if rows is not None:
            seen = seen[rows]
            cache.reorder_cache(cast(torch.LongTensor, rows))
        return cast(Tensor, decoder(input_ids=ids, encoder_hidden_states=seen, **cached).logits[:, -1])

    return step


def _by_length(context: Tokens) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of rows of equal real length, with their tokens without padding.

    transformers' decoder accepts a mask over its context and ignores it, so the context must have no padding.
    """
    lengths = context.is_real.sum(1)
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        yield rows, context.values[rows, :length]


def _projection(linear: nn.Linear) -> PlainProjection:
    """A linear layer followed by L2 normalisation."""
    made = PlainProjection(linear.in_features, linear.out_features)
    made.linear = linear
    return made


def _cache_name(decoder: Any) -> str:
    """Name of the argument for cached keys and values in the installed transformers."""
    return "cache" if "cache" in inspect.signature(decoder.bert.forward).parameters else "past_key_values"
