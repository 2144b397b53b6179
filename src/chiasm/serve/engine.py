"""The Python interface of a trained model: images and texts in, predictions out.

Every answer comes from the task's `predict`, which evaluation also calls.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chiasm.core.config import override
from chiasm.core.device import keep_freed_memory, pick_device
from chiasm.core.errors import ChiasmError, InputError
from chiasm.core.log import stderr_console
from chiasm.core.resizing import Resizing
from chiasm.core.types import IMAGE, Domain, Encoded, Prediction, Tokens
from chiasm.data.prompts import expanded, prompts_for
from chiasm.pipeline.batching import DECODERS, Features, ahead, in_threads, stack_features, stack_images
from chiasm.pipeline.execution_plan import Plan, plan_execution
from chiasm.pipeline.interop import open_pipeline
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.zero_shot_starter import STARTER, starter_pipeline
from chiasm.serve.abilities import task_for
from chiasm.serve.drawings import Draws
from chiasm.serve.given import ImageInput, checked_words, choices, listed, paired, prepared, ref_of
from chiasm.serve.talking import Talks
from chiasm.tasks.base import Query, queries_of
from chiasm.tasks.classification import Classification
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval

ENCODE_AT_ONCE = 64

CLASS_SETS = 32
"""Number of label sets whose embeddings are cached."""


@dataclass(frozen=True, slots=True)
class Match:
    """How well an image and a text match; None for a score that the model was not trained for."""

    similarity: float | None
    """Cosine in [-1, 1]; not a probability, and not comparable between models."""
    probability: float | None
    """In [0, 1], from the task "matching": calibrated on pairs of which half match and half are hard negatives."""
    domain: Domain | None = field(default=None, compare=False)
    """Distance of image and text from the training data; None if the run has no domain model."""

    def as_dict(self) -> dict[str, Any]:
        """As `--json` and the server write it."""
        domain = None if self.domain is None else self.domain.as_dict()
        return {"similarity": self.similarity, "probability": self.probability, "domain": domain}


def load(run: str | PathLike[str], execution: str = "") -> "Model":
    """Open a run folder, verify all its files, and compare its outputs for the stored example with the saved ones.

    It also opens folders in the layout of Hugging Face or open_clip (docs/checkpoints.md) and downloads nothing.
    "starter" opens the packaged towers, aligned by ImageNet's classes without training. Then the number format of each
    part is chosen (`pipeline.execution_plan`); `execution`, where given, in place of the run's own `model.execution`.

    Raises:
        InputError: missing, unfinished, damaged, of another format version, or of an architecture not known here.
    """
    keep_freed_memory()
    try:
        pipeline = _opened(run)
    except (ChiasmError, OSError, MemoryError):
        raise
    except Exception as error:  # tokenizers and safetensors raise exception types of their own
        raise InputError(
            f"{run} holds files that do not fit together ({type(error).__name__}: {error})",
            "a run folder as chiasm wrote it",
            "restore it from a copy, or train again",
        ) from error
    if execution:
        pipeline.config = override(pipeline.config, [f"model.execution={execution}"])
    plan = plan_execution(pipeline)
    for remark in plan.remarks:
        stderr_console().print(f"{run}: {remark}", highlight=False, markup=False, soft_wrap=True)
    return Model(pipeline, plan)


def _opened(run: str | PathLike[str]) -> Pipeline:
    if str(run) == STARTER:
        return starter_pipeline(pick_device())
    return open_pipeline(Path(os.path.expanduser(run)), pick_device())


class Model(Talks, Draws):
    """A trained model. A method that needs a task that the run lacks raises an InputError that lists the run's tasks.

    Every method takes one item or a list: one item gives one result, a list gives a list. `draw` gives a list always.
    """

    def __init__(self, pipeline: Pipeline, plan: Plan | None = None) -> None:
        self.pipeline, self.plan = pipeline, plan or Plan()
        self._classes: dict[tuple[tuple[str, ...], tuple[str, ...]], npt.NDArray[np.float32]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model was trained on."""
        return tuple(self.pipeline.tasks)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the training data, ISO 639-1; the first is the default."""
        return tuple(dict.fromkeys(self.pipeline.config.data.languages))

    @property
    def caption_confidence(self) -> str:
        """Meaning of a caption's confidence: probability of "truth", of "near", or geometric mean over its "words"."""
        calibration = self.pipeline.codec.calibration.get(task_for(self.pipeline, "caption").name)
        return "words" if calibration is None else "near" if calibration.near_from else "truth"

    def encode_image(self, images: ImageInput | Sequence[ImageInput]) -> npt.NDArray[np.float32]:
        """Images -> unit vectors float32 [n, e] in the space shared with `encode_text`; a single one -> [e]."""
        image_list, is_one = listed(images)
        if is_one:
            return self.encode_image(image_list)[0]
        task: Retrieval = self.pipeline.task(Retrieval)
        none = np.zeros((0, self.pipeline.config.model.embedding_dim), dtype=np.float32)
        parts = [task.embed_images(self.pipeline.model, encoded) for encoded in self._encoded(image_list)]
        return np.concatenate([none, *parts])

    def prepare(self, image: ImageInput) -> Tensor:
        """Decode and resize an image: uint8 [3, h, w], accepted by all methods. Thread-safe.

        Raises:
            ImageError: the image cannot be used.
        """
        return stack_images([ref_of(image).load()], self.pipeline.resizing)[0]

    @property
    def resizing(self) -> Resizing:
        """The resizing that `prepare` applies, for use in another process."""
        return self.pipeline.resizing

    def project(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Cached features of a frozen image tower, [n, d] -> unit vectors [n, e], equal to those of `encode_image`."""
        task: Retrieval = self.pipeline.task(Retrieval)
        tokens = self.pipeline.encode_pixels(stack_features([Features(vector) for vector in vectors]))
        return task.embed_images(self.pipeline.model, {IMAGE: tokens})

    def encode_text(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Sentences -> unit vectors float32 [m, e], one -> [e]; its product with an image's vector is the cosine."""
        if isinstance(texts, str):
            return self.encode_text([texts])[0]
        task: Retrieval = self.pipeline.task(Retrieval)
        checked = [checked_words(text, "text") for text in texts]
        return task.embed_in_parts(self.pipeline.model, self.pipeline.codec, checked)

    @overload
    def ask(  # type: ignore[overload-overlap]  # a text is also a list of texts to the type checker
        self, image: ImageInput, question: str, heat_map: bool = False
    ) -> Prediction: ...
    @overload
    def ask(
        self, image: ImageInput | Sequence[ImageInput], question: str | Sequence[str], heat_map: bool = False
    ) -> list[Prediction]: ...
    def ask(
        self, image: ImageInput | Sequence[ImageInput], question: str | Sequence[str], heat_map: bool = False
    ) -> Prediction | list[Prediction]:
        """Answer questions about images.

        Args:
            image: an image, or a list of them.
            question: a question, or a list of them. Two lists are paired; a single item is paired with each of a list.
            heat_map: also return the attention map, for about twice the time.

        Returns:
            One answer for an image and a question, a list if either is a list. `evidence["answers"]` holds the most
            probable answers, `evidence["heat_map"]` the attention map (see `tasks.heat_map`), None for a model without
            attention over the image. `domain` is the distance of image and question from the training data, and
            `abstain_reasons` lists the reasons not to trust the answer.
        """
        image_list, questions, is_single = paired(image, question, "question")
        if self.is_told:
            told = self._answers_in_words(image_list, questions)
            return told[0] if is_single else told
        task, answers = task_for(self.pipeline, "ask"), list[Prediction]()
        for part, texts, of in self._in_parts(image_list, questions):
            queries = queries_of(texts, of)
            found = task.predict(self.pipeline.model, self.pipeline.codec, part, queries)
            if heat_map:
                maps = task.heat_maps(self.pipeline.model, self.pipeline.codec, part, queries)
                found = [_with(one, heat_map=place) for one, place in zip(found, maps, strict=True)]
            answers += self._placed(found, part, of, texts, task.needs)
        return answers[0] if is_single else answers

    @overload
    def caption(  # type: ignore[overload-overlap]  # a path is also a list of paths to the type checker
        self, images: ImageInput, language: str = "", heat_map: bool = False
    ) -> Prediction: ...
    @overload
    def caption(self, images: Sequence[ImageInput], language: str = "", heat_map: bool = False) -> list[Prediction]: ...
    def caption(
        self, images: ImageInput | Sequence[ImageInput], language: str = "", heat_map: bool = False
    ) -> Prediction | list[Prediction]:
        """Describe images, each in one sentence.

        Args:
            images: an image, or a list of them.
            language: a language of the training data; "" means the first.
            heat_map: as in `ask`.

        Returns:
            One sentence for an image, a list for a list. The calibrated confidence is the probability that the sentence
            is true if the validation split has ground truth, otherwise that its ROUGE_L to the references reaches the
            median of the validation captions. Without calibration it is the geometric mean probability of the words,
            also in `evidence["word_probability"]`.
        """
        image_list, is_one = listed(images)
        if is_one:
            return self.caption(image_list, language, heat_map)[0]
        task = task_for(self.pipeline, "caption")
        known = self.languages
        if language and language not in known:
            raise InputError(f"language {language!r}", "one of " + ", ".join(known), "choose one of them")
        captions = []
        for part in self._encoded(image_list):
            queries = [Query(row, language=language or known[0]) for row in range(len(part[IMAGE].pooled))]
            found = task.predict(self.pipeline.model, self.pipeline.codec, part, queries)
            if heat_map:
                maps = task.heat_maps(self.pipeline.model, self.pipeline.codec, part, found)
                found = [_with(one, heat_map=place) for one, place in zip(found, maps, strict=True)]
            captions += self._placed(found, part)
        return captions

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the trained classification head; () without one."""
        return self.pipeline.codec.classes

    def choices(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The labels that `classify` chooses among; the model's classes if none is given."""
        return choices(labels, self.classes, Retrieval.name in self.tasks)

    @overload
    def classify(  # type: ignore[overload-overlap]  # a path is also a list of paths to the type checker
        self, images: ImageInput, labels: Sequence[str] = (), prompts: str | Sequence[str] = ()
    ) -> Prediction: ...
    @overload
    def classify(
        self, images: Sequence[ImageInput], labels: Sequence[str] = (), prompts: str | Sequence[str] = ()
    ) -> list[Prediction]: ...
    def classify(
        self, images: ImageInput | Sequence[ImageInput], labels: Sequence[str] = (), prompts: str | Sequence[str] = ()
    ) -> Prediction | list[Prediction]:
        """Classify images: among the classes that the model was trained on, or zero-shot among labels of your own.

        Args:
            images: an image, or a list of them.
            labels: two or more different names, in a language of the model; empty means `classes`. Without prompts,
                labels that are all in `classes` are classified by the trained head.
            prompts: templates with `{label}`, or names of sets of `data.prompts`; empty means those that the run was
                evaluated with, or packaged ones if none is in the language of the labels.

        Returns:
            One class for an image, a list for a list; see `Classification.predict` and, for zero-shot classification,
            `Retrieval.classify`.
        """
        image_list, is_one = listed(images)
        if is_one:
            return self.classify(image_list, labels, prompts)[0]
        if not self.classes:
            self.pipeline.task(Retrieval)
        names = self.choices(labels)
        model, codec, found = self.pipeline.model, self.pipeline.codec, list[Prediction]()
        if self.classes and not prompts and set(names) <= set(self.classes):
            head: Classification = self.pipeline.task(Classification)
            for part in self._encoded(image_list):
                queries = [Query(row, among=names) for row in range(len(part[IMAGE].pooled))]
                found += self._placed(head.predict(model, codec, part, queries), part)
            return found
        task: Retrieval = self.pipeline.task(Retrieval)
        own = self.pipeline.config.data.label_prompts
        sentences = expanded([prompts] if isinstance(prompts, str) else prompts) or prompts_for(names, own)
        classes = self._class_vectors(task, names, sentences)
        for part in self._encoded(image_list):
            predictions = task.classify(model, codec, task.embed_images(model, part), classes, names)
            found += self._placed(predictions, part)
        return found

    @overload
    def match(  # type: ignore[overload-overlap]  # a text is also a list of texts to the type checker
        self, image: ImageInput, texts: str
    ) -> Match: ...
    @overload
    def match(self, image: ImageInput | Sequence[ImageInput], texts: str | Sequence[str]) -> list[Match]: ...
    def match(self, image: ImageInput | Sequence[ImageInput], texts: str | Sequence[str]) -> Match | list[Match]:
        """Score how well images and texts match; two lists are paired, a single item is paired with each of a list.

        Returns:
            One `Match` for an image and a text, a list if either is a list.
        """
        image_list, words, is_single = paired(image, texts, "text")
        known = self.pipeline.tasks
        if Matching.name not in known:
            self.pipeline.task(Retrieval)
        matches = []
        for part, some, of in self._in_parts(image_list, words):
            cosines: list[float | None] = [None] * len(some)
            chances: list[float | None] = [None] * len(some)
            if Retrieval.name in known:
                cosines = [*self._cosines(part, some, of)]
            if Matching.name in known:
                task: Matching = self.pipeline.task(Matching)
                found = task.predict(self.pipeline.model, self.pipeline.codec, part, queries_of(some, of))
                chances = [one.evidence["match"] for one in found]
            domains = self._domains(part, of, some, Retrieval.needs)
            matches += [Match(*values) for values in zip(cosines, chances, domains, strict=True)]
        return matches[0] if is_single else matches

    # --- internal -------------------------------------------------------------------------------------------

    def _domains(self, encoded: Encoded, of: Sequence[int], texts: Sequence[str], kind: str) -> list[Domain | None]:
        """Distance of each input from the training data; None if the run has no domain model."""
        domain = self.pipeline.domain
        return [None] * len(of) if domain is None else [*domain.judge(encoded[IMAGE], of, texts, kind)]

    def _placed(
        self,
        predictions: Sequence[Prediction],
        encoded: Encoded,
        of: Sequence[int] | None = None,
        texts: Sequence[str] = (),
        kind: str = "",
    ) -> list[Prediction]:
        """The predictions with their `domain`; other arguments as in `DomainModel.judge`."""
        rows = range(len(predictions)) if of is None else of
        domains = self._domains(encoded, rows, texts, kind)
        return [replace(one, domain=domain) for one, domain in zip(predictions, domains, strict=True)]

    def _cosines(self, encoded: Encoded, texts: Sequence[str], of: Sequence[int]) -> list[float]:
        task: Retrieval = self.pipeline.task(Retrieval)
        images, words = task.embed_images(self.pipeline.model, encoded), self.encode_text(texts)
        return [float(np.dot(images[row], word)) for row, word in zip(of, words, strict=True)]

    def _class_vectors(
        self, task: Retrieval, names: tuple[str, ...], prompts: tuple[str, ...]
    ) -> npt.NDArray[np.float32]:
        """Embeddings of the classes; the newest `CLASS_SETS` label sets are cached."""
        key = (names, prompts)
        if key not in self._classes:
            while len(self._classes) >= CLASS_SETS:
                self._classes.pop(next(iter(self._classes)))
            self._classes[key] = task.embed_classes(self.pipeline.model, self.pipeline.codec, *key)
        return self._classes[key]

    def _encoded(self, image_list: Sequence[ImageInput]) -> Iterator[Encoded]:
        """Encode images in parts of `ENCODE_AT_ONCE`, which bounds memory; the next part is decoded meanwhile."""
        starts = range(0, len(image_list), ENCODE_AT_ONCE)
        for pixels in ahead(lambda start: self._pixels(image_list[start : start + ENCODE_AT_ONCE]), starts):
            yield {IMAGE: self.pipeline.encode_pixels(pixels)}

    def _pixels(self, image_list: Sequence[ImageInput]) -> Tensor:
        return torch.stack(in_threads(partial(prepared, resizing=self.resizing), image_list, DECODERS))

    def _tokens(self, image_list: Sequence[ImageInput]) -> Tokens:
        return self.pipeline.encode_pixels(self._pixels(image_list))

    def _in_parts(
        self, image_list: Sequence[ImageInput], texts: Sequence[str]
    ) -> Iterator[tuple[Encoded, list[str], list[int]]]:
        """Pairs in parts: images, each distinct one of a part encoded once; texts; and the image row of each text."""
        for start in range(0, len(texts), ENCODE_AT_ONCE):
            some = image_list[start : start + ENCODE_AT_ONCE]
            distinct: dict[int, int] = {}
            of = [distinct.setdefault(id(one), len(distinct)) for one in some]
            by_place = {place: one for one, place in zip(some, of, strict=True)}
            yield (
                {IMAGE: self._tokens([by_place[place] for place in range(len(by_place))])},
                list(texts[start : start + ENCODE_AT_ONCE]),
                of,
            )


def _with(prediction: Prediction, **evidence: Any) -> Prediction:
    return replace(prediction, evidence={**prediction.evidence, **evidence})
