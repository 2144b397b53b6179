"""Events with predicted probabilities, on which calibration is fitted and measured.

An answer is right. A sentence belongs to an image, among pairs half of which match, the others being each image's
own sentence with the most similar other image (`hardest_images`). A label is right, or, where the data have none, a
sentence is an image's own among ten (`picks`). A caption is true, where the truth is known, or as near to what people
wrote as half of validation's captions are (ROUGE_L).

Axis legend: n images, m texts, c candidates.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chiasm.core.random import counter_rng
from chiasm.core.types import Prediction, Score
from chiasm.metrics.calibration import expected_calibration_error

CANDIDATES = 10
"""Sentences among which an image's own is picked: about as many as people give labels."""


def calibration_errors(
    name: str, predictions: Sequence[Prediction], is_true: npt.ArrayLike, clusters: npt.ArrayLike, seed: int
) -> dict[str, Score]:
    """ECE of the confidences, and of what the model said before calibration where that is another number.

    `clusters` int [n] are equal for events of one image; the intervals draw images.
    """
    confidence = [one.confidence for one in predictions]
    own = [one.confidence if one.uncalibrated is None else one.uncalibrated for one in predictions]
    found = {f"{name}_ECE": expected_calibration_error(confidence, is_true, seed=seed, clusters=clusters)}
    if own != confidence:
        found[f"{name}_uncalibrated_ECE"] = expected_calibration_error(own, is_true, seed=seed, clusters=clusters)
    return found


def hardest_images(similarity: npt.NDArray[np.floating], fits: npt.NDArray[np.bool_]) -> list[int]:
    """For each sentence the most similar of the images that it does not fit; -1 where it fits all.

    Args:
        similarity: [m, n], finite.
        fits: bool [m, n], True where sentence i is known to fit image j.
    """
    others = np.where(fits, -np.inf, similarity)
    return [int(row.argmax()) if np.isfinite(row).any() else -1 for row in others]


def picks(
    text_group: Sequence[str], image_group: Sequence[str], first_text: Sequence[int], seed: int
) -> list[list[int]]:
    """For each image the numbers of `CANDIDATES` texts, its own first: the others are drawn from other groups.

    Args:
        text_group: group of each of the m texts.
        image_group: group of each of the n images.
        first_text: number of each image's first text.
        seed: decides the draw, with the image's place.

    Returns:
        n lists; [] where there are too few texts of other groups.
    """
    groups = np.array(text_group, dtype=object)
    found = []
    for place, (group, own) in enumerate(zip(image_group, first_text, strict=True)):
        drawn = counter_rng("pick", seed, place).permutation(len(groups))[: 4 * CANDIDATES]
        others = [int(number) for number in drawn if groups[number] != group][: CANDIDATES - 1]
        found.append([own, *others] if len(others) == CANDIDATES - 1 else [])
    return found
