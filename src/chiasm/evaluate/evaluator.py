"""A pipeline and a split -> outcomes of every prediction -> numbers with intervals.

Pictures are encoded once for all tasks. The same pass with the pictures dealt out wrongly, without pictures and without
texts says whether the model looks and reads: what it reaches blind is no merit of seeing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Prediction, Tokens
from chiasm.data.files import LABEL_GROUP
from chiasm.data.prompts import prompts_for
from chiasm.data.scene_language import SceneTruth
from chiasm.evaluate import caption_swap
from chiasm.evaluate.certainty import CANDIDATES, calibration_errors, hard_picture, picks
from chiasm.evaluate.outcome import (
    Answered,
    Captioned,
    Choice,
    Items,
    Matched,
    Outcome,
    View,
    captions_with_references,
)
from chiasm.evaluate.scores.caption_scores import caption_scores, caption_statistics, ptb_tokens
from chiasm.evaluate.scores.metrics import (
    accuracy,
    accuracy_by_kind,
    alignment,
    class_scores,
    exact_matches,
    modality_gap,
    recall_at,
    retrieval_ranks,
    uniformity,
)
from chiasm.evaluate.scores.vqa_score import vqa_score
from chiasm.tasks.base import Calibration
from chiasm.tasks.batching import image_tensor, stack_pictures
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.hidden_words import MaskedLanguageModelling, PermutationLanguageModelling
from chiasm.tasks.matching import Matching
from chiasm.tasks.pipeline import Pipeline
from chiasm.tasks.retrieval import Retrieval, class_similarity
from chiasm.tasks.vqa import AGREEING, VisualQuestionAnswering

RECALLS = (1, 5, 10)
CHUNK = 128
"""Pictures decoded and encoded at once."""
GREY = 127
"""Value of the uniform picture that stands for none."""


@dataclass(slots=True)
class _Pass:
    """A view of the split while it is walked through."""

    pipeline: Pipeline
    examples: Sequence[Example]
    view: View
    outcome: Outcome = field(default_factory=Outcome)
    vectors: list[np.ndarray] = field(default_factory=list)
    paired: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Metric name -> (example, outcome) of tasks scored on pairs and hidden words."""

    def text(self, words: str) -> str:
        """The words, or none."""
        return "" if self.view == "no_text" else words

    def add(self, metric: str, rows: Sequence[tuple[int, float]]) -> None:
        self.paired.setdefault(metric, []).extend(rows)


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
            one; "no_text" takes the words out of questions and sentences (nothing changes for captions, which have no
            input text, and they are left out).
        report: called with (pictures done, pictures in all).
    """
    dealt = derangement(len(examples), pipeline.config.seed) if view == "shuffled" else range(len(examples))
    state = _Pass(pipeline, examples, view)
    nothing = _no_picture(pipeline) if view == "no_picture" else None
    for start in range(0, len(examples), CHUNK):
        part = examples[start : start + CHUNK]
        if nothing is None:
            shown = [examples[number] for number in dealt[start : start + CHUNK]]
            tokens = pipeline.encode_pixels(image_tensor(shown, pipeline.config.model.image))
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
        if report is not None:
            report(min(start + CHUNK, len(examples)), len(examples))
    if state.vectors:
        _retrieve(state)
    _score(state)
    return state.outcome


def _no_picture(pipeline: Pipeline) -> Tokens:
    tower = pipeline.config.model.image
    grey = np.full((tower.size_px, tower.width_px or tower.size_px, 3), GREY, dtype=np.uint8)
    return pipeline.encode_pixels(stack_pictures([grey], tower))


def _answer(state: _Pass, task: VisualQuestionAnswering, start: int, part: Sequence[Example], tokens: Tokens) -> None:
    asked = [(row, question) for row, example in enumerate(part) for question in example.questions]
    texts, rows = [state.text(question.text) for _, question in asked], [row for row, _ in asked]
    predictions = task.predict(state.pipeline.model, state.pipeline.codec, tokens, texts, rows)
    hits = exact_matches([p.answer for p in predictions], [question.answers for _, question in asked])
    for (row, question), prediction, hit in zip(asked, predictions, hits, strict=True):
        right = vqa_score(prediction.answer, question.answers) if len(question.answers) >= AGREEING else float(hit)
        state.outcome.answered.append(Answered(start + row, question, prediction, right))


def _describe(state: _Pass, task: Captioning, start: int, part: Sequence[Example], tokens: Tokens) -> None:
    for language in dict.fromkeys(state.pipeline.config.data.languages):
        said = task.predict(state.pipeline.model, state.pipeline.codec, tokens, language)
        for row, prediction in enumerate(said):
            state.outcome.captioned.append(Captioned(start + row, prediction, _true(part[row], prediction)))


def _true(example: Example, prediction: Prediction) -> bool | None:
    """Whether a caption is the whole truth of a generated example; of a photo no machine can tell."""
    return example.truth.agrees(prediction.answer) if isinstance(example.truth, SceneTruth) else None


def _match(state: _Pass, task: Matching, start: int, part: Sequence[Example], tokens: Tokens) -> None:
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
    state: _Pass, part: Sequence[Example], tokens: Tokens, described: Sequence[int]
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
    similarity = _embed(state, said) @ task.embed_images(state.pipeline.model, tokens)[described].T
    found = hard_picture(similarity, fits)
    return [(row, described[other]) for row, other in zip(described, found, strict=True) if other >= 0]


def _fill_in(
    state: _Pass,
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


def _retrieve(state: _Pass) -> None:
    """Recall both ways over the captions, and classes over the labels."""
    pipeline, outcome = state.pipeline, state.outcome
    images = np.concatenate(state.vectors)
    captioned = [row for row, one in enumerate(state.examples) if one.captions and not _is_class(one)]
    outcome.texts = [(row, caption.text) for row in captioned for caption in state.examples[row].captions]
    if outcome.texts:
        texts = _embed(state, [text for _, text in outcome.texts])
        _recall(state, images, texts)
        if pipeline.config.tasks[Retrieval.name].hard_negatives:
            _swap(state, images, texts)
    labelled = [row for row, example in enumerate(state.examples) if example.label is not None]
    names = sorted({str(state.examples[row].label) for row in labelled})
    own = pipeline.config.data.label_prompts
    if len(names) > 1 and own:
        task: Retrieval = pipeline.task(Retrieval)
        said = [state.text(prompt) for prompt in prompts_for(names, own)]
        classes = task.embed_classes(pipeline.model, pipeline.codec, names, said)
        similarity = class_similarity(images[labelled], classes)
        true = np.array([names.index(str(state.examples[row].label)) for row in labelled])
        scores, baseline = class_scores(similarity, true, pipeline.config.seed)
        outcome.scores |= scores
        outcome.baseline |= baseline
        hits = (similarity.argmax(1) == true).astype(np.float64)
        outcome.items["acc1"] = Items(hits, np.array(labelled))
        if state.view == "seen":
            said_of = task.classify(pipeline.model, pipeline.codec, images[labelled], classes, names)
            outcome.choices = [
                Choice(row, int(at), one, similar)
                for row, at, one, similar in zip(labelled, true, said_of, similarity, strict=True)
            ]
    elif state.view == "seen":
        outcome.choices = _choices(state, images)
    _score_choices(state)


def _choices(state: _Pass, images: np.ndarray) -> list[Choice]:
    """Each picture's first sentence picked among ten, where no labels are there to be picked."""
    outcome, pipeline = state.outcome, state.pipeline
    task: Retrieval = pipeline.task(Retrieval)
    groups = [example.group or example.id for example in state.examples]
    first = {of: number for number, (of, _) in reversed(list(enumerate(outcome.texts)))}
    rows = sorted(first)
    drawn = picks(
        [groups[of] for of, _ in outcome.texts],
        [groups[row] for row in rows],
        [first[row] for row in rows],
        pipeline.config.seed,
    )
    found = []
    for row, numbers in zip(rows, drawn, strict=True):
        if numbers:
            assert outcome.text_embeddings is not None, "there are texts"
            candidates, names = outcome.text_embeddings[numbers], [str(number) for number in numbers]
            (said,) = task.classify(pipeline.model, pipeline.codec, images[row : row + 1], candidates, names)
            found.append(Choice(row, 0, said, class_similarity(images[row : row + 1], candidates)[0]))
    return found


