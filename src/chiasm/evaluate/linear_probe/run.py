"""Accuracy of a run's image tower on classes it was not trained on: linear probe, few-shot and zero-shot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.files import cache_root
from chiasm.core.random import counter_seed
from chiasm.core.types import IMAGE, Example, Score
from chiasm.data.dataset import Dataset, MappedDataset, Subset, examples_of
from chiasm.data.files import LABEL_GROUP
from chiasm.data.image_refs import mirrored
from chiasm.data.leaks import open_training
from chiasm.data.ledger import Ledger
from chiasm.data.modalities.image import images_of
from chiasm.data.opening import open_dataset
from chiasm.data.sources.records import canonical_split
from chiasm.evaluate.evaluator import derangement, evaluate
from chiasm.evaluate.linear_probe.fit import LinearMap, choose_decay, few_shot, fit_map
from chiasm.evaluate.measure import ProgressBars
from chiasm.evaluate.metric_row import MetricRow
from chiasm.metrics.classic import class_scores
from chiasm.metrics.intervals import mean_of_draws
from chiasm.pipeline.batching import pooled_features
from chiasm.pipeline.feature_cache import encode_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Task
from chiasm.tasks.space import SharedSpace

CHOOSING_SHARE = 5
"""One in so many training examples chooses the weight decay where "val" itself is measured."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled images with the tower's features: `features` float32 [v, n, d] of v views, `labels` int64 [n]."""

    examples: Sequence[Example]
    features: Tensor
    labels: Tensor

    def rows(self, chosen: Sequence[int]) -> "Labelled":
        """Some of them."""
        index = torch.tensor(chosen, dtype=torch.long)
        return Labelled([self.examples[n] for n in chosen], self.features[:, index], self.labels[index])

    def flat(self) -> tuple[Tensor, Tensor]:
        """Every view as an example of its own: [v * n, d] and [v * n]."""
        return self.features.flatten(0, 1), self.labels.repeat(len(self.features))

    def mean(self) -> tuple[Tensor, Tensor]:
        """The mean over the views: [n, d] and [n]."""
        return self.features.mean(0), self.labels


@dataclass(frozen=True, slots=True)
class FittedProbe:
    """A linear map from features to classes, its weight decay, and each decay's accuracy on the selection examples."""

    map: LinearMap
    decay: float
    shares: Mapping[float, float]


def fit_probe(fitted: Labelled, choosing: Labelled, classes: int) -> FittedProbe:
    """Fit on some examples with the weight decay that is best on others, then once more on both.

    The one fit of `chiasm probe` and of heads that begin as a linear probe (`Task.head_to_fit`).
    """
    decay, shares = choose_decay(*fitted.flat(), *choosing.mean(), classes)
    features, labels = (torch.cat(pair) for pair in zip(fitted.flat(), choosing.flat(), strict=True))
    return FittedProbe(fit_map(features, labels, classes, decay), decay, shares)


@dataclass(frozen=True, slots=True)
class Probed:
    """Results of a probe.

    Attributes:
        split: what was measured on.
        classes: names, in the order of the labels.
        counts: examples fitted, choosing and measured.
        scores, blind, baseline: of the linear probe: as it is, with images shuffled, of the most common class.
        decay, shares: the chosen weight decay, and each decay's accuracy on the selection examples.
        shots: examples a class -> accuracy of each draw.
        shot_decays: examples a class -> the chosen weight decay.
        zero_shot: the run's own accuracy by class names; None if it was not measured, with the reason in `why_not`.
    """

    split: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    scores: Mapping[str, Score]
    blind: Mapping[str, Score]
    baseline: Mapping[str, float]
    decay: float
    shares: Mapping[float, float]
    shots: Mapping[int, Sequence[float]]
    shot_decays: Mapping[int, float]
    zero_shot: Score | None
    why_not: str

    def rows(self) -> list[MetricRow]:
        """The table of the linear probe."""
        return [MetricRow(name, score, self.blind[name], self.baseline[name]) for name, score in self.scores.items()]

    def shot_rows(self) -> list[MetricRow]:
        """The table of zero and few shots; their n counts draws, the zero-shot's images."""
        chance = self.baseline["acc1"]
        zero = [MetricRow("zero-shot acc1", self.zero_shot, chance=chance)] if self.zero_shot else []
        few = [MetricRow(f"{k}-shot acc1", mean_of_draws(values), chance=chance) for k, values in self.shots.items()]
        return zero + few

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "split": self.split,
            "classes": list(self.classes),
            "counts": dict(self.counts),
            "metrics": {name: score.as_dict() for name, score in self.scores.items()},
            "blind": {name: score.as_dict() for name, score in self.blind.items()},
            "baseline": dict(self.baseline),
            "weight_decay": {
                "chosen": self.decay,
                "acc1": {f"{key:g}": accuracy for key, accuracy in self.shares.items()},
            },
            "few_shot": {
                str(k): {**mean_of_draws(values).as_dict(), "draws": list(values), "weight_decay": self.shot_decays[k]}
                for k, values in self.shots.items()
            },
            "zero_shot": {"acc1": self.zero_shot.as_dict()} if self.zero_shot else {"not_measured": self.why_not},
        }


