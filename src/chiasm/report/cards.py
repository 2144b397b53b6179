"""Select the images, answers, searches and curves of the report page from measured outcomes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chiasm.core.config import to_dict
from chiasm.core.random import counter_rng
from chiasm.core.types import Example
from chiasm.data.modalities.image import images_of
from chiasm.evaluate.measure import SplitResult
from chiasm.evaluate.verdict import Verdict
from chiasm.metrics.calibration import reliability_bins
from chiasm.pipeline.pipeline import Pipeline
from chiasm.report.charts import Chart, Curve
from chiasm.report.example_cards import BatchImage, CaptionCard, DrawingCard, QuestionCard, SearchCard, SearchHit
from chiasm.report.forgetting import ForgettingFacts, retention_chart
from chiasm.report.page import LedgerSummary, Report, RunFacts
from chiasm.tasks.scoring import Answered, Captioned

SHOWN_QUESTIONS = 12
SHOWN_CAPTIONS = 8
SHOWN_DRAWINGS = 12
SHOWN_SEARCHES = 6
SHOWN_MISTAKES = 9
SHOWN_BATCH = 12
NEAREST = 5
RELIABILITY_BINS = 10
"""Fewer than for the calibration error, so that each has room for its count."""


def build_report(
    pipeline: Pipeline,
    measured: SplitResult,
    facts: RunFacts,
    rows: Sequence[Mapping[str, Any]],
    batch: Sequence[Example],
    environment: Mapping[str, Any],
    forgetting: ForgettingFacts | None = None,
    verdict: Verdict | None = None,
) -> Report:
    """Assemble the page.

    Args:
        pipeline: the trained model.
        measured: the final split.
        facts: how the model was made.
        rows: `metrics.jsonl`.
        batch: examples of one training batch, with the crops of training.
        environment: `environment.json`.
        forgetting: measures against forgetting, and their results.
        verdict: whether the run has learned.
    """
    rng = counter_rng("report", pipeline.config.seed)
    examples = measured.examples
    answered, captioned = measured.outcome.answered, measured.outcome.captioned
    shown_questions = _one_per_image(answered, rng)[:SHOWN_QUESTIONS]
    shown_captions = [int(number) for number in rng.permutation(len(examples))[:SHOWN_CAPTIONS]] if captioned else []
    tasks = ", ".join(pipeline.tasks)
    ledger = measured.ledger
    return Report(
        title=f"chiasm {pipeline.config.recipe}",
        summary=f"One model trained on {tasks}; measured on {len(examples)} images of the split "
        f"“{measured.split}” that training never saw.",
        facts=facts,
        metrics=measured.rows(),
        kinds=measured.kind_rows(),
        geometry=measured.outcome.geometry,
        reliability={
            name: reliability_bins(sure, is_true, RELIABILITY_BINS)
            for name, (sure, is_true) in measured.outcome.confidences.items()
        },
        questions=[_question_card(question, examples) for question in shown_questions],
        captions=[_caption_card(index, _captions_of(captioned, index), examples) for index in shown_captions],
        searches=_searches(measured, rng),
        drawings=_drawings(measured),
        mistakes=_mistakes(measured),
        charts=charts(rows),
        batch=[BatchImage(shown_image(example), _texts(example)) for example in batch[:SHOWN_BATCH]],
        ledger=LedgerSummary(ledger.offered, ledger.used, ledger.counts()),
        forgetting=forgetting,
        verdict=verdict,
        environment={name: str(value) for name, value in environment.items()},
        config=to_dict(pipeline.config),
    )


def _mistakes(measured: SplitResult) -> list[QuestionCard | CaptionCard]:
    """The most confident wrong answers and captions."""
    examples = measured.examples
    answered, captioned = measured.outcome.answered, measured.outcome.captioned
    # An abstention is no mistake.
    given = [answer for answer in answered if not answer.prediction.evidence["abstains"]]
    wrong = [_question_card(answer, examples) for answer in given if answer.right < 0.5]
    wrong_captions = [_caption_card(caption.of, [caption], examples) for caption in captioned if caption.right is False]
    wrong_captions = wrong_captions or _least_alike(measured)
    mistakes: list[QuestionCard | CaptionCard] = [*sorted(wrong, key=lambda card: -card.confidence)[:SHOWN_MISTAKES]]
    mistakes += sorted(wrong_captions, key=lambda card: -(card.confidence or 0))[: SHOWN_MISTAKES // 3]
    return mistakes


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Curves of `metrics.jsonl`: losses by task, validation, gradients and their agreement, learning rate."""

    def curve(name: str, label: str) -> Curve:
        return Curve(label, [(row["step"], row[name]) for row in rows if name in row])

    names = list(dict.fromkeys(name for row in rows for name in row))
    losses = [curve(name, name.removesuffix("_loss")) for name in names if name.endswith("_loss")]
    measured = {name: name.removeprefix("val/") for name in names if name.startswith("val/") and _is_shown(name)}
    errors = [name for name in measured if name.endswith("_ECE")]
    plain = [name for name in measured if measured[name] == "CIDEr"]
    shares = [name for name in measured if name not in (*errors, *plain)]
    cosines = [curve(name, " ~ ".join(name.removeprefix("cosine/").split("~"))) for name in names if "cosine/" in name]
    made = [
        Chart("Training loss by task", losses, log_y=True),
        Chart("Validation", [curve(name, measured[name]) for name in shares], is_share=True),
        *([watched] if (watched := retention_chart(rows)) else []),
        Chart("Validation: captions", [curve(name, measured[name]) for name in plain]),
        Chart("Validation: calibration error, lower is better", [curve(name, measured[name]) for name in errors]),
        Chart("Agreement of the tasks' gradients (cosine)", cosines, limits=(-1.0, 1.0)),
        Chart("Gradient norm", [curve("grad_norm", "before clipping")], log_y=True),
        Chart("Learning rate", [curve("lr", "rate")]),
    ]
    return [chart for chart in made if any(line.points for line in chart.curves)]


