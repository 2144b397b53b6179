"""POPE and CHAIR of a language model with eyes, from the objects that the data themselves name.

POPE (Li et al. 2023): questions after objects that are in an image and after others that are not, answered by comparing
log p(yes) with log p(no), so that no full stop decides. CHAIR (Rohrbach et al. 2018): objects that captions name
although no annotation of the image does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chiasm.core.errors import InputError
from chiasm.core.types import Encoded, Example
from chiasm.data.dataset import evenly_spread
from chiasm.data.object_questions import object_question
from chiasm.data.objects import FoundObjects, found_objects
from chiasm.metrics.chair import chair_scores
from chiasm.metrics.likelihood import yes_or_no
from chiasm.metrics.pope import pope_questions, pope_scores
from chiasm.tasks.base import Query
from chiasm.tasks.scoring import Captioned, Context, Outcome, Scorer

if TYPE_CHECKING:
    from chiasm.tasks.conversation import Conversation


class HallucinationScorer(Scorer):
    """POPE on some images of the split.

    Args:
        task: the task to score.
        context: the model and the split.
        images: number of images that are asked about, evenly spread over the split.
    """

    def __init__(self, task: "Conversation", context: Context, images: int) -> None:
        super().__init__(context)
        self.task, self.objects = task, objects_of(context)
        self.by_image: dict[int, list[int]] = {}
        self.said: dict[int, bool] = {}
        if self.objects is None:
            return
        self.items = pope_questions(self.objects.by_image, seed=context.seed, groups=self.objects.vocabulary.groups)
        chosen = set(evenly_spread(len(context.examples), images))
        for number, item in enumerate(self.items):
            if item.image in chosen:
                self.by_image.setdefault(item.image, []).append(number)

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Ask about the chosen images of a part; a question that stands in several settings is asked once."""
        if self.objects is None:
            return
        context, language = self.context, self.objects.language
        asked: dict[tuple[int, str], list[int]] = {}
        for row in range(len(part)):
            for number in self.by_image.get(start + row, []):
                asked.setdefault((row, self.items[number].object), []).append(number)
        queries = [Query(row, context.text(object_question(name, language)), language) for row, name in asked]
        pairs = self.task.yes_no(context.model, context.codec, encoded, queries)
        if not pairs:
            return
        says_yes, _ = yes_or_no([yes for yes, _ in pairs], [no for _, no in pairs])
        for numbers, answer in zip(asked.values(), says_yes.tolist(), strict=True):
            self.said |= dict.fromkeys(numbers, answer)

    def finish(self) -> Outcome:
        """The scores of POPE."""
        outcome = Outcome()
        if self.said:
            items = [self.items[number] for number in sorted(self.said)]
            said = [self.said[number] for number in sorted(self.said)]
            settings, images = [one.setting for one in items], [one.image for one in items]
            truth = [one.is_yes for one in items]
            scores = pope_scores(said, truth, settings, images, self.context.seed)
            outcome.scores |= {name: score for name, score in scores.items() if score.n}
        return outcome


def objects_of(context: Context) -> FoundObjects | None:
    """The objects of a split's images; None where the data name none that can be read."""
    language = next((name for name in context.languages if name in ("en", "zh")), None)
    try:
        return found_objects(context.examples, language)
    except InputError:
        return None


def chair_outcome(captions: Sequence[Captioned], objects: FoundObjects, seed: int) -> Outcome:
    """The scores of CHAIR of captions in the objects' language."""
    own = [one for one in captions if str(one.prediction.evidence["language"]) == objects.language]
    outcome = Outcome()
    if own:
        texts, images = [one.prediction.answer for one in own], [one.of for one in own]
        scores = chair_scores(texts, objects.by_image, objects.vocabulary, images, seed)
        outcome.scores |= {name: score for name, score in scores.items() if score.n}
    return outcome
