"""Tasks whose loss compares the images of a step with its texts: first embed, then compare.

The two halves let a step in parts (`train.accumulate`) compare the rows of all parts, see `train.gradient_cache`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from chiasm.core.types import Batch, Encoded
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.base import Teacher
from chiasm.tasks.texts import CaptionConfig, CaptionTask


class ContrastRows(NamedTuple):
    """The rows of n images and m texts that a contrast compares.

    Attributes:
        vectors: embeddings that get a gradient, float [n, e] or [m, e]; by name, "image" and "text" among them.
        facts: what they are compared by, without gradient, a row each: "group" int64 [n], what each image shows;
            "image_index" int64 [m], the image of each text, in [0, n); and whatever else the task needs.
    """

    vectors: Mapping[str, Tensor]
    facts: Mapping[str, Tensor]

    @staticmethod
    def joined(parts: Sequence["ContrastRows"]) -> "ContrastRows":
        """The rows of one or more parts, one after the other; an `image_index` counts on from part to part."""
        vectors = {name: torch.cat([part.vectors[name] for part in parts]) for name in parts[0].vectors}
        facts = {name: torch.cat([part.facts[name] for part in parts]) for name in parts[0].facts}
        before = 0
        shifted = []
        for part in parts:
            shifted.append(part.facts["image_index"] + before)
            before += len(part.facts["group"])
        return ContrastRows(vectors, {**facts, "image_index": torch.cat(shifted)})


T = TypeVar("T", bound=CaptionConfig)


class ContrastTask(CaptionTask[T]):
    """A task on captions whose loss is `compare` of what `embed` returns."""

    @abstractmethod
    def embed(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> ContrastRows:
        """Embed the images and texts of a batch.

        Every row is embedded by itself, up to dropout: it does not depend on the other rows. With `teacher` None the
        facts may lack what the teacher knows; the vectors are the same.
        """

    @abstractmethod
    def compare(self, model: VisionLanguageModel, rows: ContrastRows) -> dict[str, Tensor]:
        """Return the named loss terms, with the total under "loss", of rows of one or more parts.

        In several processes, the rows are compared with those of all of them. Parameters that the comparison uses, such
        as the temperature, get their gradient here. Nothing is drawn.
        """

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """See `Task._terms`."""
        return self.compare(model, self.embed(model, encoded, batch, teacher))