def _score_choices(state: _Pass) -> None:
    """Calibration error of the share of the chosen label, or sentence; for sentences also how often it is right."""
    outcome, seed = state.outcome, state.pipeline.config.seed
    if not outcome.choices:
        return
    name = "acc1" if "acc1" in outcome.scores else f"pick_1_of_{CANDIDATES}"
    right = np.array([one.similarity.argmax() == one.true for one in outcome.choices])
    if name not in outcome.scores:
        outcome.scores[name] = accuracy(right, np.array([one.of for one in outcome.choices]), seed)
        outcome.baseline[name] = 1 / CANDIDATES
    outcome.scores |= calibration_errors(name, [one.prediction for one in outcome.choices], right, seed)


def _is_class(example: Example) -> bool:
    """Whether the captions were made of the label: all pictures of a class would be right for each of them."""
    return example.group.startswith(LABEL_GROUP)


def _embed(state: _Pass, texts: Sequence[str]) -> np.ndarray:
    task: Retrieval = state.pipeline.task(Retrieval)
    model, codec = state.pipeline.model, state.pipeline.codec
    texts = [state.text(one) for one in texts]
    parts = [task.embed_texts(model, codec, texts[at : at + 2 * CHUNK]) for at in range(0, len(texts), 2 * CHUNK)]
    return np.concatenate(parts)


