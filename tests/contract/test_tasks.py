"""The task contract over every task, with each of its objectives."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chiasm.core.config import override
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Question
from chiasm.data.opening import open_dataset
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.base import ImageTowerConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.task_checks import check_task
from chiasm.recipes.table import find_recipe
from chiasm.tasks import TASKS
from chiasm.tasks.base import TaskConfig, Teacher
from chiasm.tasks.captioning import Captioning, CaptioningConfig
from chiasm.tasks.codec import Codec
from chiasm.tasks.conversation import ConversationConfig
from chiasm.tasks.drawing import DrawingConfig
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.reconstruction import ReconstructionConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.texts import CaptionConfig
from chiasm.tasks.vqa import VqaConfig
from language_folders import write_folder

TOWERS = ("image_encoder.", "text_encoder.")
WORDS = "text_encoder.embedding"
PROJECTIONS = ("image_projection.", "text_projection.", "logit_scale")
ABSENT = ("fusion.absent.",)
"""What stands for a missing modality learns only where one is missing."""
SMALL_IMAGE = ConvConfig(channels=(4, 8, 8), size_px=24)


@dataclass(frozen=True)
class Case:
    """A task with an objective, in a run that has what it needs.

    Args:
        config: by task; the first is checked.
        must_learn: beginnings of parameter names.
        without_gradient: beginnings of names among these that learn nothing.
        text: changes of the text tower.
        fusion: the fusion method.
        image: the image tower.
    """

    config: tuple[tuple[str, TaskConfig], ...]
    must_learn: tuple[str, ...]
    without_gradient: tuple[str, ...] = ()
    text: tuple[tuple[str, object], ...] = ()
    fusion: str = "cross_attention"
    image: ImageTowerConfig = SMALL_IMAGE


def case(name: str, must_learn: Sequence[str], without: Sequence[str] = (), **settings: object) -> Case:
    return Case(((name, TASKS[name].Config(**settings)),), tuple(must_learn), tuple(without))


FUSED = (*TOWERS, "fusion.")
WHOLE_WORDS = (("summary_tokens", 0),)
CASES: dict[str, Case] = {
    "retrieval": case("retrieval", ("image_encoder.", WORDS, *PROJECTIONS)),
    "retrieval, two captions": case("retrieval", ("image_encoder.", WORDS, *PROJECTIONS), captions_per_picture=2),
    "retrieval, swapped captions": case(
        "retrieval", ("image_encoder.", WORDS, *PROJECTIONS), hard_negatives=0.7, captions_per_picture=2
    ),
    "retrieval, text teacher": case("retrieval", ("image_encoder.", WORDS, *PROJECTIONS), text_teacher=0.5),
    "retrieval, sigmoid": case(
        "retrieval", ("image_encoder.", WORDS, *PROJECTIONS, "logit_bias"), objective="sigmoid", captions_per_picture=2
    ),
    "retrieval, additive": case("retrieval", ("image_encoder.", WORDS, *PROJECTIONS), objective="additive"),
    "vqa": case("vqa", (*FUSED, "heads.vqa."), ABSENT),
    "vqa, soft": case("vqa", (*FUSED, "heads.vqa."), ABSENT, objective="soft"),
    "vqa, generate": case("vqa", (*FUSED, "heads.vqa."), ABSENT, objective="generate", label_smoothing=0.1),
    "vqa, one sum": Case(
        (("vqa", VqaConfig()), ("retrieval", RetrievalConfig(objective="additive"))),
        (*TOWERS, "fusion.maps.", "heads.vqa.", "logit_scale"),
        fusion="shared_sum",
    ),
    "statements": case("statements", (*FUSED, "heads.statements."), ABSENT),
    "classification": case("classification", ("image_encoder.", "heads.classification."), label_smoothing=0.1),
    "conversation": Case(
        (("conversation", ConversationConfig()),),
        ("image_encoder.", "heads.conversation.", "text_encoder."),
        (),
        (("kind", "language_model"), ("frozen", "false"), ("max_tokens", 512)),
    ),
    "conversation, words": Case(
        (("conversation", ConversationConfig(objective="words")),),
        ("image_encoder.", "heads.conversation."),
        (),
        (("kind", "language_model"), ("max_tokens", 512)),
    ),
    "drawing": Case(
        (("drawing", DrawingConfig(captions_per_picture=2, caption_dropout=0.3)),),
        (WORDS, "heads.drawing."),
        image=ImageCodesConfig(size_px=24, width=16, decoder_blocks=1, frozen=True, grid=True),
    ),
    "captioning": case("captioning", ("image_encoder.", WORDS, "heads.captioning."), label_smoothing=0.1),
    "captioning, two captions": case(
        "captioning", ("image_encoder.", WORDS, "heads.captioning."), captions_per_picture=2
    ),
    "matching, random": case(
        "matching", (*FUSED, "heads.matching."), ABSENT, negatives="random", captions_per_picture=2
    ),
    "matching, hard": Case(
        (("matching", MatchingConfig()), ("retrieval", RetrievalConfig())), (*FUSED, "heads.matching."), ABSENT
    ),
    "matching, word by patch": Case(
        (("matching", MatchingConfig(word_patch_weight=0.1)),),
        (*FUSED, "heads.matching."),
        ABSENT,
        WHOLE_WORDS,
        "merged_attention",
    ),
    "masked_language_modelling": Case(
        (("masked_language_modelling", MaskingConfig(captions_per_picture=2)),),
        (*FUSED, "heads.masked_language_modelling."),
        ABSENT,
        WHOLE_WORDS,
    ),
    **{
        f"reconstruction, {objective}": Case(
            (("reconstruction", ReconstructionConfig(objective=objective)),),
            ("image_encoder.encoder.", "image_encoder.decoder."),
            image=ImageCodesConfig(size_px=24, width=16, decoder_blocks=1),
        )
        for objective in TASKS["reconstruction"].objectives
    },
    "permutation_language_modelling": Case(
        (("permutation_language_modelling", CaptionConfig()),),
        (*FUSED, "heads.permutation_language_modelling."),
        ABSENT,
        (*WHOLE_WORDS, ("kind", "two_stream")),
        "merged_attention",
    ),
}


@cache
def scenes() -> tuple[Example, ...]:
    """Scenes; every other question has the answers of ten people."""
    demo = find_recipe("demo", tiny=True)
    dataset = open_dataset(replace(demo.data, questions_per_picture=4), "train", 0)
    return tuple(several(dataset.example(index)) for index in range(24))


def several(example: Example) -> Example:
    def asked(question: Question) -> Question:
        return replace(question, answers=question.answers[:1] * 7 + ("yes", "no", "2"))

    questions = tuple(asked(q) if row % 2 else q for row, q in enumerate(example.questions))
    return replace(example, questions=questions, label=str(len(example.captions[0].text) % 3))


@cache
def pipeline_for(chosen: Case) -> Pipeline:
    demo = find_recipe("demo", tiny=True)
    changes = [f"text.{key}={value}" for key, value in chosen.text]
    if ("kind", "language_model") in chosen.text:
        pytest.importorskip("transformers", reason="needs the extra [llm]")
        changes.append(f"text.name={write_folder(Path(tempfile.mkdtemp()) / 'llama', tie_word_embeddings=True)}")
    words = override(demo.model, changes)
    model = replace(words, dim=16, embedding_dim=8, image=chosen.image, fusion=chosen.fusion)
    config = replace(demo, model=model, tasks=dict(chosen.config))
    return Pipeline.build(config, scenes(), torch.device("cpu"))


def check(name: str, task: Captioning | None = None) -> None:
    chosen = CASES[name]
    pipeline = pipeline_for(chosen)
    checked = task or pipeline.tasks[chosen.config[0][0]]
    check_task(checked, pipeline, scenes()[:6], chosen.must_learn, chosen.without_gradient)


def test_every_task_and_objective_is_listed() -> None:
    """Guards against a new task or objective that nobody put through the contract."""
    first = [one.config[0] for one in CASES.values()]
    listed = {
        (name, getattr(config, "objective", "") or next(iter(TASKS[name].objectives), "")) for name, config in first
    }
    known = {(name, objective) for name, task in TASKS.items() for objective in task.objectives or ("",)}
    inherited = {("statements", objective) for objective in ("soft", "generate")}
    assert listed == known - inherited


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_contract_holds(name: str) -> None:
    """Guards every task against the bugs named in `check_task`."""
    check(name)


@pytest.mark.parametrize("name", ["masked_language_modelling", "matching, random"])
def test_draws_differ_from_seed_to_seed(name: str) -> None:
    """Guards against words that are always hidden alike, and wrong pairs that never change."""
    pipeline, task = pipeline_for(CASES[name]), CASES[name].config[0][0]
    batch = make_batch(scenes()[:6], pipeline.tasks, pipeline.codec, pipeline.config, 0)
    image = pipeline.model.encode_image(to_model_range(batch.inputs[IMAGE], torch.float32))
    losses = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        losses.append(pipeline.tasks[task].loss(pipeline.model, {IMAGE: image}, batch)["loss"].item())
    assert losses[0] == losses[2] != losses[1]


class Broken(Captioning):
    """Captioning with one bug."""

    def __init__(self, bug: str) -> None:
        super().__init__(CaptioningConfig(), ModelConfig())
        self.bug, self.calls = bug, 0

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        fields = super().collate(examples, codec, seed, epoch)
        self.calls += 1
        if self.bug == "state":
            fields["caption_ids"][0, 0] = self.calls
        if self.bug == "index":
            fields["image_index"] += 1
        if self.bug == "place":
            fields["image_index"] = torch.zeros_like(fields["image_index"])
        return fields

    def loss(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None = None
    ) -> dict[str, Tensor]:
        fields = batch.by_task[self.name]
        if self.bug == "padding":
            fields["caption_is_real"] = torch.ones_like(fields["caption_is_real"])
        terms = super().loss(model, encoded, batch)
        if self.bug == "silent":
            terms["loss"] = terms["loss"] / (len(fields["image_index"]) == len(batch.ids))
        if self.bug == "nothing" and not len(fields["image_index"]):
            terms["loss"] = terms["loss"] + 1
        if self.bug == "own generator":
            self.calls += 1
            terms["loss"] = terms["loss"] + self.calls
        if self.bug in ("shifted draws", "padded draws"):
            moved = encoded[IMAGE].pooled[0, 0] if self.bug == "shifted draws" else fields["caption_ids"].shape[1]
            terms["loss"] = terms["loss"] + moved + torch.rand(()) * 1e-3
        return {"total": terms["loss"]} if self.bug == "name" else terms


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("state", "give other fields"),
        ("index", "image_index"),
        ("place", "order of images"),
        ("padding", "padding changes"),
        ("silent", "without words"),
        ("nothing", "images without words have the loss 1"),
        ("own generator", "the same seed gives another loss"),
        ("shifted draws", "order of images"),
        ("padded draws", "padding changes"),
        ("name", 'named "loss"'),
    ],
)
def test_the_contract_finds_a_broken_task(bug: str, message: str) -> None:
    """The null control: a check that nothing can fail proves nothing."""
    with pytest.raises(AssertionError, match=message):
        check("captioning", Broken(bug))


def test_the_contract_finds_a_head_that_learns_nothing() -> None:
    """The null control of `must_learn`: captions teach the projection nothing."""
    chosen = replace(CASES["captioning"], config=(("captioning", CaptioningConfig()), ("retrieval", RetrievalConfig())))
    with pytest.raises(AssertionError, match=r"gives image_projection\.layers\.0\.weight no gradient"):
        check_task(Broken(""), pipeline_for(chosen), scenes()[:6], ["image_projection."])
