"""Loss of a prior over a caption's tokens and its image's tokens: two cross-entropies, weighed.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.2: text 1 to image 7, divided by 8.
"""

from jaxtyping import Float, Int
from torch import Tensor

from chiasm.objectives.language_modelling import next_word


def text_then_image(
    word_logits: Float[Tensor, "r v"],
    words: Int[Tensor, " r"],
    code_logits: Float[Tensor, "m p k"],
    ids: Int[Tensor, "m p"],
    text_weight: float = 1.0,
    image_weight: float = 7.0,
) -> dict[str, Tensor]:
    """Weighted mean of the cross-entropy a word and the cross-entropy an image token.

    Args:
        word_logits: of the r words of all captions, padding left out.
        words: these words.
        code_logits: of all tokens of m images.
        ids: these tokens.
        text_weight: weight of the words, at least 0.
        image_weight: weight of the image tokens, above 0.

    Returns:
        "text" and "image" in nats a token, each a mean over its tokens in all processes, and "loss", their weighted
        mean; zero with a zero gradient where there are no tokens.
    """
    text = next_word(word_logits, words)["loss"]
    image = next_word(code_logits, ids)["loss"]
    loss = (text_weight * text + image_weight * image) / (text_weight + image_weight)
    return {"text": text, "image": image, "loss": loss}
