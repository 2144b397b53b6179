"""Scores of a language model with eyes: captions, answers, and the likelihood of what the data say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chiasm.core.types import Encoded, Example
from chiasm.metrics.intervals import bootstrap_mean
from chiasm.tasks.captioning import CaptionScorer
from chiasm.tasks.conversation_hallucination import HallucinationScorer, chair_outcome
from chiasm.tasks.language_kept import language_kept
from chiasm.tasks.scoring import Context, Items, Outcome, Scorer
from chiasm.tasks.vqa_scoring import AnswerScorer

if TYPE_CHECKING:
    from chiasm.tasks.conversation import Conversation

REPLY_PROBABILITY = "reply_token_probability"
"""Mean, over what the data let the assistant say, of the geometric mean probability of its tokens."""


class ConversationScorer(Scorer):
    """Captions against references, answers against the annotators', hallucination, likelihood of the references.

    Where one metric is wanted alone (`Context.wanted`) and it is the likelihood, nothing is written.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: "Conversation", context: Context) -> None:
        super().__init__(context)
        self.task, config = task, task.config
        is_brief = context.wanted == REPLY_PROBABILITY or not config.writes
        self.is_brief = is_brief
        self.captions: CaptionScorer | None = None
        self.others: list[Scorer] = []
        self.hallucination: HallucinationScorer | None = None
        if not is_brief:
            if any(example.captions for example in context.examples) and context.view != "no_text":
                self.captions = CaptionScorer(task, context)
            if any(example.questions for example in context.examples):
                self.others.append(AnswerScorer(task, context, "vqa_accuracy"))
            if config.pope_images and not context.wanted and not context.is_calibrating:
                self.hallucination = HallucinationScorer(task, context, config.pope_images)
        self.totals: list[float] = []
        self.counts: list[int] = []
        self.images: list[int] = []

    @property
    def scorers(self) -> list[Scorer]:
        """All that write."""
        return [one for one in (self.captions, *self.others, self.hallucination) if one is not None]

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Write replies for the examples of a part, and measure the likelihood of the replies that the data give."""
        for scorer in self.scorers:
            scorer.add(start, part, encoded)
        if self.context.view == "no_text":
            return
        context = self.context
        for row, tokens in self.task.reference_likelihoods(context.model, context.codec, encoded, part):
            self.totals.append(sum(tokens))
            self.counts.append(len(tokens))
            self.images.append(start + row)

    def finish(self) -> Outcome:
        """All scores; in the view "seen" also what adaptation has cost of the language."""
        context = self.context
        outcome = Outcome.joined([scorer.finish() for scorer in self.scorers])
        if self.hallucination is not None and self.hallucination.objects is not None and self.captions is not None:
            found = chair_outcome(self.captions.outcome.captioned, self.hallucination.objects, context.seed)
            outcome = Outcome.joined([outcome, found])
        if self.totals:
            values, images = np.exp(np.array(self.totals) / np.array(self.counts)), np.array(self.images)
            outcome.scores[REPLY_PROBABILITY] = bootstrap_mean(values, images, context.seed)
            outcome.items[REPLY_PROBABILITY] = Items(values, images)
        if context.view == "seen" and not context.is_calibrating:
            tokenizer, brief = context.codec.chat_tokenizer, self.is_brief or bool(context.wanted)
            outcome.scores |= language_kept(context.model, self.task.name, tokenizer, context.seed, brief)
        return outcome
