"""POPE and CHAIR of a speaker: against a reader of the annotations, which is always right, and a count by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from chiasm.core.types import IMAGE, Caption, Encoded, Example, Prediction
from chiasm.data.object_questions import object_question
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Query
from chiasm.tasks.codec import Codec
from chiasm.tasks.conversation import Conversation, ConversationConfig
from chiasm.tasks.conversation_hallucination import HallucinationScorer, chair_outcome, objects_of
from chiasm.tasks.scoring import Captioned, Context, View
from speaking import encoded_of, image

OBJECTS = [("dog", "ball"), ("car",), ("cat", "sofa", "lamp"), ("dog", "car", "tree")]


@pytest.fixture
def annotated() -> list[Example]:
    return [Example(f"{n}", {IMAGE: image(n)}, objects=objects) for n, objects in enumerate(OBJECTS)]


class Reader(Conversation):
    """Answers yes to the objects of the image's annotation."""

    def yes_no(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[tuple[float, float]]:
        return [
            (0.0, -5.0)
            if any(query.text == object_question(name) for name in OBJECTS[query.row + self.start])
            else (-5.0, 0.0)
            for query in queries
        ]

    start = 0


def context_of(speaker: Pipeline, examples: list[Example], view: View = "seen") -> Context:
    return Context(speaker.model, speaker.codec, examples, view, 0, ("en",))


def test_a_reader_of_the_annotations_is_always_right(speaker: Pipeline, annotated: list[Example]) -> None:
    """Parts of the split keep their images: a shifted row would be wrong."""
    reader = Reader(ConversationConfig(), speaker.config.model)
    scorer = HallucinationScorer(reader, context_of(speaker, annotated), images=99)
    for start in (0, 2):
        reader.start = start
        scorer.add(start, annotated[start : start + 2], {})
    scores = scorer.finish().scores
    assert scores["pope_f1"].value == 1.0
    assert scores["pope_yes_ratio_random"].value == 0.5
    assert len(scorer.said) == len(scorer.items) > 12


@torch.no_grad()
def test_an_untrained_speaker_is_asked_about_the_chosen_images_alone(
    speaker: Pipeline, annotated: list[Example]
) -> None:
    task = Conversation(ConversationConfig(), speaker.config.model)
    scorer = HallucinationScorer(task, context_of(speaker, annotated), images=2)
    scorer.add(0, annotated, encoded_of(speaker, annotated))
    assert {scorer.items[number].image for number in scorer.said} == {0, 2}
    assert "pope_f1" in scorer.finish().scores


def test_without_objects_nothing_is_asked(speaker: Pipeline) -> None:
    examples = [Example("0", {IMAGE: image(0)}), Example("1", {IMAGE: image(1)})]
    scorer = HallucinationScorer(Reader(ConversationConfig(), speaker.config.model), context_of(speaker, examples), 9)
    scorer.add(0, examples, {})
    assert scorer.objects is None and not scorer.finish().scores


def test_chair_counts_the_objects_that_captions_invent(speaker: Pipeline, annotated: list[Example]) -> None:
    objects = objects_of(context_of(speaker, annotated))
    assert objects is not None
    said = ["a dog and a lamp", "a car", "a cat on a sofa", "a tree"]
    captions = [Captioned(n, Prediction(text, 1.0, {"language": "en"}), None) for n, text in enumerate(said)]
    scores = chair_outcome(captions, objects, 0).scores
    assert scores["chair_s"].value == pytest.approx(1 / 4)
    assert scores["chair_i"].value == pytest.approx(1 / 6)
    chinese = [replace(one, prediction=Prediction("狗", 1.0, {"language": "zh"})) for one in captions]
    assert not chair_outcome(chinese, objects, 0).scores


def test_objects_come_from_captions_where_nothing_is_annotated(speaker: Pipeline) -> None:
    captions = [("a dog runs in the snow", "a dog plays"), ("a man rides a horse", "a man on a horse")] * 3
    examples = [
        Example(f"{n}", {IMAGE: image(n)}, tuple(Caption(text, "en") for text in texts))
        for n, texts in enumerate(captions)
    ]
    found = objects_of(context_of(speaker, examples))
    assert found is not None and found.origin == "captions" and {"man", "horse"} <= found.by_image[1]
