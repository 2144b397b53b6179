"""Scores of answers against the annotators' answers."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from chiasm.core.types import Encoded, Example
from chiasm.metrics.classic import accuracy, accuracy_by_kind, exact_matches
from chiasm.metrics.vqa import vqa_score
from chiasm.tasks.base import Task, queries_of
from chiasm.tasks.calibration import UNKNOWN
from chiasm.tasks.scoring import Answered, Context, Items, Outcome, Scorer

if TYPE_CHECKING:
    from chiasm.tasks.vqa import VisualQuestionAnswering

AGREEING = 3
"""Annotators out of ten whose agreement gives an answer the full score (Antol et al. 2015)."""


class AnswerScorer(Scorer):
    """Scores answers against the annotators' answers.

    Args:
        task: the task to score.
        context: the model and the split.
        metric: name of the score; "" takes the task's primary metric.
    """

    def __init__(self, task: Task[Any], context: Context, metric: str = "") -> None:
        super().__init__(context)
        self.task, self.outcome, self.metric = task, Outcome(), metric or task.primary_metric

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Answer every question of a part."""
        context, outcome = self.context, self.outcome
        asked = [(row, question) for row, example in enumerate(part) for question in example.questions]
        queries = queries_of([context.text(question.text) for _, question in asked], [row for row, _ in asked])
        if context.is_calibrating and queries and self.task.objective == "softmax":
            vqa = cast("VisualQuestionAnswering", self.task)
            logits = vqa.logits(context.model, context.codec, encoded, queries)
            predictions = vqa.ranked(context.codec, logits)
            outcome.answer_logits.append(logits.double().cpu().numpy())
            known = [context.codec.answer_index(question.answers[0]) for _, question in asked]
            outcome.answer_targets += [UNKNOWN if one is None else one for one in known]
        else:
            predictions = self.task.predict(context.model, context.codec, encoded, queries)
        hits = exact_matches([p.answer for p in predictions], [question.answers for _, question in asked])
        for (row, question), prediction, hit in zip(asked, predictions, hits, strict=True):
            right = vqa_score(prediction.answer, question.answers) if len(question.answers) >= AGREEING else float(hit)
            outcome.answered.append(Answered(start + row, question, prediction, right))

    def finish(self) -> Outcome:
        """Accuracy in total and by kind; in the view "seen" also calibration and the share of answered questions."""
        outcome, seed, name = self.outcome, self.context.seed, self.metric
        if not outcome.answered:
            return outcome
        right = np.array([one.right for one in outcome.answered])
        images = np.array([one.of for one in outcome.answered])
        kinds = [one.question.kind or "all" for one in outcome.answered]
        outcome.scores[name] = accuracy(right, images, seed)
        outcome.items[name] = Items(right, images)
        if len(set(kinds)) > 1:
            outcome.by_kind[name] = accuracy_by_kind(right, kinds, images, seed)
        usual = Counter(answer for one in outcome.answered for answer in dict.fromkeys(one.question.answers))
        outcome.baseline[name] = usual.most_common(1)[0][1] / len(outcome.answered)
        if self.context.view == "seen":
            outcome.add_confidences(name, [one.prediction for one in outcome.answered], right >= 0.5, images, seed)
            given = np.array([not one.prediction.evidence["abstains"] for one in outcome.answered])
            if not given.all():
                outcome.scores["answered_share"] = accuracy(given, images, seed)
                if given.any():
                    outcome.scores[f"{name}_when_answered"] = accuracy(right[given], images[given], seed)
        return outcome
