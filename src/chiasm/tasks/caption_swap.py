"""Does a model prefer what is true of an image to the same sentence with one thing swapped? Chance is 0.5.

The test of NegCLIP and ARO (Yuksekgonul et al. 2023) on a set's own captions, swapped by the rules of
`data.hard_captions`.
Some swaps can be told from the sentence alone, because nobody would write them (SugarCrepe, Hsieh et al. 2023): the
score without images says how many, and only what is above it comes from looking.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Example
from chiasm.data.hard_captions.swaps import choose_swap

METRIC = "caption_swap_accuracy"
SEED = 0
"""Decides which of a caption's swaps is asked about: the same one for every run."""
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Swapped:
    """The outcome for each caption that has a swap.

    Attributes:
        right: float64 [s], 1 where the true caption is nearer to the image, 0.5 where both are as near.
        of: int64 [s], number of the example.
        kinds: what was swapped.
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
        examples: one split.
        captioned: numbers of the examples whose captions are measured.
        images: unit vectors float32 [n, e] of the images that are shown, one an example.
        texts: unit vectors float32 [m, e] of all captions of these examples, in their order.
        embed: sentences -> unit vectors float32 [s, e].
    """
    said = [(row, one) for row in captioned for one in examples[row].captions]
    assert len(said) == len(texts), "one vector a caption"
    drawn = [choose_swap(examples[row], caption, 1.0, SEED, 0) for row, caption in said]
    chosen = [(number, swap) for number, swap in enumerate(drawn) if swap is not None]
    of = np.array([said[number][0] for number, _ in chosen], dtype=np.int64)
    if not chosen:
        return Swapped(np.zeros(0), of, [])
    shown = images[of]
    true = (shown * texts[[number for number, _ in chosen]]).sum(1)
    swapped = (shown * embed([swap.text for _, swap in chosen])).sum(1)
    right = (true > swapped) + 0.5 * (true == swapped)
    return Swapped(right, of, [swap.kind for _, swap in chosen])
