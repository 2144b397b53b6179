"""The gate: a compressed model beside the model that it came from, on the user's own data, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from chiasm.compress.peak_memory import peak_memory_bytes
from chiasm.compress.timed_requests import BATCHES, Requests, timed
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Example
from chiasm.data.dataset import texts_of
from chiasm.data.modalities.image import images_of
from chiasm.evaluate.comparison import item_difference
from chiasm.evaluate.evaluator import evaluate
from chiasm.metrics.paired import PairedResult
from chiasm.models.packing import FILE
from chiasm.pipeline.pipeline import Pipeline
from chiasm.report.compression import Variant
from chiasm.tasks.scoring import Outcome

COMPARED = 64
"""Images, and as many texts, whose vectors are compared."""
AS_IT_WAS = "as it was"
POINT = 0.01
"""What one point of a metric is: a percent of a share, a hundredth of any other number, such as CIDEr."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An opened run, with the split as it was prepared for it (`evaluate.measure.open_prepared`).

    Attributes:
        name: of the variant; `AS_IT_WAS` for the run itself.
        pipeline: as it was opened from `folder`.
        folder: where it lies.
        examples: the split.
    """

    name: str
    pipeline: Pipeline
    folder: Path
    examples: Sequence[Example]


def judge(original: Candidate, variants: Sequence[Candidate], max_loss: float) -> list[Variant]:
    """Measure a run and its variants on one split; the run as it was comes first.

    Scores are compared item by item. Times are of interleaved rounds; each peak memory is that of a process of its own.

    Args:
        original: the run as it was.
        variants: what was made of it.
        max_loss: points of the primary metric that a variant may lose; more is a `refusal`.

    Raises:
        InputError: the split has no items of the primary metric, or no image.
    """
    every = [original, *variants]
    metric = primary_metric(original.pipeline)
    outcomes = [_outcome(one, metric) for one in every]
    requests = {count: Requests(original.pipeline, original.examples, count) for count in BATCHES}
    times = {count: timed([one.pipeline for one in every], asked) for count, asked in requests.items()}
    vectors = [vectors_of(one.pipeline, original.examples) for one in every]
    found = []
    for number, (one, outcome) in enumerate(zip(every, outcomes, strict=True)):
        difference = None
        if number:
            seed = original.pipeline.config.seed
            difference = item_difference(metric, outcome.items[metric], outcomes[0].items[metric], seed)
        stored, whole = sizes(one.pipeline, one.folder)
        measured = Variant(
            name=one.name,
            score=outcome.scores[metric],
            difference=difference,
            cosine=cosines(vectors[0], vectors[number]),
            folder_bytes=stored,
            whole_bytes=whole,
            latency_s={count: own[number] for count, own in times.items()},
            memory_bytes=peak_memory_bytes(one.folder),
            refusal="" if difference is None else refusal(one.name, metric, difference, max_loss),
        )
        found.append(measured)
    return found


def primary_metric(pipeline: Pipeline) -> str:
    """The metric that the run was selected by."""
    return pipeline.config.primary_metric or next(iter(pipeline.tasks.values())).primary_metric


def _outcome(candidate: Candidate, metric: str) -> Outcome:
    found = evaluate(candidate.pipeline, candidate.examples)
    if metric not in found.items:
        raise InputError(
            f"the split has no items of {metric}",
            "data with what the run's primary metric is measured on; it has "
            + (", ".join(found.items) or "nothing that the run's tasks can be scored on"),
            "give other --data or another --split",
        )
    return found


def refusal(name: str, metric: str, difference: PairedResult, max_loss: float) -> str:
    """Why a variant is refused; "" where it loses at most `max_loss` points.

    The loss is compared, not its interval's end: on a small split no variant would pass. `unsure` tells that.
    """
    loss = -difference.difference / POINT
    if loss <= max_loss:
        return ""
    return (
        f"{name} loses {loss:.2f} points of {metric} (95 % interval {-difference.high / POINT:.2f} to "
        f"{-difference.low / POINT:.2f}, n {difference.n:,}), and --max-loss is {max_loss:g}"
    )


def unsure(variant: Variant, max_loss: float) -> str:
    """A remark on a variant that passed, where the split is too small to exclude a larger loss; else ""."""
    assert variant.difference is not None, "a variant has a difference"
    worst = -variant.difference.low / POINT
    if variant.refusal or worst <= max_loss:
        return ""
    return (
        f"{variant.name}: a loss of up to {worst:.2f} points lies within the 95 % interval; "
        f"{variant.difference.n:,} items cannot exclude it, more data can"
    )


def sizes(pipeline: Pipeline, folder: Path) -> tuple[int, int]:
    """Bytes of the weights in a run folder, and with those that an installed package brings."""
    state, saved = pipeline.model.state_dict(), set(pipeline.saved_names())
    own = {state[name].data_ptr() for name in saved}
    packaged = {
        tensor.data_ptr(): tensor.numel() * tensor.element_size()
        for name, tensor in state.items()
        if name not in saved and tensor.data_ptr() not in own
    }
    files = [folder / FILE] if (folder / FILE).is_file() else folder.glob("*.safetensors")
    stored = sum(path.stat().st_size for path in files)
    return stored, stored + sum(packaged.values())


@torch.no_grad()
def vectors_of(pipeline: Pipeline, examples: Sequence[Example]) -> list[npt.NDArray[np.float64]]:
    """Vectors of the first images and texts, float64 [k, d] each, without a cache.

    Of the shared space where the run has one, else the towers' pooled outputs.
    """
    images = [images_of(example)[0] for example in examples if images_of(example)][:COMPARED]
    texts = list(dict.fromkeys(text for example in examples[:COMPARED] for text in texts_of([example])))[:COMPARED]
    found, space = [], pipeline.space
    if images:
        encoded = pipeline.encode_images(images)
        own = encoded.pooled if space is None else space.embed_images(pipeline.model, {IMAGE: encoded})
        found.append(_as_rows(own))
    if texts:
        codec = replace(pipeline.codec, text_vectors={})
        own = pipeline.encode_texts(texts) if space is None else space.embed_texts(pipeline.model, codec, texts)
        found.append(_as_rows(own))
    return found


def cosines(first: Sequence[npt.NDArray[np.float64]], second: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Mean and least cosine of the rows of two lists of matrices; 1 for rows of zeros in both."""
    found = []
    for one, other in zip(first, second, strict=True):
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        products = (one * other).sum(1)
        found.append(np.where(lengths > 0, products / np.maximum(lengths, 1e-30), 1.0 * (one == other).all(1)))
    every = np.concatenate(found)
    return float(every.mean()), float(every.min())


def _as_rows(values: torch.Tensor | npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows = values.float().cpu().numpy() if isinstance(values, torch.Tensor) else values
    return rows.astype(np.float64)
