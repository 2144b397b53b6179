"""CLIP's text vectors without wasted work: equal beginnings once, no padding, and of the last layer one token a text.

CLIP pools the state of the end token under causal attention (Radford et al. 2021, section 2.4). Tokens after it have no
influence, and of the last layer only its own queries and MLP are needed.

Axis legend: m texts, l tokens, d token width.
"""

from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.types import TextTokens
from chiasm.models.encoders.prefix_tree import attend_from_last, attend_in_tree, prefix_tree

MODEL_TYPE = "clip_text_model"
"""`model_type` of the networks that `clip_text_vectors` takes."""
BEFORE_EOS = 2
"""`eos_token_id` of folders from before transformers 4.31, which stands for "the highest id of a text"."""


def end_places(network: Any, ids: Int[Tensor, "m l"]) -> Int[Tensor, " m"]:
    """Place of the token whose state transformers pools: the first end token of each text."""
    is_end = ids.int() if network.eos_token_id == BEFORE_EOS else (ids == network.eos_token_id).int()
    return cast(Tensor, is_end.argmax(dim=1))


def clip_text_vectors(network: Any, text: TextTokens) -> Float[Tensor, "m d"]:
    """The network's `pooler_output` for texts with an end token.

    Equal to calling it but for rounding. A text's vector is the same in every batch, to the last bit.
    """
    end = end_places(network, text.ids)
    tree = prefix_tree(text.ids, end + 1)
    layers, heads = network.encoder.layers, network.config.num_attention_heads
    x = network.embeddings.token_embedding(tree.ids) + network.embeddings.position_embedding(tree.place)
    for layer in layers[:-1]:
        near = layer.layer_norm1(x)
        attention = layer.self_attn
        parts = attention.q_proj(near), attention.k_proj(near), attention.v_proj(near)
        x = x + attention.out_proj(attend_in_tree(*parts, tree, heads))
        x = x + layer.mlp(layer.layer_norm2(x))
    layer, attention = layers[-1], layers[-1].self_attn
    near = layer.layer_norm1(x)
    query = attention.q_proj(near[tree.last])
    mixed = attend_from_last(query, attention.k_proj(near), attention.v_proj(near), tree, heads)
    x = x[tree.last] + attention.out_proj(mixed)
    return network.final_layer_norm(x + layer.mlp(layer.layer_norm2(x)))


def has_ends(network: Any, text: TextTokens) -> bool:
    """Whether the pooled token of every text is one of its real tokens; padding stands on the right."""
    return bool(text.is_real.gather(1, end_places(network, text.ids)[:, None]).all())
