"""A pipeline and a split -> outcomes of every prediction -> numbers with intervals.

Pictures are encoded once for all tasks. The same pass with the pictures dealt out wrongly gives the blind score:
what a model reaches that sees a picture, but not the right one.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Prediction, Question, Score
from chiasm.data.scene_language import SceneTruth
from chiasm.evaluate.metrics import accuracy, accuracy_by_kind, exact_matches, recall_at, retrieval_ranks
from chiasm.tasks.batching import image_tensor
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.pipeline import Pipeline
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering

RECALLS = (1, 5, 10)
CHUNK = 128
"""Pictures decoded and encoded at once."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's answer; `of` is the example's number."""

    of: int
    question: Question
    prediction: Prediction
    right: bool


@dataclass(frozen=True, slots=True)
class Captioned:
    """One generated caption. `right` is None where no one can tell by machine."""

    of: int
    prediction: Prediction
    right: bool | None


@dataclass(slots=True)
class Outcome:
    """All predictions of one pass over a split, and the numbers made from them."""

    scores: dict[str, Score] = field(default_factory=dict)
    """Metric name -> score."""
    by_kind: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Metric name -> kind (of question, or language) -> score."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Metric name -> what a constant or random answer gets."""
    answered: list[Answered] = field(default_factory=list)
    captioned: list[Captioned] = field(default_factory=list)
    image_embeddings: np.ndarray | None = None
    text_embeddings: np.ndarray | None = None
    texts: list[tuple[int, str]] = field(default_factory=list)
    """Row i of `text_embeddings`: the example it belongs to, and its words."""


def derangement(count: int, seed: int) -> list[int]:
    """Return a permutation that leaves nothing in its place (for count of at least 2), to deal pictures wrongly."""
    turn = counter_rng("blind", seed, count).permutation(count)
    dealt = np.empty(count, dtype=np.int64)
    dealt[turn] = np.roll(turn, 1)
    return [int(number) for number in dealt]


