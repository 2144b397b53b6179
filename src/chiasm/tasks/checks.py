"""What every task must hold: run by our own tests over each, and by anybody over theirs."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chiasm.core.types import Batch, Example
from chiasm.tasks.base import Task
from chiasm.tasks.batching import make_batch, to_model_range
from chiasm.tasks.pipeline import Pipeline


def check_task(task: Task, pipeline: Pipeline, examples: Sequence[Example], must_learn: Sequence[str]) -> None:
    """Check a task: examples -> batch fields -> loss.

    Args:
        task: the task, as `build_tasks` makes it.
        pipeline: a pipeline on the CPU whose model has the heads that the task needs, in float32.
        examples: at least three different pictures with all words that the task needs, of unequal length.
        must_learn: beginnings of parameter names, such as "fusion."; all of these parameters get a gradient.

    Checked are that fields are tensors which depend on the arguments alone, that indices point at pictures of the
    batch, that the loss is finite and named, that neither the order of pictures nor padding changes it, that a
    picture without words does no harm, that the heads learn, and that bfloat16 works.

    Raises:
        AssertionError: with what does not hold.
    """
    assert len(examples) >= 3, "give at least three examples"
    assert task.name and task.primary_metric, "a task states its name and its primary metric"
    batch = _collated(task, pipeline, examples)
    fields = batch.by_task[task.name]
    again = _collated(task, pipeline, examples).by_task[task.name]
    assert fields.keys() == again.keys() and all(torch.equal(fields[name], again[name]) for name in fields), (
        "the same examples in the same epoch give other fields"
    )
    for name, value in fields.items():
        assert isinstance(value, Tensor), f"the field {name} is no tensor"
    index = fields.get("image_index")
    if index is not None and len(index):
        assert index.dtype == torch.int64 and int(index.min()) >= 0 and int(index.max()) < len(examples), "image_index"
    expected = _loss(task, pipeline, batch)
    for term, value in expected.items():
        assert value.ndim == 0 and bool(value.isfinite()), f"the term {term} is {value}"
    moved = _loss(task, pipeline, _collated(task, pipeline, list(reversed(examples))))
    wider = _loss(task, pipeline, _widened(task, batch))
    for term, value in expected.items():
        assert torch.allclose(moved[term], value, rtol=1e-4, atol=1e-5), f"the order of pictures changes {term}"
        assert torch.allclose(wider[term], value, rtol=1e-4, atol=1e-5), f"padding changes {term}"
    silent = [replace(examples[0], captions=(), questions=(), label=None), *examples[1:]]
    assert bool(_loss(task, pipeline, _collated(task, pipeline, silent))["loss"].isfinite()), "a picture without words"
    _check_learning(task, pipeline, expected["loss"], must_learn)
    low = copy.deepcopy(pipeline)
    low.model.to(torch.bfloat16)
    rounded = _loss(task, low, batch)["loss"]
    assert rounded.dtype == torch.float32, f"the loss in bfloat16 is {rounded.dtype}, not float32"
    exact = expected["loss"].item()
    assert abs(rounded.item() - exact) < 0.1 * max(1, abs(exact)), f"{rounded.item()} in bfloat16, {exact} in float32"


def _collated(task: Task, pipeline: Pipeline, examples: Sequence[Example]) -> Batch:
    return make_batch(examples, {task.name: task}, pipeline.codec, pipeline.config, epoch=0)


def _loss(task: Task, pipeline: Pipeline, batch: Batch) -> dict[str, Tensor]:
    assert batch.image is not None
    dtype = next(pipeline.model.parameters()).dtype
    terms = task.loss(pipeline.model, pipeline.model.encode_image(to_model_range(batch.image, dtype)), batch)
    assert "loss" in terms, f'the total is named "loss", there are {sorted(terms)}'
    return terms


def _widened(task: Task, batch: Batch) -> Batch:
    """The same batch with one more padded token in every text, under which stands an ordinary id."""
    fields = {}
    for name, value in batch.by_task[task.name].items():
        is_real = batch.by_task[task.name].get(name.removesuffix("_ids") + "_is_real")
        if name.endswith("_is_real"):
            value = torch.cat([value, value.new_zeros(len(value), 1)], 1)
        elif name.endswith("_ids") and is_real is not None:
            value = torch.cat([torch.where(is_real, value, value[:, :1]), value[:, -1:].roll(1, 0)], 1)
        fields[name] = value
    return replace(batch, by_task={task.name: fields})


def _check_learning(task: Task, pipeline: Pipeline, loss: Tensor, must_learn: Sequence[str]) -> None:
    named = dict(pipeline.model.named_parameters())
    for start in must_learn:
        assert any(name.startswith(start) for name in named), f"no parameter starts with {start!r}"
    chosen = {name: value for name, value in named.items() if name.startswith(tuple(must_learn))}
    gradients = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
    for name, gradient in zip(chosen, gradients, strict=True):
        assert gradient is not None, f"{task.name} teaches {name} nothing"
        assert gradient.numel() == 0 or bool(gradient.abs().sum() > 0), f"{task.name} teaches {name} nothing"
        assert bool(gradient.isfinite().all()), f"the gradient of {name} is not finite"