def _is_shown(name: str) -> bool:
    """One of a family of metrics that rise together: recall at 1, BLEU of four words."""
    return not name.endswith(("@5", "@10", "Bleu_1", "Bleu_2", "Bleu_3"))


def shown_image(example: Example) -> np.ndarray:
    """The example's first image, uint8 [h, w, 3]; one white pixel of a text alone."""
    images = images_of(example)
    return images[0].load() if images else np.full((1, 1, 3), 255, dtype=np.uint8)


def _texts(example: Example) -> list[str]:
    questions = [f"{question.text} {question.answers[0]}" for question in example.questions[:3]]
    return [caption.text for caption in example.captions[:2]] + questions


def _one_per_image(answered: Sequence[Answered], rng: np.random.Generator) -> list[Answered]:
    """Questions in random order, kinds in turn, no image twice."""
    kinds = list(dict.fromkeys(question.question.kind for question in answered))
    shuffled = [answered[int(number)] for number in rng.permutation(len(answered))]
    queues = {kind: iter([question for question in shuffled if question.question.kind == kind]) for kind in kinds}
    chosen: list[Answered] = []
    used: set[int] = set()
    while queues and len(chosen) < SHOWN_QUESTIONS:
        for kind in list(queues):
            found = next((question for question in queues[kind] if question.of not in used), None)
            if found is None:
                del queues[kind]
            else:
                chosen.append(found)
                used.add(found.of)
    return chosen


def _least_alike(measured: SplitResult) -> list[CaptionCard]:
    """Captions of photos that share least with what people wrote (CIDEr), where captions have no exact truth."""
    items = measured.outcome.items.get("CIDEr")
    if items is None or any(caption.right is not None for caption in measured.outcome.captioned):
        return []
    worst = [int(items.clusters[number]) for number in np.argsort(items.values, kind="stable")[: SHOWN_MISTAKES // 3]]
    captioned = measured.outcome.captioned
    return [_caption_card(index, _captions_of(captioned, index), measured.examples) for index in worst]


def _captions_of(captioned: Sequence[Captioned], image_index: int) -> list[Captioned]:
    return [caption for caption in captioned if caption.of == image_index]


def _question_card(answered: Answered, examples: Sequence[Example]) -> QuestionCard:
    return QuestionCard(
        shown_image(examples[answered.of]),
        answered.question.text,
        answered.question.kind,
        answered.prediction.answer,
        answered.prediction.confidence,
        answered.question.answers[0],
        answered.right >= 0.5,
        bool(answered.prediction.evidence["abstains"]),
    )


def _caption_card(image_index: int, captions: Sequence[Captioned], examples: Sequence[Example]) -> CaptionCard:
    verdicts = [caption.right for caption in captions if caption.right is not None]
    languages = [str(caption.prediction.evidence["language"]) for caption in captions]
    truth = next((true.text for true in examples[image_index].captions if true.language in languages), "")
    return CaptionCard(
        shown_image(examples[image_index]),
        {language: caption.prediction.answer for language, caption in zip(languages, captions, strict=True)},
        truth,
        all(verdicts) if verdicts else None,
        min(caption.prediction.confidence for caption in captions),
    )


def _drawings(measured: SplitResult) -> list[DrawingCard]:
    """The first drawn images, each with the nearest training image where that was looked for."""
    cards = []
    for number, one in enumerate(measured.outcome.drawn[:SHOWN_DRAWINGS]):
        if one.prediction.image is None:
            continue
        nearest = measured.nearest[number] if number < len(measured.nearest) else None
        cards.append(
            DrawingCard(
                one.caption.text,
                one.prediction.image,
                shown_image(measured.examples[one.of]),
                None if nearest is None else shown_image(nearest.example),
                0.0 if nearest is None else nearest.distance,
                0 if nearest is None else nearest.looked_at,
                one.overlap,
            )
        )
    return cards


def _searches(measured: SplitResult, rng: np.random.Generator) -> list[SearchCard]:
    """Nearest images of a few sentences, in every language in turn."""
    outcome, examples = measured.outcome, measured.examples
    if outcome.text_embeddings is None or outcome.image_embeddings is None:
        return []
    cards = []
    for number in rng.permutation(len(outcome.texts))[:SHOWN_SEARCHES]:
        image_index, text = outcome.texts[int(number)]
        similarity = outcome.image_embeddings @ outcome.text_embeddings[int(number)]
        nearest = np.argsort(-similarity, kind="stable")
        group = examples[image_index].group or examples[image_index].id
        is_match = [(examples[int(place)].group or examples[int(place)].id) == group for place in nearest]
        hits = [
            SearchHit(shown_image(examples[int(place)]), float(similarity[place]), match)
            for place, match in zip(nearest[:NEAREST], is_match[:NEAREST], strict=True)
        ]
        cards.append(SearchCard(text, hits, is_match.index(True) + 1, len(examples)))
    return cards
