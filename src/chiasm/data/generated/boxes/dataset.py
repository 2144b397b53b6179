"""Boxes as a dataset: images in pairs, with statements that are true of exactly one image of the pair."""

import random
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from chiasm.core.random import counter_seed
from chiasm.core.types import Caption, Example, ImageRef, Question, Source
from chiasm.data.generated.base import AskingConfig, GeneratedDataset
from chiasm.data.generated.boxes.questions import KIND, NumberQuestion, number_questions
from chiasm.data.generated.boxes.render import SPLITS, BoxesScene, inventory, pair_at, render
from chiasm.data.generated.boxes.statements import Statement, statements
from chiasm.data.image_refs import image_ref_from_array


class BoxesTruth(NamedTuple):
    """The objects of an image of boxes, and the meanings of its questions, in their order."""

    scene: BoxesScene
    statements: tuple[Statement, ...]
    numbers: tuple[NumberQuestion, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxesConfig(AskingConfig):
    """Keys of generated boxes."""

    source: Literal["boxes"] = "boxes"


class BoxesDataset(GeneratedDataset):
    """Boxes as in NLVR, with statements to judge (the answers are "true" and "false") and questions for a number.

    Examples 2 k and 2 k + 1 are a pair: in every epoch both have the same statements, each true of exactly one. Half of
    an image's questions, rounded down, are counting questions instead. The caption lists all items.
    """

    def __init__(self, split: str, config: BoxesConfig, seed: int) -> None:
        super().__init__(split, config, config.length(split), SPLITS, ("en",))
        self.seed, self.count = seed, config.questions_per_picture

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return image `index`, with statements that are new in each epoch."""
        number, side = divmod(index, 2)
        pair = pair_at(self.split, number, self.seed)
        rng = random.Random(counter_seed("box statements", self.seed, self.split, number, epoch))
        judged = statements(pair, self.count - self.count // 2, rng)
        counted = number_questions(pair, self.count // 2, rng)
        return Example(
            id=f"boxes-{self.split}-{index}",
            inputs={"image": ImageRef(partial(render, pair[side]), partial(_rendered_key, pair[side]))},
            captions=(Caption(inventory(pair[side]), "en"),),
            questions=(
                *(Question(said.text, ("true" if said.truth[side] else "false",), said.kind, "en") for said in judged),
                *(Question(asked.text, (str(asked.counts[side]),), KIND, "en") for asked in counted),
            ),
            source=Source("boxes", index),
            truth=BoxesTruth(pair[side], tuple(judged), tuple(counted)),
        )


def _rendered_key(scene: BoxesScene) -> str:
    return image_ref_from_array(render(scene)).content_key()
