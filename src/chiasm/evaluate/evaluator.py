"""A pipeline and a split -> outcomes of every prediction -> numbers with intervals.

Pictures are encoded once for all tasks. The same pass with the pictures dealt out wrongly, without pictures and without
texts says whether the model looks and reads: what it reaches blind is no merit of seeing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Prediction, Tokens
from chiasm.data.generated.scene_language import SceneTruth
from chiasm.evaluate.naming import score_named
from chiasm.evaluate.outcome import (
    Answered,
    Captioned,
    Items,
    Matched,
    Outcome,
    Pass,
    View,
    captions_with_references,
)
from chiasm.evaluate.retrieving import embed, retrieve
from chiasm.metrics.captions import caption_scores, caption_statistics, ptb_tokens
from chiasm.metrics.certainty import hard_picture
from chiasm.metrics.classic import (
    accuracy,
    accuracy_by_kind,
    exact_matches,
)
from chiasm.metrics.vqa import vqa_score
from chiasm.pipeline.batching import image_tensor, stack_pictures
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Calibration
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.hidden_words import MaskedLanguageModelling, PermutationLanguageModelling
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import AGREEING, VisualQuestionAnswering

CHUNK = 128
"""Pictures decoded and encoded at once."""
GREY = 127
"""Value of the uniform picture that stands for none."""


def derangement(count: int, seed: int) -> list[int]:
    """Return a permutation that leaves nothing in its place (for count of at least 2), to deal pictures wrongly."""
    turn = counter_rng("blind", seed, count).permutation(count)
    dealt = np.empty(count, dtype=np.int64)
    dealt[turn] = np.roll(turn, 1)
    return [int(number) for number in dealt]


def evaluate(
    pipeline: Pipeline,
    examples: Sequence[Example],
    view: View = "seen",
    report: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run every task of the pipeline over the examples and score it.

    Args:
        pipeline: a trained model, in evaluation mode.
        examples: one split.
        view: "seen" as it is; "shuffled" gives every example the picture of another one; "no_picture" a uniform grey
            one; "no_text" takes the words out of questions and sentences (nothing changes for captions and classes,
            which have no input text, and they are left out).
        report: called with (pictures done, pictures in all).
    """
    dealt = derangement(len(examples), pipeline.config.seed) if view == "shuffled" else range(len(examples))
    state = Pass(pipeline, examples, view)
    nothing = _no_picture(pipeline) if view == "no_picture" else None
    for start in range(0, len(examples), CHUNK):
        part = examples[start : start + CHUNK]
        if nothing is None:
            shown = [examples[number] for number in dealt[start : start + CHUNK]]
            tokens = pipeline.encode_pixels(
                image_tensor(shown, pipeline.config.model.image, pipeline.config.data.workers)
            )
        else:
            tokens = nothing.rows(torch.zeros(len(part), dtype=torch.long, device=pipeline.device))
        for task in pipeline.tasks.values():
            if isinstance(task, VisualQuestionAnswering):
                _answer(state, task, start, part, tokens)
            elif isinstance(task, Captioning) and view != "no_text":
                _describe(state, task, start, part, tokens)
            elif isinstance(task, Retrieval):
                state.vectors.append(task.embed_images(pipeline.model, tokens))
            elif isinstance(task, Matching):
                _match(state, task, start, part, tokens)
            elif isinstance(task, MaskedLanguageModelling | PermutationLanguageModelling) and view != "no_text":
                _fill_in(state, task, start, part, tokens)
            if (task.reads_text or view != "no_text") and (
                named := task.named(pipeline.model, pipeline.codec, tokens, part)
            ):
                state.named.setdefault(task.name, []).append((start, named))
        if report is not None:
            report(min(start + CHUNK, len(examples)), len(examples))
    score_named(state)
    if state.vectors:
        retrieve(state)
    _score(state)
    return state.outcome


def _no_picture(pipeline: Pipeline) -> Tokens:
    tower = pipeline.config.model.image
    grey = np.full((tower.size_px, tower.width_px or tower.size_px, 3), GREY, dtype=np.uint8)
    return pipeline.encode_pixels(stack_pictures([grey], tower))


