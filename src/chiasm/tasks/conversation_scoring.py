"""Scores of a language model with eyes: captions, answers, and the likelihood of what the data say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Encoded, Example, Score
from chiasm.metrics.paired import corpus_interval
from chiasm.tasks.captioning import CaptionScorer
from chiasm.tasks.scoring import Context, Items, Outcome, Scorer
from chiasm.tasks.vqa_scoring import AnswerScorer

if TYPE_CHECKING:
    from chiasm.tasks.conversation import Conversation

REPLY_PROBABILITY = "reply_token_probability"
"""Geometric mean probability of the tokens that the data let the assistant say."""


class ConversationScorer(Scorer):
    """Captions against references, answers against the annotators', and the likelihood of both.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: "Conversation", context: Context) -> None:
        super().__init__(context)
        self.task = task
        self.writers: list[Scorer] = []
        if task.config.writes and any(example.captions for example in context.examples) and context.view != "no_text":
            self.writers.append(CaptionScorer(task, context))
        if task.config.writes and any(example.questions for example in context.examples):
            self.writers.append(AnswerScorer(task, context, "vqa_accuracy"))
        self.totals: list[float] = []
        self.counts: list[int] = []
        self.images: list[int] = []

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Write about the examples of a part, and read what the data say about them."""
        for writer in self.writers:
            writer.add(start, part, encoded)
        if self.context.view == "no_text":
            return
        context = self.context
        for row, tokens in self.task.reference_likelihoods(context.model, context.codec, encoded, part):
            self.totals.append(sum(tokens))
            self.counts.append(len(tokens))
            self.images.append(start + row)

    def finish(self) -> Outcome:
        """Scores of captions and answers, and the mean probability of a token of the references."""
        outcome = Outcome.joined([writer.finish() for writer in self.writers])
        if self.totals:
            totals, counts, images = np.array(self.totals), np.array(self.counts), np.array(self.images)
            outcome.scores[REPLY_PROBABILITY] = _token_probability(totals, counts, images, self.context.seed)
            outcome.items[REPLY_PROBABILITY] = Items(totals / counts, images)
        return outcome


def _token_probability(
    totals: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], images: npt.NDArray[np.int64], seed: int
) -> Score:
    """exp(sum of log-probabilities / number of tokens) of n texts, with an interval that draws images."""

    def score(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.exp(sums[..., 0] / sums[..., 1])

    rows = np.stack([totals, counts.astype(np.float64)], axis=1)
    low, high = corpus_interval(rows, score, images, seed)
    return Score(float(score(rows.sum(0))), float(low), float(high), len(rows))
