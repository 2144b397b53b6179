"""Permutation language modelling: predict words in a random order (XLNet, Yang et al. 2019, sections 2.2 and 2.3).

Axis legend: n texts, l tokens, q query tokens, k key tokens, v words of the vocabulary.
An order is written as places: order[i, j] is the place at which token j of row i comes. The start token, which stands
at position 0 of every text, comes first and is never predicted; the real words follow; padding comes last.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.shared_draws import RowDraws
from chiasm.objectives.masked_language_modelling import masked_words


def draw_order(is_real: Bool[Tensor, "n l"]) -> Int[Tensor, "n l"]:
    """Draw an order a row, all orders of its words equally likely, from torch's global generator or the processes' own.

    Words keep their positions; only the attention masks follow the order.
    """
    assert bool(is_real[:, 0].all()), "every text begins with its start token"
    key = RowDraws(is_real).uniform()
    key[:, 0] = -1.0
    sequence = key.masked_fill(~is_real, 1.0).argsort(dim=1, stable=True)
    return sequence.argsort(dim=1)


def visible(
    order: Int[Tensor, "n l"], is_real: Bool[Tensor, "n l"]
) -> tuple[Bool[Tensor, "n q k"], Bool[Tensor, "n q k"]]:
    """Attention masks of the content stream and the query stream: True where allowed, False at padding.

    The content stream at token q sees the tokens k with order_k <= order_q; the query stream sees the contents of
    those with order_k < order_q. Before the start token there is none: its query sees the token itself, since every
    query must see something. `TwoStreamTextEncoder.two_stream` keeps the same rules.

    Fusion of the query stream g with an image: every token may attend to the whole image, the image to no word,
    and the content rule is fusion's `text_allowed`. Although token q attends to itself, word q does not leak.
    What stands at token k when fusion begins is g_k, made from the words strictly before k. Token q gathers them over
    order_k <= order_q: all are words strictly before q. So the state at q has again seen words strictly before q
    alone, and the argument repeats with each further block. The query rule would be as safe, but hide from q its own
    state. The content stream must not be fused for prediction under either rule: h_q holds word q, and the residual
    path carries it to the logits.
    """
    real_key = is_real[:, None, :]
    content_allowed = (order[:, None, :] <= order[:, :, None]) & real_key
    query_allowed = (order[:, None, :] < order[:, :, None]) & real_key
    query_allowed[:, 0, 0] = True
    return content_allowed, query_allowed


def predicted(order: Int[Tensor, "n l"], is_real: Bool[Tensor, "n l"], share: float = 1 / 6) -> Bool[Tensor, "n l"]:
    """Which words are predicted: the last of each row's order, those that have seen the most before them.

    Args:
        order: places, from `draw_order`.
        is_real: True where a token is not padding.
        share: part of a row's words, in (0, 1]; 1 / K of XLNet's partial prediction (section 2.3), K = 6. The
            number is rounded, but at least one word; a row of a start token alone has none.
    """
    assert 0 < share <= 1, f"share is {share}, allowed: above 0, up to 1"
    words = is_real.sum(1, keepdim=True) - 1
    count = (words * share).round().clamp_min(1).minimum(words)
    return is_real & (order > words - count)


def permuted_words(
    logits: Float[Tensor, "*words v"], target: Int[Tensor, "*words"], is_predicted: Bool[Tensor, "*words"]
) -> dict[str, Tensor]:
    """Mean cross-entropy over the predicted words of the batch (Yang et al. 2019, equation 5).

    The same sum as `masked_words`; what differs is what the logits have seen. Against `next_word`: the logits at
    position i, made from the query stream, score word i itself, so `target` is the text's ids, not shifted.

    Args:
        logits: scores for the word at each position [n, l, v], or at the predicted ones alone [r, v] (with
            `target[is_predicted]` and `is_predicted[is_predicted]`), which saves the vocabulary's product elsewhere;
            computed in float32 (float64 for float64).
        target: the ids of the text.
        is_predicted: True where a word counts, from `predicted`.

    Returns:
        {"loss": scalar}, in nats a word; zero with a zero gradient where no word is predicted.
    """
    return masked_words(logits, target, is_predicted)