def _answer(state: Pass, task: VisualQuestionAnswering, start: int, part: Sequence[Example], tokens: Tokens) -> None:
    asked = [(row, question) for row, example in enumerate(part) for question in example.questions]
    texts, rows = [state.text(question.text) for _, question in asked], [row for row, _ in asked]
    predictions = task.predict(state.pipeline.model, state.pipeline.codec, tokens, texts, rows)
    hits = exact_matches([p.answer for p in predictions], [question.answers for _, question in asked])
    for (row, question), prediction, hit in zip(asked, predictions, hits, strict=True):
        right = vqa_score(prediction.answer, question.answers) if len(question.answers) >= AGREEING else float(hit)
        state.outcome.answered.append(Answered(start + row, question, prediction, right))


def _describe(state: Pass, task: Captioning, start: int, part: Sequence[Example], tokens: Tokens) -> None:
    for language in dict.fromkeys(state.pipeline.config.data.languages):
        said = task.predict(state.pipeline.model, state.pipeline.codec, tokens, language)
        for row, prediction in enumerate(said):
            state.outcome.captioned.append(Captioned(start + row, prediction, _true(part[row], prediction)))


def _true(example: Example, prediction: Prediction) -> bool | None:
    """Whether a caption is the whole truth of a generated example; of a photo no machine can tell."""
    return example.truth.agrees(prediction.answer) if isinstance(example.truth, SceneTruth) else None


def _match(state: Pass, task: Matching, start: int, part: Sequence[Example], tokens: Tokens) -> None:
    """Each picture's first sentence with its own picture, and with the next one of another group.

    Seen, also with the most similar one that it does not fit: on these the probability of a match is calibrated.
    """
    described = [row for row, example in enumerate(part) if example.captions]
    if len(described) < 2:
        return
    own, groups = [(row, row) for row in described], [example.group or example.id for example in part]
    easy = list(zip(described, described[1:] + described[:1], strict=True))
    easy = [(row, other) for row, other in easy if groups[row] != groups[other]]
    hard = _hard_pairs(state, part, tokens, described) if state.view == "seen" else []
    pairs = list(dict.fromkeys([*own, *easy, *hard]))
    texts = [state.text(part[row].captions[0].text) for row, _ in pairs]
    said = task.predict(state.pipeline.model, state.pipeline.codec, tokens, texts, [picture for _, picture in pairs])
    found = {pair: Matched(start + pair[0], pair in own, one) for pair, one in zip(pairs, said, strict=True)}
    state.add("matching_accuracy", [found[pair].right for pair in [*own, *easy]])
    if hard:
        state.add("matching_hard_accuracy", [found[pair].right for pair in [*own, *hard]])
    state.outcome.matched += [found[pair] for pair in [*own, *(hard or easy)]]


def _hard_pairs(
    state: Pass, part: Sequence[Example], tokens: Tokens, described: Sequence[int]
) -> list[tuple[int, int]]:
    """Each sentence with the picture that the run's contrast finds most similar; none where it has no contrast."""
    if Retrieval.name not in state.pipeline.tasks:
        return []
    task: Retrieval = state.pipeline.task(Retrieval)
    said = [part[row].captions[0].text for row in described]
    known = [({one.text for one in part[row].captions}, part[row].group or part[row].id) for row in described]
    fits = np.array(
        [[text in texts or group == own for texts, group in known] for text, (_, own) in zip(said, known, strict=True)]
    )
    similarity = embed(state, said) @ task.embed_images(state.pipeline.model, tokens)[described].T
    found = hard_picture(similarity, fits)
    return [(row, described[other]) for row, other in zip(described, found, strict=True) if other >= 0]


def _fill_in(
    state: Pass,
    task: MaskedLanguageModelling | PermutationLanguageModelling,
    start: int,
    part: Sequence[Example],
    tokens: Tokens,
) -> None:
    said = [(row, caption.text) for row, example in enumerate(part) for caption in example.captions[:1]]
    if not said:
        return
    found = task.predict(
        state.pipeline.model, state.pipeline.codec, tokens, [text for _, text in said], [row for row, _ in said]
    )
    hits = [(start + row, float(one.answer == one.evidence["word"])) for (row, _), one in zip(said, found, strict=True)]
    state.add(task.primary_metric, hits)