def _recall(state: _Pass, images: np.ndarray, texts: np.ndarray) -> None:
    outcome, examples, seed = state.outcome, state.examples, state.pipeline.config.seed
    outcome.image_embeddings, outcome.text_embeddings = images, texts
    groups: dict[str, int] = {}
    image_group = np.array([groups.setdefault(example.group or example.id, len(groups)) for example in examples])
    text_of = np.array([row for row, _ in outcome.texts])
    with_text = np.unique(text_of)
    image_ranks, text_ranks = retrieval_ranks(images[with_text], texts, image_group[with_text], image_group[text_of])
    for k in RECALLS:
        outcome.scores[f"image_to_text_R@{k}"] = recall_at(image_ranks, k, seed=seed)
        outcome.baseline[f"image_to_text_R@{k}"] = min(1.0, k / len(with_text))
        outcome.items[f"image_to_text_R@{k}"] = Items((image_ranks < k).astype(np.float64), with_text)
    for k in RECALLS:
        outcome.scores[f"text_to_image_R@{k}"] = recall_at(text_ranks, k, text_of, seed)
        outcome.baseline[f"text_to_image_R@{k}"] = min(1.0, k / len(with_text))
        outcome.items[f"text_to_image_R@{k}"] = Items((text_ranks < k).astype(np.float64), text_of)
    languages = [caption.language for row in with_text for caption in examples[row].captions]
    if len(set(languages)) > 1:
        for k in (1, 10):
            outcome.by_kind[f"text_to_image_R@{k}"] = accuracy_by_kind(text_ranks < k, languages, text_of, seed)
    if state.view == "seen" and len(with_text) > 1:
        shown = images[with_text]
        outcome.geometry = {
            "alignment": alignment(shown, texts, image_group[with_text], image_group[text_of]),
            "image_uniformity": uniformity(shown),
            "text_uniformity": uniformity(texts),
            "modality_gap": modality_gap(shown, texts),
        }


def _swap(state: _Pass, images: np.ndarray, texts: np.ndarray) -> None:
    """Each caption against a swap of it, in runs that were trained with swaps."""
    outcome, name, seed = state.outcome, caption_swap.METRIC, state.pipeline.config.seed
    found = caption_swap.caption_swaps(state.examples, images, texts, partial(_embed, state))
    if found.kinds:
        outcome.scores[name] = accuracy(found.right, found.of, seed)
        outcome.items[name] = Items(found.right, found.of)
        outcome.baseline[name] = 0.5
        outcome.by_kind[name] = accuracy_by_kind(found.right, found.kinds, found.of, seed)


def _score(state: _Pass) -> None:
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
        outcome.scores |= calibration_errors("matching", chances, [one.is_match for one in outcome.matched], seed)
    if outcome.captioned:
        _score_captions(state)


def _score_answers(state: _Pass) -> None:
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
        outcome.scores |= calibration_errors(name, [one.prediction for one in outcome.answered], right >= 0.5, seed)
        given = np.array([not one.prediction.evidence["abstains"] for one in outcome.answered])
        if not given.all():
            outcome.scores["answered_share"] = accuracy(given, pictures, seed)
            if given.any():
                outcome.scores[f"{name}_when_answered"] = accuracy(right[given], pictures[given], seed)


def _score_captions(state: _Pass) -> None:
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


def _score_caption_events(state: _Pass, name: str, captions: Sequence[Captioned], happened: Sequence[bool]) -> None:
    """How often captions are what their confidence is the probability of, and how well it is told."""
    outcome, seed = state.outcome, state.pipeline.config.seed
    right, pictures = np.array(happened), np.array([one.of for one in captions])
    languages = [str(one.prediction.evidence["language"]) for one in captions]
    outcome.scores[name] = accuracy(right, pictures, seed)
    outcome.items[name] = Items(right.astype(np.float64), pictures)
    if len(set(languages)) > 1:
        outcome.by_kind[name] = accuracy_by_kind(right, languages, pictures, seed)
    if state.view == "seen":
        outcome.scores |= calibration_errors(name, [one.prediction for one in captions], right, seed)
