"""The objective "words" of the task conversation: the bridge alone learns which words stand for an image.

No pass through the language model is needed, so a step costs little, and image tokens come to stand among the word
embeddings that the language model already reads.
"""

import torch
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient
from chiasm.core.types import IMAGE, Batch, Encoded, Tokens
from chiasm.models.inputs import separated
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.word_mixture import word_mixture


def words_of_images(model: VisionLanguageModel, task: str, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
    """`word_mixture` of what the assistant says about each example, over the words that the batch has in all processes.

    Of a step in parts (`train.accumulate`) each part has words and frequencies of its own.

    Args:
        model: the model in training.
        task: whose bridge.
        encoded: inputs of n examples; those without an image teach nothing.
        batch: with the task's fields.
    """
    fields = batch.by_task[task]
    row, column = fields["target_is_real"].nonzero(as_tuple=True)
    said, example = fields["target_ids"][row, column], fields["image_index"][row]
    ids = gather_with_gradient(said).unique()
    place = torch.searchsorted(ids, said)
    words = model.language.embed(ids)
    tokens, image_of = _image_tokens(model, task, encoded, words)
    examples = max([*example.tolist(), *image_of.tolist()], default=-1) + 1
    counts = torch.zeros(examples, len(ids), device=ids.device)
    counts.index_put_((example, place), torch.ones(len(said), device=ids.device), accumulate=True)
    return word_mixture(tokens.values, tokens.is_real, image_of, words, counts)


def _image_tokens(model: VisionLanguageModel, task: str, encoded: Encoded, words: Tensor) -> tuple[Tokens, Tensor]:
    """The tokens of all images, one row each, and the example of each; a batch without images gives an empty row."""
    bridge = model.bridge(task)
    if IMAGE in encoded:
        alone, image_of = separated(encoded[IMAGE])
        if len(alone.values):
            return bridge(alone), image_of
    zero = torch.stack([one.sum() * 0 for one in bridge.parameters()]).sum()  # the loss has a gradient, of zero
    none = words.new_zeros(0, 1, words.shape[1]) + zero
    return Tokens(none, words.new_zeros(0, 1).bool(), words[:0]), torch.zeros(0, dtype=torch.long, device=words.device)
