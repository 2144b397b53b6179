"""The task contract over every task."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from chiasm.core.run_config import RunConfig, TaskConfig
from chiasm.core.types import Batch, Example, Tokens
from chiasm.data.dataset import open_dataset
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.recipes import find_recipe
from chiasm.tasks import TASKS
from chiasm.tasks.base import Codec
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.checks import check_task
from chiasm.tasks.pipeline import Pipeline

MUST_LEARN = {
    "retrieval": ("image_encoder.", "text_encoder.embedding", "image_projection.", "text_projection.", "logit_scale"),
    "vqa": ("image_encoder.", "text_encoder.", "fusion.", "answer_head."),
    "captioning": ("image_encoder.", "text_encoder.embedding", "caption_decoder."),
}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    demo = find_recipe("demo", tiny=True)
    dataset = open_dataset(replace(demo.data, questions_per_picture=4), "train", 0)
    return [dataset.example(index) for index in range(24)]


@pytest.fixture(scope="module")
def pipeline(examples: list[Example]) -> Pipeline:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    model = replace(demo.model, dim=16, embedding_dim=8, image=image)
    return Pipeline.build(replace(demo, model=model), examples, torch.device("cpu"))


def test_every_task_is_listed() -> None:
    """Guards against a new task that nobody put through the contract."""
    assert set(MUST_LEARN) == set(TASKS)


@pytest.mark.parametrize("captions", [1, 2])
@pytest.mark.parametrize("name", sorted(MUST_LEARN))
def test_the_contract_holds(name: str, captions: int, pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards every task against the bugs named in `check_task`."""
    task = TASKS[name](TaskConfig(captions_per_picture=captions))
    check_task(task, pipeline, examples[:6], MUST_LEARN[name])


class Broken(Captioning):
    """Captioning with one bug."""

    def __init__(self, bug: str) -> None:
        super().__init__(TaskConfig())
        self.bug, self.calls = bug, 0

    def collate(self, examples: Sequence[Example], codec: Codec, run: RunConfig, epoch: int) -> dict[str, Tensor]:
        fields = super().collate(examples, codec, run, epoch)
        self.calls += 1
        if self.bug == "state":
            fields["caption_ids"][0, 0] = self.calls
        if self.bug == "index":
            fields["image_index"] += 1
        if self.bug == "place":
            fields["image_index"] = torch.zeros_like(fields["image_index"])
        return fields

    def loss(self, model: VisionLanguageModel, image: Tokens, batch: Batch) -> dict[str, Tensor]:
        fields = batch.by_task[self.name]
        if self.bug == "padding":
            fields["caption_is_real"] = torch.ones_like(fields["caption_is_real"])
        terms = super().loss(model, image, batch)
        if self.bug == "silent":
            terms["loss"] = terms["loss"] / (len(fields["image_index"]) == len(batch.ids))
        return {"total": terms["loss"]} if self.bug == "name" else terms


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("state", "give other fields"),
        ("index", "image_index"),
        ("place", "order of pictures"),
        ("padding", "padding changes"),
        ("silent", "without words"),
        ("name", 'named "loss"'),
    ],
)
def test_the_contract_finds_a_broken_task(bug: str, message: str, pipeline: Pipeline, examples: list[Example]) -> None:
    """The null control: a check that nothing can fail proves nothing."""
    with pytest.raises(AssertionError, match=message):
        check_task(Broken(bug), pipeline, examples[:6], MUST_LEARN["captioning"])


def test_the_contract_finds_a_head_that_learns_nothing(pipeline: Pipeline, examples: list[Example]) -> None:
    """The null control of `must_learn`: captions teach the answer head nothing."""
    with pytest.raises(AssertionError, match=r"teaches answer_head\.0\.weight nothing"):
        check_task(Broken(""), pipeline, examples[:6], ["answer_head."])
