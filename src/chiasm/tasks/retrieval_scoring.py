"""Scores of a shared embedding space: retrieval recall in both directions and zero-shot classification."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Encoded, Example
from chiasm.data.files import LABEL_GROUP
from chiasm.data.prompts import prompts_for
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
from chiasm.tasks import caption_swap
from chiasm.tasks.scoring import Choice, Context, Items, Outcome, Scorer

if TYPE_CHECKING:
    from chiasm.tasks.retrieval import Retrieval

RECALLS = (1, 5, 10)
BY_LABEL = "acc1"
"""Metric of zero-shot classification, unless the run has a classification task."""
BY_NAME = "zero_shot_"
"""Prefix of the zero-shot metrics if the run has a classification task."""


class RetrievalScorer(Scorer):
    """Scores a shared space of images and sentences.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: "Retrieval", context: Context) -> None:
        super().__init__(context)
        self.task, self.outcome = task, Outcome()
        self.vectors: list[npt.NDArray[np.float32]] = []
        self.prefix = BY_NAME if context.has_classes else ""

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Embed the images of a part."""
        self.vectors.append(self.task.embed_images(self.context.model, encoded))

    def finish(self) -> Outcome:
        """Recall in both directions over captions, and zero-shot accuracy over labels."""
        context, outcome = self.context, self.outcome
        if not self.vectors:
            return outcome
        images, examples = np.concatenate(self.vectors), context.examples
        captioned = [row for row, one in enumerate(examples) if one.captions and not _is_class(one)]
        outcome.texts = [(row, caption.text) for row in captioned for caption in examples[row].captions]
        if outcome.texts:
            texts = self._embed([text for _, text in outcome.texts])
            self._recall(images, texts)
            if self.task.config.hard_negatives:
                self._swap(captioned, images, texts)
        labelled = [row for row, example in enumerate(examples) if example.label is not None]
        names = sorted({str(examples[row].label) for row in labelled})
        if len(names) > 1 and context.label_prompts:
            self._classes(images, labelled, names)
        elif context.view == "seen":
            outcome.choices = self._choices(images)
        self._score_choices()
        if context.is_calibrating and context.model.logit_scale is not None:
            outcome.logit_scale = context.model.logit_scale.exp().item()
        return outcome

    def _classes(self, images: npt.NDArray[np.float32], labelled: Sequence[int], names: Sequence[str]) -> None:
        """Zero-shot classification among the split's labels."""
        context, outcome, task = self.context, self.outcome, self.task
        prompts = [context.text(prompt) for prompt in prompts_for(names, context.label_prompts)]
        classes = task.embed_classes(context.model, context.codec, names, prompts)
        shown = images[labelled]
        similarity = class_similarity(shown, classes)
        true = np.array([names.index(str(context.examples[row].label)) for row in labelled])
        scores, baseline = class_scores(similarity, true, context.seed)
        outcome.scores |= {f"{self.prefix}{name}": score for name, score in scores.items()}
        outcome.baseline |= {f"{self.prefix}{name}": value for name, value in baseline.items()}
        hits = (similarity.argmax(1) == true).astype(np.float64)
        outcome.items[f"{self.prefix}{BY_LABEL}"] = Items(hits, np.array(labelled))
        if context.view == "seen":
            predictions = task.classify(context.model, context.codec, shown, classes, names)
            outcome.choices = [
                Choice(row, int(at), one, similar)
                for row, at, one, similar in zip(labelled, true, predictions, similarity, strict=True)
            ]

    def _choices(self, images: npt.NDArray[np.float32]) -> list[Choice]:
        """Pick each image's first caption among ten, for a split without labels."""
        context, outcome = self.context, self.outcome
        groups = [example.group or example.id for example in context.examples]
        first = {of: number for number, (of, _) in reversed(list(enumerate(outcome.texts)))}
        rows = sorted(first)
        drawn = picks(
            [groups[of] for of, _ in outcome.texts],
            [groups[row] for row in rows],
            [first[row] for row in rows],
            context.seed,
        )
        found = []
        for row, numbers in zip(rows, drawn, strict=True):
            if numbers:
                assert outcome.text_embeddings is not None, "there are texts"
                candidates, names = outcome.text_embeddings[numbers], [str(number) for number in numbers]
                shown = images[row : row + 1]
                (picked,) = self.task.classify(context.model, context.codec, shown, candidates, names)
                found.append(Choice(row, 0, picked, class_similarity(shown, candidates)[0]))
        return found

    def _score_choices(self) -> None:
        """Calibration error of the chosen label or caption; for captions also the accuracy."""
        outcome, seed = self.outcome, self.context.seed
        if not outcome.choices:
            return
        by_label = f"{self.prefix}{BY_LABEL}"
        name = by_label if by_label in outcome.scores else f"pick_1_of_{CANDIDATES}"
        right = np.array([one.similarity.argmax() == one.true for one in outcome.choices])
        images = np.array([one.of for one in outcome.choices])
        if name not in outcome.scores:
            outcome.scores[name] = accuracy(right, images, seed)
            outcome.baseline[name] = 1 / CANDIDATES
        outcome.add_confidences(name, [one.prediction for one in outcome.choices], right, images, seed)

    def _embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings float32 [n, e] of the texts; of empty texts in the view "no_text"."""
        context = self.context
        return self.task.embed_in_parts(context.model, context.codec, [context.text(text) for text in texts])

    def _recall(self, images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]) -> None:
        outcome, examples, seed = self.outcome, self.context.examples, self.context.seed
        outcome.image_embeddings, outcome.text_embeddings = images, texts
        groups: dict[str, int] = {}
        image_group = np.array([groups.setdefault(example.group or example.id, len(groups)) for example in examples])
        text_of = np.array([row for row, _ in outcome.texts])
        with_text = np.unique(text_of)
        image_ranks, text_ranks = retrieval_ranks(
            images[with_text], texts, image_group[with_text], image_group[text_of]
        )
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
        if self.context.view == "seen" and not self.context.wanted and len(with_text) > 1:
            shown = images[with_text]
            outcome.geometry = {
                "alignment": alignment(shown, texts, image_group[with_text], image_group[text_of]),
                "image_uniformity": uniformity(shown, seed=seed),
                "text_uniformity": uniformity(texts, seed=seed),
                "modality_gap": modality_gap(shown, texts),
            }

    def _swap(self, captioned: Sequence[int], images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]) -> None:
        """Accuracy of each caption against its swap, for runs trained with hard negatives."""
        outcome, name, seed = self.outcome, caption_swap.METRIC, self.context.seed
        found = caption_swap.caption_swaps(self.context.examples, captioned, images, texts, self._embed)
        if found.kinds:
            outcome.scores[name] = accuracy(found.right, found.of, seed)
            outcome.items[name] = Items(found.right, found.of)
            outcome.baseline[name] = 0.5
            outcome.by_kind[name] = accuracy_by_kind(found.right, found.kinds, found.of, seed)


def class_similarity(images: npt.NDArray[np.float32], classes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cosines float32 [n, c], computed image by image for bitwise batch invariance."""
    if not len(images):
        return np.zeros((0, len(classes)), dtype=np.float32)
    return np.stack([classes @ image for image in images])


def _is_class(example: Example) -> bool:
    """Whether the captions were made from the label, so that they fit all images of the class."""
    return example.group.startswith(LABEL_GROUP)
