"""Where a model looked: its attention over the image, laid on the image.

A weight says what was read, not why an answer was given: attention is a hint, no proof (Jain & Wallace 2019).

Axis legend: m texts, n images, h heads, q queries, k keys, s tokens that fusion and captions see, l tokens of the
image tower, or the places from which it says that it gathered them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.types import IMAGE, Encoded, TextTokens, Tokens
from chiasm.models.decoder import Decoder
from chiasm.models.encoders.base import ImageTowerConfig
from chiasm.models.transformer import watching
from chiasm.models.vision_language import VisionLanguageModel

MOST_EXTRA = 8
"""Most tokens of a tower that stand for no place: class and register tokens."""


@torch.no_grad()
def question_attention_map(
    model: VisionLanguageModel,
    encoded: Encoded,
    question: TextTokens,
    question_index: Int[Tensor, " m"],
    image_index: Int[Tensor, " m"],
) -> Float[Tensor, "m l"] | None:
    """How much fusion looked at each token of the tower, mean over layers, heads and words; arguments as of `ask`.

    None where the fusion has no attention, or sees the image as one vector.
    """
    looks = [] if model.fusion is None else model.fusion.cross_attentions()
    if not looks or model.sees_pooled_alone:
        return None
    with watching(looks) as notes:
        model.ask(encoded, question, question_index, image_index)
    image = encoded[IMAGE]
    seen = model.fusion_image(image)
    length, words = seen.values.shape[1], question.is_real[question_index]
    layers = []
    for weights in notes.values():
        assert weights is not None, "an attention that fusion names was not used"
        shares = weights.mean(1)[..., -length:]
        is_words = not model.config.text.summary_tokens and shares.shape[1] >= words.shape[1]
        who = words.to(shares.dtype) if is_words else shares.new_ones(len(shares), shares.shape[1])
        layers.append((shares[:, : who.shape[1]] * who[..., None]).sum(1) / who.sum(1, keepdim=True))
    return _on_tower(model, image, torch.stack(layers).mean(0), image_index)


@torch.no_grad()
def caption_attention_map(
    model: VisionLanguageModel, task: str, image: Tokens, text: TextTokens
) -> Float[Tensor, "n l"] | None:
    """Attention of the decoder to each token of the image tower, for one caption per image.

    Mean over blocks, heads and generated tokens. None where the decoder gets the image as one vector.
    """
    decoder = model.heads[task]
    if not isinstance(decoder, Decoder) or model.sees_pooled_alone:
        return None
    rows = torch.arange(len(text.ids), device=text.ids.device)
    with watching([block.cross_attention for block in decoder.blocks]) as notes:  # type: ignore[misc]
        model.writer_logits(task, model.fusion_image(image), text.ids[:, :-1], text.is_real[:, 1:], rows)
    is_real = text.is_real[:, 1:, None].float()
    found = [(weights.mean(1) * is_real).sum(1) / is_real.sum(1) for weights in notes.values() if weights is not None]
    return _on_tower(model, image, torch.stack(found).mean(0), rows)


def _on_tower(
    model: VisionLanguageModel, image: Tokens, shares: Float[Tensor, "m s"], image_index: Int[Tensor, " m"]
) -> Float[Tensor, "m l"]:
    """Shares of the tokens that were seen -> shares of the tower's tokens, through the pooler where there is one.

    Where the tower says from which places it gathered its tokens, shares of these places.
    """
    pooler = model.image_pooler
    if pooler is not None:
        with watching([pooler.attention]) as notes:
            pooler(image)
        (weights,) = notes.values()
        assert weights is not None, "the pooler has one attention"
        shares = (shares[:, None] @ weights.mean(1)[:, : pooler.queries][image_index])[:, 0]
    if image.places is not None:
        shares = (shares[:, None] @ image.places.flatten(2)[image_index])[:, 0]
    return shares


def as_grid(shares: Float[Tensor, "m l"], tower: ImageTowerConfig) -> Float[Tensor, "m r c"] | None:
    """Shares of tokens -> rows and columns of the image as the tower sees it, each grid summing to 1.

    Tokens that stand for no place come first and are left out. None where the tokens are no grid.
    """
    rows, columns = tower.grid_of(shares.shape[1])
    extra = shares.shape[1] - rows * columns
    if not 0 <= extra <= MOST_EXTRA or not rows * columns:
        return None
    places = shares[:, extra:]
    return (places / places.sum(1, keepdim=True).clamp_min(1e-12)).view(-1, rows, columns)
