"""Accuracy of preferring a true caption to the same caption with one element swapped. Chance is 0.5.

The test of NegCLIP and ARO (Yuksekgonul et al. 2023) on the captions of a data set, swapped by the rules of
`data.hard_captions`. Some swaps are implausible as text alone (SugarCrepe, Hsieh et al. 2023); the score without images
measures this bias.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Example
from chiasm.data.hard_captions.swaps import choose_swap

METRIC = "caption_swap_accuracy"
SEED = 0
"""Seed that selects one swap of each caption, the same one for all runs."""
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Swapped:
    """The result for each caption that has a swap.

    Attributes:
        right: float64 [s], 1 if the true caption has the larger cosine to the image, 0.5 for a tie.
        of: int64 [s], index of the example.
        kinds: kind of each swap.
    """

    right: npt.NDArray[np.float64]
    of: npt.NDArray[np.int64]
    kinds: list[str]


def caption_swaps(
    examples: Sequence[Example],
    captioned: Sequence[int],
    images: npt.NDArray[np.float32],
    texts: npt.NDArray[np.float32],
    embed: Embed,
) -> Swapped:
    """Compare each caption with one swap of it.

    Args:
        examples: the examples of one split.
        captioned: indices of the examples whose captions are measured.
        images: unit vectors float32 [n, e], one image per example.
        texts: unit vectors float32 [m, e] of all captions of these examples, in order.
        embed: sentences -> unit vectors float32 [s, e].
    """
    captions = [(row, caption) for row in captioned for caption in examples[row].captions]
    assert len(captions) == len(texts), "one vector a caption"
    drawn = [choose_swap(examples[row], caption, 1.0, SEED, 0) for row, caption in captions]
    chosen = [(number, swap) for number, swap in enumerate(drawn) if swap is not None]
    of = np.array([captions[number][0] for number, _ in chosen], dtype=np.int64)
    if not chosen:
        return Swapped(np.zeros(0), of, [])
    shown = images[of]
    true = (shown * texts[[number for number, _ in chosen]]).sum(1)
    swapped = (shown * embed([swap.text for _, swap in chosen])).sum(1)
    right = (true > swapped) + 0.5 * (true == swapped)
    return Swapped(right, of, [swap.kind for _, swap in chosen])
