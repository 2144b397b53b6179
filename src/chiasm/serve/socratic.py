"""Talking about images without training: what an image tower sees is told to a language model in words.

Socratic models (Zeng et al. 2022, arXiv:2204.00598, section 3): two packaged networks that were never trained together
meet in language. The tower names ImageNet's classes and things of a short list; the language model reads these names
with their probabilities in place of the image. It knows nothing else of the image: no number, place or colour, and
where the names are wrong, so is the reply (docs/chat.md has how weak it is).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from chiasm.core.types import IMAGE, IMAGE_PLACEHOLDER, Turn
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.imagenet import imagenet_classes
from chiasm.models.encoders.language_model import LanguageModel, SmolLM2Config
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.tokenizers import pretrained_tokenizer
from chiasm.serve.given import ImageInput, prepared
from chiasm.serve.talker import Talker, pixels_key
from chiasm.tasks.conversation_decoding import Seen
from chiasm.tasks.retrieval import Retrieval

CLASSES_TOLD, THINGS_TOLD = 4, 3
LEAST_TOLD = 0.03
"""A class of a smaller probability is not told."""
THINGS = (
    "a man", "a woman", "a child", "a crowd of people", "a dog", "a cat", "a bird", "a horse", "a cow", "a sheep",
    "an insect", "a fish", "a flower", "a tree", "a forest", "grass", "snow", "water", "the sea", "a beach", "a river",
    "a mountain", "rocks", "a street", "a building", "a house", "a room", "a kitchen", "a car", "a truck", "a bus",
    "a train", "an airplane", "a boat", "a bicycle", "a motorcycle", "food", "fruit", "a plate", "a cup", "a bottle",
    "a table", "a chair", "a bed", "a ball", "a sport", "a book", "a computer", "a phone", "clothes", "a guitar",
)  # fmt: skip
"""Things of everyday photos that the starter is asked for beside ImageNet's classes."""
PROMPTS = ("a photo of {label}", "{label}")
TOLD = "Someone shows you a photo. An image classifier sees in it: {classes}. It may also show: {things}."
NOTE = (
    "without training: an image classifier's words, told to a language model. It sees no colours, numbers or places, "
    "and is often wrong (docs/chat.md); a run of `chiasm train llava` sees the image itself"
)


class SocraticTalker(Talker):
    """The starter's towers, and the packaged language model.

    Args:
        pipeline: the starter's.

    Raises:
        InputError: the packaged language model is not installed.
        MissingExtraError: the extra [llm] is not installed.
    """

    note = NOTE

    def __init__(self, pipeline: Pipeline) -> None:
        config = SmolLM2Config(max_tokens=1024)
        language, tokenizer = config.build(EncoderShape(0, 0)), pretrained_tokenizer(config)
        assert isinstance(language, LanguageModel) and isinstance(tokenizer, ChatTokenizer), "a language model"
        make_batch_invariant(language)
        super().__init__(language.to(pipeline.device).requires_grad_(False).eval(), tokenizer, None)
        self.pipeline = pipeline
        self._known: dict[str, str] = {}

    def see(self, turns: Sequence[Turn], images: Sequence[ImageInput]) -> tuple[list[Turn], list[Seen]]:
        """See `Talker.see`: words stand where the images stood."""
        told = iter([self.told(one) for one in images])
        found = []
        for turn in turns:
            first, *rest = turn.text.split(IMAGE_PLACEHOLDER)
            found.append(Turn(turn.role, first + "".join(next(told) + part for part in rest)))
        return found, []

    def told(self, image: ImageInput) -> str:
        """What the language model reads in place of an image."""
        pixels = prepared(image, self.pipeline.resizing)
        name = pixels_key(pixels)
        if name not in self._known:
            if len(self._known) >= 256:
                self._known.pop(next(iter(self._known)))
            task: Retrieval = self.pipeline.task(Retrieval)
            encoded = {IMAGE: self.pipeline.encode_pixels(pixels[None])}
            vectors = task.embed_images(self.pipeline.model, encoded)
            things = task.classify(self.pipeline.model, self.pipeline.codec, vectors, self._things, THINGS)
            labels = [one["label"] for one in things[0].evidence["labels"][:THINGS_TOLD]]
            self._known[name] = TOLD.format(classes=", ".join(classes_in(vectors[0])), things=", ".join(labels))
        return self._known[name]

    @cached_property
    def _things(self) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            task: Retrieval = self.pipeline.task(Retrieval)
            return task.embed_classes(self.pipeline.model, self.pipeline.codec, THINGS, PROMPTS)


def classes_in(vector: npt.NDArray[np.float32]) -> list[str]:
    """The likeliest ImageNet classes of a unit vector [1000] of the starter, as "NAME (PERCENT%)", at least one.

    A coordinate is the square root of a class's probability (`ClassDistribution`).
    """
    share = vector.astype(np.float64) ** 2
    names = imagenet_classes()
    order = np.argsort(-share, kind="stable")[:CLASSES_TOLD]
    kept = [number for place, number in enumerate(order) if place == 0 or share[number] >= LEAST_TOLD]
    return [f"{names[number].names[0]} ({share[number]:.0%})" for number in kept]
