"""The objective "words" of the task conversation: the bridge alone learns where words stand.

Without a pass through the language model a step costs a thousandth of one with it, and image tokens start among the
word embeddings that the language model already reads.
"""

import torch
from torch import Tensor

from chiasm.core.types import IMAGE, Batch, Encoded
from chiasm.models.inputs import separated
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.word_mixture import word_mixture


def words_of_images(model: VisionLanguageModel, task: str, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
    """`word_mixture` of what the assistant says about each example, over the words that the batch has.

    Args:
        model: the model in training.
        task: whose bridge.
        encoded: inputs of n examples.
        batch: with the task's fields.
    """
    fields = batch.by_task[task]
    row, column = fields["turn_is_counted"].nonzero(as_tuple=True)
    said, example = fields["turn_ids"][row, column], fields["image_index"][row]
    ids, place = said.unique(return_inverse=True)
    image = encoded[IMAGE]
    counts = torch.zeros(len(image.values), len(ids), device=ids.device)
    counts.index_put_((example, place), torch.ones(len(said), device=ids.device), accumulate=True)
    alone, image_of = separated(image)
    tokens = model.bridge(task)(alone)
    return word_mixture(tokens.values, tokens.is_real, image_of, model.language.embed(ids), counts)
