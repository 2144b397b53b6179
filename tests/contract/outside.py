"""A second sense and a task that needs both, as somebody outside the package would write them: one file.

A scene of one object comes with a range map of 3 x 3 cells that holds the object's distance, which the image does not
show. The task is to name distance and colour, such as "near red": the map says the one, and the image the other.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.resizing import Resizing
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction, TextTokens, Tokens
from chiasm.data.generated.base import AskingConfig
from chiasm.data.generated.scene_dataset import SceneDataset
from chiasm.data.generated.scenes import GRID, render
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.modalities import MODALITIES
from chiasm.data.modalities.base import Modality
from chiasm.data.opening import SOURCES, Source
from chiasm.metrics.classic import accuracy
from chiasm.models.encoders import IMAGE_ENCODERS
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig
from chiasm.models.heads import FusedClasses, HeadSpec
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.answer import answer_classification
from chiasm.tasks import TASKS
from chiasm.tasks.base import Query, Task, TaskConfig, Teacher
from chiasm.tasks.codec import Codec
from chiasm.tasks.scoring import Context, Items, Outcome, Scorer

RANGE = "range"
NAMES = "names"
FARTHEST_M = 9.0


@dataclass(frozen=True)
class RangeRef:
    """A range map that is drawn when it is needed: distances in metres, 0 without an echo."""

    cells_m: tuple[float, ...]


class RangeMaps(Modality):
    """Range maps float32 [3, 3], in metres; 0 without an echo."""

    name: ClassVar[str] = "range_map"

    def refer(self, path: Path) -> RangeRef:
        """Nine numbers in a text file."""
        return RangeRef(tuple(float(word) for word in path.read_text().split()))

    def decode(self, reference: RangeRef) -> np.ndarray:
        """The map.

        Raises:
            InputError: a distance below 0 or beyond the sensor's reach.
        """
        cells = np.array(reference.cells_m, dtype=np.float32)
        if cells.size != GRID * GRID or cells.min() < 0 or cells.max() > FARTHEST_M:
            raise InputError(f"a range map {cells.tolist()}", f"nine distances of 0 to {FARTHEST_M} m", "drop it")
        return cells.reshape(GRID, GRID)

    def prepare(self, decoded: np.ndarray, resizing: Resizing) -> np.ndarray:
        """A map has one size."""
        return decoded

    def show(self, reference: RangeRef) -> np.ndarray:
        """Near is bright."""
        near = np.where(self.decode(reference) > 0, 1 - self.decode(reference) / FARTHEST_M, 0)
        return np.repeat((255 * near).astype(np.uint8)[..., None], 3, axis=2)


class RangeEncoder(nn.Module):
    """One token a cell: its distance through an MLP, and a learned place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Sequential(nn.Linear(2, dim), nn.GELU(), nn.Linear(dim, dim))
        self.place = nn.Parameter(torch.randn(GRID * GRID, dim) * 0.1)

    def forward(self, cells_m: Tensor) -> Tokens:
        """Float [k, 3, 3] -> Tokens of 9."""
        flat = cells_m.flatten(1)[..., None]
        values = self.project(torch.cat([flat / FARTHEST_M, (flat > 0).to(flat.dtype)], dim=2)) + self.place
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device), values.mean(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeConfig(ImageTowerConfig):
    """The encoder's keys."""

    kind: Literal["range_cells"] = "range_cells"
    modality: ClassVar[str] = RangeMaps.name
    from_scratch: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """The encoder, as wide as the model."""
        return RangeEncoder(shape.dim)


@dataclass(frozen=True, kw_only=True, slots=True)
class RangedConfig(AskingConfig):
    """Keys of scenes with range maps."""

    source: Literal["ranged_scenes"] = "ranged_scenes"


class RangedScenes(SceneDataset):
    """Scenes of one object with a range map; the label says how far it is, and its colour."""

    def example(self, index: int, epoch: int = 0) -> Example:
        """Scene `index`, of which the first object is left; its distance is drawn by its number."""
        found = super().example(index, epoch)
        shown = found.truth.scene[0]
        distance_m = random.Random(counter_seed("range", self.split, index)).randint(1, int(FARTHEST_M) - 1)
        cells_m = [0.0] * (GRID * GRID)
        cells_m[shown.row * GRID + shown.column] = float(distance_m)
        inputs = {IMAGE: image_ref_from_array(render((shown,))), RANGE: RangeRef(tuple(cells_m))}
        label = f"{'near' if distance_m < FARTHEST_M / 2 else 'far'} {shown.color}"
        return replace(found, inputs=inputs, label=label, captions=(), questions=(), truth=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RangedColorConfig(TaskConfig):
    """The task's own keys."""

    label_smoothing: float = 0.0


class RangedColor(Task[RangedColorConfig]):
    """Name distance and colour of an object, from an image and a range map."""

    name: ClassVar[str] = "ranged_color"
    primary_metric: ClassVar[str] = "ranged_color_accuracy"
    Config: ClassVar[type[TaskConfig]] = RangedColorConfig
    needs: ClassVar[Literal["captions", "questions", "labels"]] = "labels"
    reads_text: ClassVar[bool] = False
    vocabularies: ClassVar[Mapping[str, str]] = {NAMES: "2."}
    inputs: ClassVar[tuple[str, ...]] = (IMAGE, RANGE)

    def vocabulary(self, examples: Sequence[Example], stated: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """The names of the training examples."""
        return {NAMES: tuple(sorted({str(one.label) for one in examples if one.label}))}

    def head(self, codec: Codec) -> HeadSpec:
        """Logits over the names, from what fusion makes of both senses."""
        return FusedClasses(len(codec.vocabularies[NAMES]))

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """None."""
        return []

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`color` int64 [k] and `image_index` int64 [k]; `start_ids` int64 [1, 1], the text that asks."""
        known = codec.vocabularies[NAMES]
        rows = [(row, known.index(str(one.label))) for row, one in enumerate(examples) if one.label in known]
        return {
            "color": torch.tensor([color for _, color in rows], dtype=torch.long),
            "image_index": torch.tensor([row for row, _ in rows], dtype=torch.long),
            "start_ids": torch.tensor([[codec.tokenizer.start_id]]),
        }

    def count(self, batch: Batch) -> int:
        """Examples with a known name."""
        return len(batch.by_task[self.name]["color"])

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        fields = batch.by_task[self.name]
        logits = self.color_logits(model, encoded, fields["start_ids"], fields["image_index"])
        return answer_classification(logits, fields["color"], self.config.label_smoothing)

    def color_logits(self, model: VisionLanguageModel, encoded: Encoded, start_ids: Tensor, rows: Tensor) -> Tensor:
        """Logits float32 [m, c] of some rows."""
        asked = TextTokens(start_ids, torch.ones_like(start_ids, dtype=torch.bool))
        return model.logits(self.name, model.ask(encoded, asked, torch.zeros_like(rows), rows).pooled)

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """The name for each query's row."""
        if not queries:
            return []
        device, known = encoded[IMAGE].pooled.device, codec.vocabularies[NAMES]
        start_ids = torch.tensor([[codec.tokenizer.start_id]], device=device)
        rows = torch.tensor([one.row for one in queries], device=device)
        shares = self.color_logits(model, encoded, start_ids, rows).softmax(-1)
        best = shares.max(-1)
        return [
            Prediction(known[place], share)
            for place, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def scorer(self, context: Context) -> Scorer:
        """Accuracy."""
        return RangedColorScorer(self, context)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The name for the stored example, whose range map is absent."""
        (named,) = self.predict(model, codec, encoded, [Query(0)])
        return {"ranged_color": named.answer}


class RangedColorScorer(Scorer):
    """Scores the names."""

    def __init__(self, task: RangedColor, context: Context) -> None:
        super().__init__(context)
        self.task = task
        self.right: list[tuple[int, float]] = []

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Name the examples of a part."""
        queries = [Query(row) for row in range(len(part))]
        found = self.task.predict(self.context.model, self.context.codec, encoded, queries)
        self.right += [
            (start + row, float(one.answer == part[row].label)) for row, one in enumerate(found) if part[row].label
        ]

    def finish(self) -> Outcome:
        """Accuracy with its interval."""
        values, of = np.array([right for _, right in self.right]), np.array([row for row, _ in self.right])
        name = self.task.primary_metric
        score = accuracy(values, of, self.context.seed)
        return Outcome(scores={name: score}, items={name: Items(values, of)})


@contextmanager
def added() -> Iterator[None]:
    """Within the block the tables have the new modality, encoder, source and task: one line each."""
    MODALITIES[RangeMaps.name] = RangeMaps()
    IMAGE_ENCODERS["range_cells"] = RangeConfig
    SOURCES["ranged_scenes"] = Source(RangedConfig, RangedScenes)
    TASKS[RangedColor.name] = RangedColor
    try:
        yield
    finally:
        del MODALITIES[RangeMaps.name], IMAGE_ENCODERS["range_cells"], SOURCES["ranged_scenes"]
        del TASKS[RangedColor.name]
