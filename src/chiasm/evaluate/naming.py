"""Classes that a task was trained to name: accuracies, and how well their confidence is told."""

from collections.abc import Sequence

import numpy as np

from chiasm.evaluate.outcome import Items, Pass
from chiasm.metrics.classic import class_scores
from chiasm.tasks.base import Named, Task

TRAINED = "acc1"
"""Accuracy of classes that the model was trained on; also of classes by their names, where there is no such task."""
BY_NAME = "zero_shot_"
"""Begins the scores of classes by their names beside those of a task that was trained on them."""


def begins_by_name(tasks: Sequence[Task]) -> str:
    """What the scores of classes by their names begin with in a run of these tasks."""
    return BY_NAME if any(task.needs == "labels" for task in tasks) else ""


def score_named(state: Pass) -> None:
    """Join the parts of each task that names classes, and score them.

    A class that the model was not trained on counts as wrong.
    """
    outcome, seed = state.outcome, state.pipeline.config.seed
    for name, parts in state.named.items():
        rows = np.concatenate([start + np.array(one.rows, dtype=np.int64) for start, one in parts])
        logits = np.concatenate([one.logits for _, one in parts])
        target = np.concatenate([one.target for _, one in parts])
        predictions = [said for _, one in parts for said in one.predictions]
        if not len(rows):
            continue
        outcome.named[name] = Named(rows.tolist(), logits, target, predictions)
        # Classes that the model does not know share a column that is never chosen.
        never = np.full((len(rows), int((target < 0).any())), logits.min() - 1)
        with_others = np.concatenate([logits, never], axis=1)
        scores, baseline = class_scores(with_others, np.where(target < 0, logits.shape[1], target), seed)
        outcome.scores |= scores
        outcome.baseline |= baseline
        right = logits.argmax(1) == target
        outcome.items[TRAINED] = Items(right.astype(np.float64), rows)
        if state.view == "seen":
            outcome.add_confidences(TRAINED, predictions, right, rows, seed)