def _score(state: Pass) -> None:
    outcome, seed = state.outcome, state.pipeline.config.seed
    if outcome.answered:
        _score_answers(state)
    for name, rows in state.paired.items():
        values, pictures = np.array([right for _, right in rows]), np.array([of for of, _ in rows])
        outcome.scores[name] = accuracy(values, pictures, seed)
        outcome.items[name] = Items(values, pictures)
        if name.startswith("matching_"):
            outcome.baseline[name] = 0.5
    if outcome.matched and state.view == "seen":
        chances = [replace(one.prediction, confidence=one.prediction.evidence["match"]) for one in outcome.matched]
        is_match, shown = [one.is_match for one in outcome.matched], [one.of for one in outcome.matched]
        outcome.add_confidences("matching", chances, is_match, shown, seed)
    if outcome.captioned:
        _score_captions(state)


def _score_answers(state: Pass) -> None:
    outcome, seed = state.outcome, state.pipeline.config.seed
    name = next(t.primary_metric for t in state.pipeline.tasks.values() if isinstance(t, VisualQuestionAnswering))
    right = np.array([one.right for one in outcome.answered])
    pictures = np.array([one.of for one in outcome.answered])
    kinds = [one.question.kind or "all" for one in outcome.answered]
    outcome.scores[name] = accuracy(right, pictures, seed)
    outcome.items[name] = Items(right, pictures)
    if len(set(kinds)) > 1:
        outcome.by_kind[name] = accuracy_by_kind(right, kinds, pictures, seed)
    usual = Counter(answer for one in outcome.answered for answer in dict.fromkeys(one.question.answers))
    outcome.baseline[name] = usual.most_common(1)[0][1] / len(outcome.answered)
    if state.view == "seen":
        outcome.add_confidences(name, [one.prediction for one in outcome.answered], right >= 0.5, pictures, seed)
        given = np.array([not one.prediction.evidence["abstains"] for one in outcome.answered])
        if not given.all():
            outcome.scores["answered_share"] = accuracy(given, pictures, seed)
            if given.any():
                outcome.scores[f"{name}_when_answered"] = accuracy(right[given], pictures[given], seed)


def _score_captions(state: Pass) -> None:
    """Against what people wrote, and for generated pictures against the truth."""
    outcome, examples, seed = state.outcome, state.examples, state.pipeline.config.seed
    described = captions_with_references(outcome, examples)
    if described:
        said, references = [one.prediction.answer for one, _ in described], [texts for _, texts in described]
        pictures = np.array([one.of for one, _ in described])
        outcome.scores |= caption_scores(said, references, pictures, seed)
        measured = caption_statistics(
            [ptb_tokens(one) for one in said], [[ptb_tokens(text) for text in texts] for texts in references]
        )
        outcome.items |= {
            "CIDEr": Items(measured.cider, pictures),
            "ROUGE_L": Items(measured.rouge_l, pictures),
            "Bleu_4": Items(measured.bleu, pictures),
        }
    judged = [one for one in outcome.captioned if one.right is not None]
    near_from = state.pipeline.codec.calibration.get(Captioning.name, Calibration()).near_from
    if judged:
        _score_caption_events(state, "caption_truth", judged, [bool(one.right) for one in judged])
    elif described and near_from:
        near = [bool(value >= near_from) for value in outcome.items["ROUGE_L"].values]
        _score_caption_events(state, "caption_near", [one for one, _ in described], near)


def _score_caption_events(state: Pass, name: str, captions: Sequence[Captioned], happened: Sequence[bool]) -> None:
    """How often captions are what their confidence is the probability of, and how well it is told."""
    outcome, seed = state.outcome, state.pipeline.config.seed
    right, pictures = np.array(happened), np.array([one.of for one in captions])
    languages = [str(one.prediction.evidence["language"]) for one in captions]
    outcome.scores[name] = accuracy(right, pictures, seed)
    outcome.items[name] = Items(right.astype(np.float64), pictures)
    if len(set(languages)) > 1:
        outcome.by_kind[name] = accuracy_by_kind(right, languages, pictures, seed)
    if state.view == "seen":
        outcome.add_confidences(name, [one.prediction for one in captions], right, pictures, seed)
