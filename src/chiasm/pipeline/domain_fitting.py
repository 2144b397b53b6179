"""Fit a run's `DomainModel`: densities on training examples, limits on validation examples."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from chiasm.core.random import counter_rng
from chiasm.core.types import Example
from chiasm.data.modalities.image import images_of
from chiasm.pipeline.batching import image_tensor
from chiasm.pipeline.domain import REFUSED_SHARE, DomainModel, image_features
from chiasm.pipeline.domain_densities import FeatureGaussian, FloatArray, WordModel, upper_limit
from chiasm.pipeline.pipeline import Pipeline

MOST_IMAGES = 1024
"""Images of a split that are encoded for it, drawn by the run's seed."""
ENCODED_AT_ONCE = 64


def fit_domain(pipeline: Pipeline, training: Iterable[Example], validation: Sequence[Example]) -> DomainModel:
    """Fit the densities and limits that detect inputs unlike the training data.

    Args:
        pipeline: trained, in evaluation mode.
        training: examples that the run was trained on, checked or encoded as `feature_cache.prepare` returns them.
        validation: held-out examples of the same kind, for the limits.

    Returns:
        Without a density where fewer than two examples of a split have an image, or a text of its kind.
    """
    examples = list(training)
    shown, held = (_drawn(some, pipeline.config.seed) for some in (examples, validation))
    takes_mean = False
    images = None
    if len(shown) > 1 and len(held) > 1:
        fitted_on = _features(pipeline, shown, takes_mean)
        takes_mean = not np.ptp(fitted_on, axis=0).any()
        if takes_mean:
            fitted_on = _features(pipeline, shown, takes_mean)
        images = FeatureGaussian.fit(fitted_on)
        distances = images.distances(_features(pipeline, held, takes_mean))
        images = replace(images, limit=upper_limit(distances, REFUSED_SHARE))
    texts: dict[str, WordModel] = {}
    for kind in sorted({task.needs for task in pipeline.tasks.values() if task.reads_text}):
        known, others = _texts(examples, kind), _texts(validation, kind)
        if len(known) > 1 and len(others) > 1:
            model = WordModel.fit(known)
            texts[kind] = replace(model, limit=upper_limit(model.distances(others), REFUSED_SHARE))
    return DomainModel(images, texts, takes_mean)


def _drawn(examples: Sequence[Example], seed: int) -> list[Example]:
    chosen = np.sort(counter_rng("domain", seed).permutation(len(examples))[:MOST_IMAGES])
    return [examples[number] for number in chosen if images_of(examples[number])]


def _features(pipeline: Pipeline, examples: Sequence[Example], takes_mean: bool) -> FloatArray:
    workers, parts = pipeline.config.data.workers, []
    for start in range(0, len(examples), ENCODED_AT_ONCE):
        image = pipeline.encode_pixels(
            image_tensor(examples[start : start + ENCODED_AT_ONCE], pipeline.resizing, workers)
        )
        parts.append(image_features(image, takes_mean))
    return np.concatenate(parts)


def _texts(examples: Sequence[Example], kind: str) -> list[str]:
    """Texts of a kind; labels count as captions if the data's prompts turn them into captions."""
    if kind == "questions":
        return [question.text for example in examples for question in example.questions]
    return [caption.text for example in examples for caption in example.captions]
