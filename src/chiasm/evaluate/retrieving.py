"""Pictures and sentences of a split found by each other, classes by their names: ranks, hits and their scores."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from chiasm.core.types import Example
from chiasm.data.files import LABEL_GROUP
from chiasm.data.prompts import prompts_for
from chiasm.evaluate import caption_swap
from chiasm.evaluate.naming import TRAINED, begins_by_name
from chiasm.evaluate.outcome import Choice, Items, Pass
from chiasm.metrics.certainty import CANDIDATES, picks
from chiasm.metrics.classic import (
    accuracy,
    accuracy_by_kind,
    alignment,
    class_scores,
    modality_gap,
    recall_at,
    retrieval_ranks,
    uniformity,
)
from chiasm.tasks.retrieval import TEXTS_AT_ONCE, Retrieval, class_similarity

RECALLS = (1, 5, 10)


def retrieve(state: Pass) -> None:
    """Recall both ways over the captions, and classes over the labels."""
    pipeline, outcome = state.pipeline, state.outcome
    images = np.concatenate(state.vectors)
    captioned = [row for row, one in enumerate(state.examples) if one.captions and not _is_class(one)]
    outcome.texts = [(row, caption.text) for row in captioned for caption in state.examples[row].captions]
    if outcome.texts:
        texts = embed(state, [text for _, text in outcome.texts])
        _recall(state, images, texts)
        if pipeline.config.tasks[Retrieval.name].hard_negatives:
            _swap(state, captioned, images, texts)
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
        by_name = begins_by_name([*pipeline.tasks.values()])
        outcome.scores |= {f"{by_name}{name}": score for name, score in scores.items()}
        outcome.baseline |= {f"{by_name}{name}": value for name, value in baseline.items()}
        hits = (similarity.argmax(1) == true).astype(np.float64)
        outcome.items[f"{by_name}{TRAINED}"] = Items(hits, np.array(labelled))
        if state.view == "seen":
            said_of = task.classify(pipeline.model, pipeline.codec, images[labelled], classes, names)
            outcome.choices = [
                Choice(row, int(at), one, similar)
                for row, at, one, similar in zip(labelled, true, said_of, similarity, strict=True)
            ]
    elif state.view == "seen":
        outcome.choices = _choices(state, images)
    _score_choices(state)


def _choices(state: Pass, images: np.ndarray) -> list[Choice]:
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


def _score_choices(state: Pass) -> None:
    """Calibration error of the share of the chosen label, or sentence; for sentences also how often it is right."""
    outcome, seed = state.outcome, state.pipeline.config.seed
    if not outcome.choices:
        return
    by_label = begins_by_name([*state.pipeline.tasks.values()]) + TRAINED
    name = by_label if by_label in outcome.scores else f"pick_1_of_{CANDIDATES}"
    right = np.array([one.similarity.argmax() == one.true for one in outcome.choices])
    pictures = np.array([one.of for one in outcome.choices])
    if name not in outcome.scores:
        outcome.scores[name] = accuracy(right, pictures, seed)
        outcome.baseline[name] = 1 / CANDIDATES
    outcome.add_confidences(name, [one.prediction for one in outcome.choices], right, pictures, seed)


def _is_class(example: Example) -> bool:
    """Whether the captions were made of the label: all pictures of a class would be right for each of them."""
    return example.group.startswith(LABEL_GROUP)


def embed(state: Pass, texts: Sequence[str]) -> np.ndarray:
    """Vectors float32 [n, d] of the texts, or of as many empty ones in a view without texts."""
    task: Retrieval = state.pipeline.task(Retrieval)
    model, codec = state.pipeline.model, state.pipeline.codec
    texts = [state.text(one) for one in texts]
    parts = [
        task.embed_texts(model, codec, texts[at : at + TEXTS_AT_ONCE]) for at in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _recall(state: Pass, images: np.ndarray, texts: np.ndarray) -> None:
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


def _swap(state: Pass, captioned: Sequence[int], images: np.ndarray, texts: np.ndarray) -> None:
    """Each caption against a swap of it, in runs that were trained with swaps."""
    outcome, name, seed = state.outcome, caption_swap.METRIC, state.pipeline.config.seed
    found = caption_swap.caption_swaps(state.examples, captioned, images, texts, partial(embed, state))
    if found.kinds:
        outcome.scores[name] = accuracy(found.right, found.of, seed)
        outcome.items[name] = Items(found.right, found.of)
        outcome.baseline[name] = 0.5
        outcome.by_kind[name] = accuracy_by_kind(found.right, found.kinds, found.of, seed)
