"""Scenes as a dataset: each with a caption in every language, and questions that are new in each epoch."""

import random
from dataclasses import dataclass
from typing import Literal

from chiasm.core.random import counter_seed
from chiasm.core.types import Example, Source
from chiasm.data.generated.base import AskingConfig, GeneratedDataset
from chiasm.data.generated.scene_language import LANGUAGES, SceneTruth, caption, questions
from chiasm.data.generated.scenes import SPLITS, distinct_scenes, render, scene_at
from chiasm.data.image_refs import image_ref_from_array


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenesConfig(AskingConfig):
    """Keys of generated scenes."""

    source: Literal["scenes"] = "scenes"


class SceneDataset(GeneratedDataset):
    """Scenes, generated on access; in held-out splits no two images have the same description."""

    def __init__(self, split: str, config: ScenesConfig, seed: int) -> None:
        super().__init__(split, config, config.length(split), SPLITS, LANGUAGES)
        self.config, self.seed = config, seed
        self.fixed = None if split == "train" else distinct_scenes(split, len(self), seed)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return scene `index`, with a caption in each language and questions that are new in each epoch."""
        scene = scene_at(self.split, index, self.seed) if self.fixed is None else self.fixed[index]
        rng = random.Random(counter_seed("scene questions", self.seed, self.split, index, epoch))
        languages = tuple(dict.fromkeys(self.config.languages))
        return Example(
            id=f"scene-{self.split}-{index}",
            inputs={"image": image_ref_from_array(render(scene))},
            captions=tuple(caption(scene, language) for language in languages),
            questions=tuple(questions(scene, self.config.questions_per_picture, rng, self.config.languages)),
            source=Source("scenes", index),
            truth=SceneTruth(scene),
        )