def evaluate(
    pipeline: Pipeline,
    examples: Sequence[Example],
    blind: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run every task of the pipeline over the examples and score it.

    Args:
        pipeline: a trained model, in evaluation mode.
        examples: one split.
        blind: give every example the picture of another one.
        report: called with (pictures done, pictures in all).
    """
    seen = [examples[number] for number in derangement(len(examples), pipeline.config.seed)] if blind else examples
    outcome = Outcome()
    vectors: list[np.ndarray] = []
    for start in range(0, len(examples), CHUNK):
        part = examples[start : start + CHUNK]
        pixels = image_tensor(seen[start : start + CHUNK], pipeline.config.model.image)
        tokens = pipeline.encode_pixels(pixels)
        for task in pipeline.tasks.values():
            if isinstance(task, VisualQuestionAnswering):
                asked = [(row, question) for row, example in enumerate(part) for question in example.questions]
                texts, rows = [question.text for _, question in asked], [row for row, _ in asked]
                predictions = task.predict(pipeline.model, pipeline.codec, tokens, texts, rows)
                hits = exact_matches([p.answer for p in predictions], [question.answers for _, question in asked])
                for (row, question), prediction, hit in zip(asked, predictions, hits, strict=True):
                    outcome.answered.append(Answered(start + row, question, prediction, bool(hit)))
            elif isinstance(task, Captioning):
                for language in dict.fromkeys(pipeline.config.data.languages):
                    said = task.predict(pipeline.model, pipeline.codec, tokens, language)
                    for row, prediction in enumerate(said):
                        outcome.captioned.append(Captioned(start + row, prediction, _true(part[row], prediction)))
            elif isinstance(task, Retrieval):
                vectors.append(task.embed_images(pipeline.model, tokens))
        if report is not None:
            report(min(start + CHUNK, len(examples)), len(examples))
    if vectors:
        _retrieve(pipeline, examples, np.concatenate(vectors), outcome)
    _score(outcome, examples, pipeline.config.seed)
    return outcome


def _true(example: Example, prediction: Prediction) -> bool | None:
    """Whether a caption is the whole truth of a generated example, or word for word one of a real one's."""
    if isinstance(example.truth, SceneTruth):
        return example.truth.agrees(prediction.answer)
    language = prediction.evidence["language"]
    same = [caption.text for caption in example.captions if caption.language == language]
    return bool(exact_matches([prediction.answer], [same])[0]) if same else None


def _retrieve(pipeline: Pipeline, examples: Sequence[Example], images: np.ndarray, outcome: Outcome) -> None:
    task: Retrieval = pipeline.task(Retrieval)
    outcome.texts = [(row, caption.text) for row, example in enumerate(examples) for caption in example.captions]
    words = [text for _, text in outcome.texts]
    parts = [
        task.embed_texts(pipeline.model, pipeline.codec, words[start : start + 2 * CHUNK])
        for start in range(0, len(words), 2 * CHUNK)
    ]
    if not parts:
        return
    outcome.image_embeddings, outcome.text_embeddings = images, np.concatenate(parts)
    groups: dict[str, int] = {}
    image_group = np.array([groups.setdefault(example.group or example.id, len(groups)) for example in examples])
    text_of = np.array([row for row, _ in outcome.texts])
    with_text = np.unique(text_of)
    image_ranks, text_ranks = retrieval_ranks(
        images[with_text], outcome.text_embeddings, image_group[with_text], image_group[text_of]
    )
    for k in RECALLS:
        outcome.scores[f"image_to_text_R@{k}"] = recall_at(image_ranks, k, seed=pipeline.config.seed)
        outcome.baseline[f"image_to_text_R@{k}"] = min(1.0, k / len(with_text))
    for k in RECALLS:
        outcome.scores[f"text_to_image_R@{k}"] = recall_at(text_ranks, k, text_of, pipeline.config.seed)
        outcome.baseline[f"text_to_image_R@{k}"] = min(1.0, k / len(with_text))
    languages = [caption.language for example in examples for caption in example.captions]
    if len(set(languages)) > 1:
        outcome.by_kind["text_to_image_R@1"] = accuracy_by_kind(
            text_ranks == 0, languages, text_of, pipeline.config.seed
        )


def _score(outcome: Outcome, examples: Sequence[Example], seed: int) -> None:
    if outcome.answered:
        right = np.array([one.right for one in outcome.answered])
        pictures = np.array([one.of for one in outcome.answered])
        kinds = [one.question.kind or "all" for one in outcome.answered]
        outcome.scores["vqa_accuracy"] = accuracy(right, pictures, seed)
        if len(set(kinds)) > 1:
            outcome.by_kind["vqa_accuracy"] = accuracy_by_kind(right, kinds, pictures, seed)
        usual = Counter(answer for one in outcome.answered for answer in one.question.answers)
        outcome.baseline["vqa_accuracy"] = usual.most_common(1)[0][1] / len(outcome.answered)
    judged = [one for one in outcome.captioned if one.right is not None]
    if judged:
        name = "caption_truth" if isinstance(examples[judged[0].of].truth, SceneTruth) else "caption_exact"
        right = np.array([bool(one.right) for one in judged])
        pictures = np.array([one.of for one in judged])
        outcome.scores[name] = accuracy(right, pictures, seed)
        languages = [str(one.prediction.evidence["language"]) for one in judged]
        if len(set(languages)) > 1:
            outcome.by_kind[name] = accuracy_by_kind(right, languages, pictures, seed)


def scores_as_json(outcome: Outcome, blind: Outcome | None) -> dict[str, Mapping[str, object]]:
    """The `metrics` and `blind` sections of `evaluate --json`, kinds included."""
    return {
        "metrics": {name: score.as_dict() for name, score in outcome.scores.items()},
        "blind": {} if blind is None else {name: score.as_dict() for name, score in blind.scores.items()},
        "baseline": dict(outcome.baseline),
        "by_kind": {
            name: {kind: score.as_dict() for kind, score in kinds.items()} for name, kinds in outcome.by_kind.items()
        },
    }
