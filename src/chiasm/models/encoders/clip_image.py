"""CLIP's image vectors without the rest of the last layer, of which the class token alone is used.

Axis legend: n images, l tokens (class token first), d token width, h heads, c numbers of a head.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from chiasm.models.transformer import attend

MODEL_TYPE = "clip_vision_model"
"""`model_type` of the networks that `clip_image_vectors` takes."""


def clip_image_vectors(network: Any, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    """The network's `pooler_output`, equal to calling it but for rounding, in value and gradient.

    CLIP pools the class token, so that the last layer needs its query and its MLP for this token alone: a fifteenth of
    the tower of ViT-B/32 is not computed.

    Args:
        network: transformers' CLIPVisionModel, which drops out nothing in attention (`drops_attention`).
        pixels: normalised as it was trained.
    """
    x = network.pre_layrnorm(network.embeddings(pixels))
    *before, last = network.encoder.layers
    for layer in before:
        x = layer(x, None)
    attention = last.self_attn
    near = last.layer_norm1(x)
    parts = attention.q_proj(near[:, :1]), attention.k_proj(near), attention.v_proj(near)
    query, key, value = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    first: Tensor = x[:, :1] + attention.out_proj(attend(query, key, value, None).transpose(1, 2).flatten(2))
    pooled: Tensor = network.post_layernorm((first + last.mlp(last.layer_norm2(first)))[:, 0])
    return pooled


def drops_attention(network: Any) -> bool:
    """Whether attention weights are dropped out in the network's present mode."""
    return bool(network.training and network.config.attention_dropout > 0)
