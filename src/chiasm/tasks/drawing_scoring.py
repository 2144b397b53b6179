"""Scores of drawing: how likely the prior finds real images after their captions, and what it draws for captions.

A drawn image is judged only where the data bring a judge: the `truth` of a generated example that is `Depictable`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chiasm.core.random import counter_rng
from chiasm.core.types import IMAGE, Caption, Depictable, Encoded, Example
from chiasm.data.dataset import evenly_spread
from chiasm.metrics.classic import accuracy, accuracy_by_kind
from chiasm.metrics.intervals import bootstrap_mean
from chiasm.tasks.drawing_requests import DrawRequest, image_tokenizer
from chiasm.tasks.scoring import Context, Drawn, Items, Outcome, Scorer

if TYPE_CHECKING:
    from chiasm.tasks.drawing import Drawing

TOKEN_PROBABILITY = "image_token_probability"  # noqa: S105  no password
"""Mean over captions of the geometric mean probability of their image's tokens, teacher-forced."""
TOKEN_ACCURACY = "image_token_accuracy"  # noqa: S105
"""Share of image tokens that are the likeliest after their caption and the true tokens before them."""
ALL_TOKENS = "image_tokens_exact"
"""Share of captions whose image has every token as the likeliest: what drawing the likeliest tokens, without guidance,
would give exactly, since each true token is then what the next one sees."""
TOKEN_NATS = "image_token_nats"  # noqa: S105
"""Negative log-likelihood an image token; ln K without any knowledge. Its rise with the captions shuffled is what a
caption tells of a token."""
WHOLE_TRUE, OBJECTS_IOU = "whole_image_true", "objects_iou"
"""Share of drawn images that show exactly what the truth says, and their mean overlap: objects that both have over
objects that either has."""
JUDGED = (WHOLE_TRUE, OBJECTS_IOU)
SHOWN = 16
"""Images that are drawn for the report alone."""


class DrawingScorer(Scorer):
    """Likelihood of every image after a caption of each language, and judged drawings of some captions.

    In the view "shuffled" images stand beside others' captions: their likelihood is that after a wrong caption, and the
    caption that is drawn is that of another example than the one whose truth judges. "no_text" has the empty caption.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: "Drawing", context: Context) -> None:
        super().__init__(context)
        self.task, self.outcome = task, Outcome()
        self.nats: list[float] = []
        self.right: list[float] = []
        self.exact: list[bool] = []
        self.images: list[int] = []
        self.captions = self._captions_to_draw()

    def _captions_to_draw(self) -> dict[int, Caption]:
        """Place of an example -> the caption that is drawn and judged by its truth; {} where none is drawn."""
        context, examples = self.context, self.context.examples
        wanted = not context.wanted or context.wanted in JUDGED
        if not wanted or context.view == "no_text":
            return {}
        is_judged = bool(len(examples)) and isinstance(examples[0].truth, Depictable)
        if not is_judged and context.view != "seen":
            return {}
        count = self.task.config.images_drawn if is_judged else min(SHOWN, self.task.config.images_drawn)
        places = [place for place in evenly_spread(len(examples), count) if examples[place].captions]
        captions = [examples[place].captions for place in places]
        chosen = [some[number % len(some)] for number, some in enumerate(captions)]
        if context.view == "shuffled":
            cycle = counter_rng("captions drawn", context.seed).permutation(len(chosen))
            order = np.empty(len(chosen), dtype=np.int64)
            order[cycle] = np.roll(cycle, 1)
            chosen = [chosen[int(number)] for number in order]
        return dict(zip(places, chosen, strict=True))

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Read the images of a part after their captions, and draw some of the captions."""
        context, task = self.context, self.task
        ids = task.ids_of(context.model, encoded[IMAGE])
        rows, texts = [], []
        for row, example in enumerate(part):
            by_language = {caption.language: caption.text for caption in reversed(example.captions)}
            texts += [context.text(text) for text in by_language.values()]
            rows += [row] * len(by_language)
        if rows:
            chosen, is_right = task.token_log_probabilities(context.model, context.codec, ids[rows], texts)
            self.nats += (-chosen.double().mean(1)).tolist()
            self.right += is_right.double().mean(1).tolist()
            self.exact += is_right.all(1).tolist()
            self.images += [start + row for row in rows]
        asked = {place: self.captions[place] for place in range(start, start + len(part)) if place in self.captions}
        requests = [DrawRequest(caption.text) for caption in asked.values()]
        made = task.draw(context.model, context.codec, requests)
        for (place, caption), prediction in zip(asked.items(), made, strict=True):
            truth = part[place - start].truth
            assert prediction.image is not None, "a drawing"
            overlap = truth.overlap(prediction.image) if isinstance(truth, Depictable) else None
            self.outcome.drawn.append(Drawn(place, caption, prediction, overlap))

    def finish(self) -> Outcome:
        """All scores."""
        outcome, seed = self.outcome, self.context.seed
        if self.nats:
            images, nats = np.array(self.images), np.array(self.nats)
            blind = float(np.mean(np.log(image_tokenizer(self.context.model).part_codes)))
            measured = {TOKEN_PROBABILITY: np.exp(-nats), TOKEN_ACCURACY: np.array(self.right), TOKEN_NATS: nats}
            for name, values in measured.items():
                outcome.scores[name] = bootstrap_mean(values, images, seed)
                outcome.items[name] = Items(values, images)
            exact = np.array(self.exact, dtype=np.float64)
            outcome.scores[ALL_TOKENS] = accuracy(exact, images, seed)
            outcome.items[ALL_TOKENS] = Items(exact, images)
            outcome.baseline |= {TOKEN_PROBABILITY: math.exp(-blind), TOKEN_NATS: blind}
        judged = [(one, one.overlap) for one in outcome.drawn if one.overlap is not None]
        if judged:
            places = np.array([one.of for one, _ in judged])
            whole = np.array([shared == either for _, (shared, either) in judged], dtype=np.float64)
            shares = np.array([shared / max(either, 1) for _, (shared, either) in judged])
            outcome.scores |= {
                WHOLE_TRUE: accuracy(whole, places, seed),
                OBJECTS_IOU: bootstrap_mean(shares, places, seed),
            }
            outcome.items |= {WHOLE_TRUE: Items(whole, places), OBJECTS_IOU: Items(shares, places)}
            languages = [one.caption.language for one, _ in judged]
            if len(set(languages)) > 1:
                outcome.by_kind[WHOLE_TRUE] = accuracy_by_kind(whole, languages, places, seed)
        return outcome
