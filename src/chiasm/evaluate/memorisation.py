"""Memorisation: the training image that is most like a drawn one.

A model that has learned its training images by heart draws them again. Images are compared by the tokens of the run's
own image tower, which a frozen tower has computed for every training image already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from chiasm.core.types import IMAGE, Example
from chiasm.data.dataset import Dataset, evenly_spread
from chiasm.data.image_refs import image_ref_from_array
from chiasm.pipeline.batching import input_values
from chiasm.pipeline.pipeline import Pipeline

LOOKED_AT = 32_768
"""Training images that are compared, evenly spread over the training split."""
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Nearest:
    """The training example whose image is nearest to a drawn one.

    Attributes:
        example: the example.
        distance: root mean square difference of the tower's tokens, over the root mean square of those of the drawn
            image; 0 is the same image.
        looked_at: number of training images that were compared.
    """

    example: Example
    distance: float
    looked_at: int


@torch.no_grad()
def nearest_training(pipeline: Pipeline, training: Dataset, images: Sequence[npt.NDArray[np.uint8]]) -> list[Nearest]:
    """The nearest training example of each image uint8 [h, w, 3]; [] without images."""
    if not images:
        return []
    drawn = pipeline.encode_images([image_ref_from_array(image) for image in images]).values.flatten(1)
    places = evenly_spread(len(training), LOOKED_AT)
    least = torch.full((len(drawn),), torch.inf)
    found = [0] * len(drawn)
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        config = pipeline.config
        examples = [training.example(place) for place in part]
        inputs = input_values(examples, config.model, config.data.workers, pipeline.resizing)
        tokens = pipeline.encode({IMAGE: inputs[IMAGE]})[IMAGE].values.flatten(1)
        squared = torch.cdist(drawn, tokens, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
        best, place = squared.min(dim=1)
        for row in (best < least).nonzero()[:, 0].tolist():
            least[row], found[row] = best[row], part[int(place[row])]
    size = drawn.square().sum(1).cpu().clamp_min(1e-12)
    distances = (least / size).sqrt().tolist()
    return [
        Nearest(training.example(place), distance, len(places))
        for place, distance in zip(found, distances, strict=True)
    ]
