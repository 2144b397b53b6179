"""Words explained by image tokens: each token stands for a word, and a text's words are drawn from their mixture.

The model is IBM Model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation", section 4.2) with
images as the source language, as Duygulu et al. 2002 ("Object Recognition as Machine Translation") read them, and with
a null word: the words' frequencies, which explain "a" and "the" without an image. Theirs is a table of probabilities;
here a token and the words are vectors of one space, near where they mean the same.

Axis legend: n examples, k images, l tokens, v words, e width.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient, mean_over_terms

SHARPNESS = 20.0
"""Scale of squared distances, in units of the words' mean square length, halved: tokens as far from a word as two
unrelated words are from each other have e^-20 of the weight of one upon it."""
NULL_SHARE = 0.5
"""Prior share of words that are drawn by frequency and not from the image."""


def word_mixture(
    tokens: Float[Tensor, "k l e"],
    is_real: Bool[Tensor, "k l"],
    image_of: Int[Tensor, " k"],
    words: Float[Tensor, "v e"],
    counts: Float[Tensor, "n v"],
) -> dict[str, Tensor]:
    """Mean negative log-likelihood of the words of n texts, in nats a word.

    p(w) = NULL_SHARE f(w) + (1 - NULL_SHARE) mean_i softmax_w(-SHARPNESS |t_i - e_w|^2 / (2 mean |e|^2)) over the
    tokens i of an example's images; f is the frequency of w among the texts of all processes.

    Args:
        tokens: of k images, in the space of the words' vectors.
        is_real: True for tokens that count; at least one a row.
        image_of: the example of each image.
        words: vectors of v words, the same in all processes; they get no gradient.
        counts: how often each example's texts have each word. An example without an image adds nothing.

    Returns:
        "loss", float32, over the words of all processes; zero with a zero gradient where there are none.
    """
    tokens, words = tokens.float(), words.detach().float()
    square = words.square().sum(-1)
    scale = SHARPNESS / square.mean().clamp_min(1e-12)
    # |t|^2 is the same for all words and falls out of the softmax.
    scores = scale * (tokens @ words.T - square / 2)
    by_token = scores.log_softmax(-1).masked_fill(~is_real[:, :, None], -torch.inf)
    by_image = by_token.logsumexp(1) - is_real.sum(1).log()[:, None]
    has_image = torch.bincount(image_of, minlength=len(counts)) > 0
    seen = by_image.new_zeros(len(counts), len(words)).index_add(0, image_of, by_image.exp())
    seen = seen / torch.bincount(image_of, minlength=len(counts)).clamp_min(1)[:, None]
    counts = counts * has_image[:, None]
    everywhere = gather_with_gradient(counts.sum(0)[None]).sum(0)
    frequency = everywhere / everywhere.sum().clamp_min(1)
    likelihood = (1 - NULL_SHARE) * seen + NULL_SHARE * frequency
    total = -(counts * likelihood.clamp_min(math.exp(-80)).log()).sum()
    return {"loss": mean_over_terms(total, counts.sum())}
