"""What of a pipeline is one pass from pixels and token ids to numbers, as modules that can be traced.

Pixels come in as Pillow gives them, uint8 [n, h, w, 3]; their normalisation is part of the graph, so that nobody who
serves it can forget it. Loops that write a text or draw an image are no such pass, and are left out with the reason.

Axis legend: n images, m texts, l tokens, h/w height and width in pixels, e width of the shared space, c classes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, TextTokens
from chiasm.models.batch_invariant import BatchInvariantLinear
from chiasm.models.fusion.base import FusionInputs
from chiasm.models.heads import FusedClasses, PooledClasses
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.space import SharedSpace

PIXELS, IDS, MASK = "pixels", "input_ids", "attention_mask"
"""Inputs: uint8 [n, h, w, 3]; int64 [m, l]; int64 [m, l], 1 at real tokens and 0 at padding."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One module to trace.

    Attributes:
        module: inputs in the order of `inputs` -> one tensor.
        inputs: names, of `PIXELS`, `IDS` and `MASK`.
        output: name of the result.
        task: the task that it belongs to.
        names: what the columns of the result stand for; () for a vector.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    output: str
    task: str
    names: tuple[str, ...] = ()


class ImageEmbeds(nn.Module):
    """`PIXELS` -> unit vectors float32 [n, e]."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """As `SharedSpace.embed_images`."""
        return self.model.embed_image(self.model.encode_image(in_model_range(pixels))).float()


class TextEmbeds(nn.Module):
    """`IDS`, `MASK` -> unit vectors float32 [m, e]."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `SharedSpace.embed_texts`."""
        text = self.model.encode_text(TextTokens(input_ids, attention_mask.bool()))
        return self.model.embed_text(text.pooled).float()


class ImageLogits(nn.Module):
    """`PIXELS` -> logits float32 [n, c] of the head of a task."""

    def __init__(self, model: VisionLanguageModel, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, pixels: Tensor) -> Tensor:
        """As `VisionLanguageModel.logits` of the image tower's vector."""
        return self.model.logits(self.task, self.model.encode_image(in_model_range(pixels)).pooled)


class FusedLogits(nn.Module):
    """`PIXELS` of n images, `IDS` and `MASK` of a text about each -> logits float32 [n, c] of the head of a task."""

    def __init__(self, model: VisionLanguageModel, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `VisionLanguageModel.ask`, where no row lacks an input; looking for such rows is no static graph."""
        model = self.model
        assert model.fusion is not None, "a head that reads what fusion returns"
        image = model.fusion_image(model.encode_image(in_model_range(pixels)))
        text = model.fusion_text(model.encode_text(TextTokens(input_ids, attention_mask.bool())))
        fused = model.fusion.fuse(FusionInputs(text, {IMAGE: image}, None, None))
        return model.logits(self.task, fused.pooled)


def in_model_range(pixels: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in [-1, 1], as `batching.to_model_range`."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def graphs_of(pipeline: Pipeline) -> tuple[dict[str, Graph], dict[str, str]]:
    """File name without its ending -> graph, and task -> why nothing of it is a graph.

    Raises:
        InputError: no task of the pipeline is one pass, or its inputs are not images of one size.
    """
    _check_inputs(pipeline)
    model, codec = pipeline.model, pipeline.codec
    found: dict[str, Graph] = {}
    left_out: dict[str, str] = {}
    for name, task in pipeline.tasks.items():
        head = task.head(codec)
        if isinstance(task, SharedSpace):
            found["image"] = Graph(ImageEmbeds(model), (PIXELS,), "image_embeds", name)
            found["text"] = Graph(TextEmbeds(model), (IDS, MASK), "text_embeds", name)
        elif isinstance(head, PooledClasses):
            found[name] = Graph(ImageLogits(model, name), (PIXELS,), "logits", name, _names(pipeline, name))
        elif isinstance(head, FusedClasses) and model.fusion is not None:
            inputs = (PIXELS, IDS, MASK)
            found[name] = Graph(FusedLogits(model, name), inputs, "logits", name, _names(pipeline, name))
        else:
            left_out[name] = "its answer takes many passes through the network, and a graph is one"
    if not found:
        raise InputError(
            f"a run with the task {', '.join(left_out) or '(none)'}: it writes or draws step by step",
            "a task that is one pass: a shared space, classes, or answers from a vocabulary",
            "serve it by `chiasm serve`; or `chiasm export ... --to hugging_face`, where its network has that layout",
        )
    return found, left_out


@contextmanager
def traceable(model: VisionLanguageModel) -> Iterator[None]:
    """Within the block, linear layers do not look at the number of rows (`models.batch_invariant`)."""
    changed: list[nn.Module] = [module for module in model.modules() if type(module) is BatchInvariantLinear]
    for module in changed:
        module.__class__ = nn.Linear
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = BatchInvariantLinear


def example_inputs(pipeline: Pipeline, texts: TextTokens, rows: int) -> Mapping[str, Tensor]:
    """Inputs to trace with: random pixels of n `rows`, and the first `rows` texts."""
    height, width = pipeline.resizing.size_px
    drawn = torch.Generator().manual_seed(rows)
    pixels = torch.randint(0, 256, (rows, height, width, 3), dtype=torch.uint8, generator=drawn)
    return {PIXELS: pixels, IDS: texts.ids[:rows], MASK: texts.is_real[:rows].long()}


def _names(pipeline: Pipeline, task: str) -> tuple[str, ...]:
    listed: Any = pipeline.tasks[task].vocabularies
    return pipeline.codec.vocabularies[next(iter(listed))] if listed else ()


def _check_inputs(pipeline: Pipeline) -> None:
    further, method = list(pipeline.config.model.inputs), pipeline.resizing.method
    if further:
        raise InputError(
            f"a run with the input {further[0]!r} beside the image", "images and texts alone", "chiasm serve"
        )
    if method not in ("squeeze", "cover", "shortest"):
        raise InputError(
            "a network that takes images of many shapes", "one whose images all have one size", "chiasm serve"
        )