def probe(
    pipeline: Pipeline, split: str, shots: Sequence[int], draws: int, mirror: bool, console: Console
) -> tuple[Probed, Ledger]:
    """Fit a linear map from the image tower's pooled features to the classes of the data that the config names.

    Fitted on "train", with the weight decay chosen on "val" (on a fifth of "train" where "val" is measured), then
    fitted once more on both. `split` is measured once. Features are cached by content.

    Args:
        pipeline: its config names the data.
        split: measured; never fitted, and never chosen on.
        shots: numbers of examples a class to draw; () draws none.
        draws: how often, at least 2.
        mirror: also fit every training image mirrored, and measure the mean of an image and its mirror image.
        console: receives progress bars and messages.

    Raises:
        InputError: no labels, fewer than two classes, a class that training lacks, or a leak.
    """
    config = replace(pipeline.config, test_split=split)
    training = open_training(config)
    if training.message:
        console.print(training.message, style="yellow", markup=False, highlight=False)
    labelled = _labelled(training.dataset, "train")
    classes = sorted({str(example.label) for example in examples_of(labelled)})
    if len(classes) < 2:
        raise InputError(f"the training data have {len(classes)} class", "at least 2", "give more data")
    sets = [_labelled_features(pipeline, labelled, classes, mirror, console)]
    apart = canonical_split(split) != "val"
    for name in ("val", split) if apart else (split,):
        dataset = open_dataset(config.data, name, config.seed)
        sets.append(_labelled_features(pipeline, _labelled(dataset, name), classes, mirror, console))
    ledger = Ledger.added([training.dataset.ledger, dataset.ledger])
    fitted, choosing = (sets[0], sets[1]) if apart else cut(sets[0])
    return _probed(pipeline, split, tuple(classes), (fitted, choosing, sets[-1]), (tuple(shots), draws)), ledger


def _probed(
    pipeline: Pipeline,
    split: str,
    classes: tuple[str, ...],
    sets: tuple[Labelled, Labelled, Labelled],
    wanted: tuple[tuple[int, ...], int],
) -> Probed:
    (fitted, choosing, measured), (shots, draws), seed = sets, wanted, pipeline.config.seed
    found_map = fit_probe(fitted, choosing, len(classes))
    given, labels = measured.mean()
    logits, right = found_map.map(given).numpy(), labels.numpy()
    scores, baseline = class_scores(logits, right, seed)
    blind, _ = class_scores(logits[derangement(len(right), seed)], right, seed)
    found = {k: few_shot(*fitted.mean(), choosing.mean(), (given, labels), k, draws, seed) for k in shots}
    zero, why_not = _zero_shot(pipeline, measured.examples)
    return Probed(
        split,
        classes,
        {"fitted": len(fitted.examples), "choosing": len(choosing.examples), "measured": len(right)},
        scores,
        blind,
        baseline,
        found_map.decay,
        found_map.shares,
        {k: values for k, (values, _) in found.items()},
        {k: chosen for k, (_, chosen) in found.items()},
        zero,
        why_not,
    )


def _zero_shot(pipeline: Pipeline, examples: Sequence[Example]) -> tuple[Score | None, str]:
    spaces: dict[str, Task[Any]] = {
        name: task for name, task in pipeline.tasks.items() if isinstance(task, SharedSpace)
    }
    if not spaces:
        return None, "the run has no space shared by images and texts"
    if not pipeline.config.model.image.frozen:  # the model may attend to more than the pooled features
        examples = [replace(example, inputs={"image": example.inputs["image"]}) for example in examples]
    tasks, pipeline.tasks = pipeline.tasks, spaces
    try:
        return evaluate(pipeline, examples).scores["acc1"], ""
    except InputError as error:  # such as names in a language that the text tower does not read
        return None, error.given
    finally:
        pipeline.tasks = tasks


def _labelled(dataset: Dataset, split: str) -> Dataset:
    """The examples with a label."""
    found = Subset(dataset, [number for number, example in enumerate(examples_of(dataset)) if example.label])
    if not len(found):
        raise InputError(
            f"split {split!r} has no labels", "images with a class", "give a folder of classes, or a label column"
        )
    return found


def _labelled_features(
    pipeline: Pipeline, dataset: Dataset, classes: list[str], mirror: bool, console: Console
) -> Labelled:
    """Features of the images; unreadable images go to the dataset's ledger."""
    missing = next((example for example in examples_of(dataset) if str(example.label) not in classes), None)
    if missing is not None:
        raise InputError(
            f"{missing.source}: training has no example of the class {missing.label!r}",
            "classes that training has: " + ", ".join(classes[:20]),
            "add examples of it to training, or take it out",
        )
    bars = ProgressBars(console)
    try:
        encoded = encode_images(pipeline, dataset, cache_root(), bars)
        views = [kept := examples_of(encoded)]
        if mirror:
            views.append(examples_of(encode_images(pipeline, MappedDataset(encoded, _mirrored), cache_root(), bars)))
    finally:
        bars.close()
    dataset.ledger.check(pipeline.config.data.max_rejected)
    features = np.stack([np.stack([pooled_features(example) for example in view]) for view in views])
    numbers = [classes.index(str(example.label)) for example in kept]
    return Labelled(kept, torch.from_numpy(features), torch.tensor(numbers))


def _mirrored(example: Example) -> Example:
    return replace(example, inputs={**example.inputs, IMAGE: tuple(map(mirrored, images_of(example)))})


def cut(training: Labelled) -> tuple[Labelled, Labelled]:
    """Four fifths to fit and one to choose, by a hash of group or id; a class is no group."""
    chosen = [
        counter_seed("probe", example.id if example.group.startswith(LABEL_GROUP) else example.group or example.id)
        % CHOOSING_SHARE
        == 0
        for example in training.examples
    ]
    rows = range(len(chosen))
    return training.rows([n for n in rows if not chosen[n]]), training.rows([n for n in rows if chosen[n]])
