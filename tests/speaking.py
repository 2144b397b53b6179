"""A small language model with eyes: examples, an untrained pipeline, and rows put together by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.types import IMAGE, IMAGE_ID, Batch, Caption, Example, Question, Turn
from chiasm.data.image_refs import image_ref_from_array
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.models.lora import LORA_NAMES
from chiasm.pipeline.batching import input_values, make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.conversation import Conversation, ConversationConfig
from chiasm.train.config import RunConfig
from language_folders import write_folder

GREEDY = DecodingConfig(max_words=12)


def image(seed: int) -> Any:
    return image_ref_from_array(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def example(number: int, images: int = 1, **words: Any) -> Example:
    shown = tuple(image(10 * number + one) for one in range(images))
    inputs = {} if not images else {IMAGE: shown[0] if images == 1 else shown}
    return Example(f"{number}", inputs, **words)


@pytest.fixture(scope="session")
def spoken() -> list[Example]:
    """One, two and no images; captions, questions, a conversation of two turns, a text alone."""
    captions = (Caption("a dog runs over the snow", "en"), Caption("one dog", "en"), Caption("两只狗", "zh"))
    questions = (Question("what color is it?", ("red",)), Question("is it a dog?", ("yes",)))
    talk = (
        Turn("user", "<image> and <image>: what differs?"),
        Turn("assistant", "the color"),
        Turn("user", "which?"),
        Turn("assistant", "red and blue"),
    )
    alone = (Turn("user", "what is two plus two?"), Turn("assistant", "four"))
    return [
        example(0, captions=captions),
        example(1, captions=captions[:1], questions=questions),
        example(2, images=2, turns=talk),
        example(3, images=0, turns=alone),
    ]


@pytest.fixture(scope="session")
def speaking_config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The demo's image tower before a small language model."""
    pytest.importorskip("transformers", reason="needs the extra [llm]")
    folder = write_folder(tmp_path_factory.mktemp("language") / "llama")
    demo = find_recipe("demo", tiny=True)
    tower = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    text = LanguageModelConfig(name=str(folder), max_tokens=400, lora_rank=4, precision="fp32")
    model = replace(demo.model, dim=16, image=tower, text=text)
    return replace(demo, model=model, tasks={"conversation": ConversationConfig()}, decoding=GREEDY)


@pytest.fixture(scope="session")
def speaker(speaking_config: RunConfig, spoken: list[Example]) -> Pipeline:
    """Untrained, with low-rank changes far from zero."""
    made = Pipeline.build(speaking_config, spoken, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if name.endswith(LORA_NAMES) or name.startswith("heads."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return made


def task_of(pipeline: Pipeline, **settings: Any) -> Conversation:
    return Conversation(ConversationConfig(**settings), pipeline.config.model)


def collated(task: Conversation, pipeline: Pipeline, some: Sequence[Example]) -> Batch:
    return make_batch(some, {task.name: task}, pipeline.codec, pipeline.config, epoch=0)


def loss_of(task: Conversation, pipeline: Pipeline, batch: Batch) -> Tensor:
    encoded = pipeline.model.encode({name: to_model_range(one, torch.float32) for name, one in batch.inputs.items()})
    return task.loss(pipeline.model, encoded, batch)["loss"]


def encoded_of(pipeline: Pipeline, some: Sequence[Example]) -> dict[str, Any]:
    return pipeline.encode(input_values(some, pipeline.config.model, 1, pipeline.resizing))


def by_hand(pipeline: Pipeline, ids: Sequence[int], images: Sequence[Any]) -> Tensor:
    """Embeddings of one row: each placeholder becomes the projected tokens of the next image."""
    language, parts, coming = pipeline.model.language, [], iter(images)
    for one in ids:
        if one == IMAGE_ID:
            tokens = pipeline.encode_images([next(coming)])
            parts.append(pipeline.model.bridge("conversation")(tokens).values[0])
        else:
            parts.append(language.embed(torch.tensor([one])))
    return torch.cat(parts)[None]
