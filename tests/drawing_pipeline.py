"""Small untrained pipelines that draw scenes: with exact codes, and with a real image tokenizer."""

from dataclasses import replace
from functools import cache

import torch

from chiasm.core.types import Example
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.base import ImageTowerConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.pipeline.domain_fitting import fit_domain
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.drawing import Drawing, DrawingConfig
from chiasm.train.config import RunConfig
from template_codes import TemplateCodesConfig

EXACT = TemplateCodesConfig(size_px=48, frozen=True, grid=True)
REAL = ImageCodesConfig(size_px=24, width=8, decoder_blocks=1, frozen=True, grid=True)


def config_of(image: ImageTowerConfig, task: DrawingConfig | None = None, max_tokens: int = 64) -> RunConfig:
    """A run of the task drawing on scenes in two languages."""
    text = TransformerTextConfig(layers=0, max_tokens=max_tokens, vocabulary=300)
    model = ModelConfig(dim=32, heads=2, decoder_layers=2, image=image, text=text)
    data = ScenesConfig(languages=("en", "zh"), train_pictures=48, eval_pictures=24, questions_per_picture=1)
    return RunConfig(
        recipe="mine", test_split="test", data=data, model=model, tasks={"drawing": task or DrawingConfig()}
    )


@cache
def scene_examples(split: str = "train", count: int = 24) -> tuple[Example, ...]:
    """Scenes with a caption in each language."""
    dataset = SceneDataset(split, config_of(EXACT).data, 0)
    return tuple(dataset.example(number) for number in range(count))


def build(image: ImageTowerConfig = EXACT, task: DrawingConfig | None = None, max_tokens: int = 64) -> Pipeline:
    """Untrained, but with logits that are not flat; with densities of its captions."""
    made = Pipeline.build(config_of(image, task, max_tokens), scene_examples(), torch.device("cpu"))
    with torch.no_grad():
        made.model.heads["drawing"].to_codes.weight.mul_(4)
    made.domain = replace(fit_domain(made, scene_examples(), scene_examples("val")), images=None)
    return made


def task_of(pipeline: Pipeline) -> Drawing:
    """Its task."""
    found: Drawing = pipeline.task(Drawing)
    return found
