"""Prefixes of the vectors in the retrieval task: the loss, and what is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks import build_tasks
from chiasm.tasks.contrast import ContrastRows
from chiasm.tasks.retrieval import Retrieval, RetrievalConfig


def retrieval(pipeline: Pipeline, **keys: object) -> Retrieval:
    config = {"retrieval": RetrievalConfig(**keys)}  # type: ignore[arg-type]
    task = build_tasks(config, pipeline.config.model)["retrieval"]
    assert isinstance(task, Retrieval)
    task.check()
    return task


def rows_of(task: Retrieval, pipeline: Pipeline, examples: list[Example]) -> ContrastRows:
    batch = make_batch(examples, {"retrieval": task}, pipeline.codec, pipeline.config, 0)
    inputs = {name: to_model_range(value, torch.float32) for name, value in batch.inputs.items()}
    return task.embed(pipeline.model, pipeline.model.encode(inputs), batch, None)


@pytest.mark.parametrize("keys", [{}, {"hard_negatives": 0.9}, {"objective": "additive"}])
def test_the_loss_is_the_mean_over_prefixes(
    keys: dict[str, object], pipeline: Pipeline, examples: list[Example]
) -> None:
    """Guards against prefixes that are compared by their unscaled products, or hard negatives that stay whole."""
    plain, cut = retrieval(pipeline, **keys), retrieval(pipeline, matryoshka=(2, 5), **keys)
    rows = rows_of(plain, pipeline, examples)
    losses = []
    for width in (2, 5, pipeline.config.model.embedding_dim):
        vectors = {name: F.normalize(one[:, :width], dim=1) for name, one in rows.vectors.items()}
        losses.append(plain.compare(pipeline.model, rows._replace(vectors=vectors))["loss"])
    found = cut.compare(pipeline.model, rows)
    assert torch.allclose(found["loss"], torch.stack(losses).mean(), atol=1e-6)
    assert not torch.allclose(found["loss"], losses[-1], atol=1e-4)
    assert found.keys() == plain.compare(pipeline.model, rows).keys()


@pytest.mark.parametrize("widths", [(0, 4), (8,), (300,)])
def test_widths_beyond_the_vectors_are_refused(widths: tuple[int, ...], pipeline: Pipeline) -> None:
    """Guards against a prefix that is empty, or the whole vector counted twice."""
    with pytest.raises(InputError, match=r"widths from 1 to 7"):
        retrieval(pipeline, matryoshka=widths)


def test_prefixes_beside_the_classes_are_refused(pipeline: Pipeline) -> None:
    """Guards against short vectors that are ImageNet's classes, which no training has put first."""
    model = pipeline.config.model
    beside = replace(model, image=replace(model.image, projection="classes"))
    task = build_tasks({"retrieval": RetrievalConfig(matryoshka=(4,))}, beside)["retrieval"]
    with pytest.raises(InputError, match="init_from="):
        task.check()
