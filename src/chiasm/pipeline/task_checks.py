"""Contract checks for a task, for the tasks of this package and for tasks outside it."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chiasm.core.random import seed_torch
from chiasm.core.types import Batch, Example
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Task

DRAWS = 24
"""Draws that the loss of a task with random parts (hidden words, wrong pairs) is averaged over."""


def check_task(
    task: Task[Any],
    pipeline: Pipeline,
    examples: Sequence[Example],
    must_learn: Sequence[str],
    without_gradient: Collection[str] = (),
) -> None:
    """Check a task: examples -> batch fields -> loss.

    Args:
        task: the task, as `build_tasks` makes it.
        pipeline: a pipeline on the CPU whose model has the heads that the task needs, in float32.
        examples: at least three different images with all words that the task needs, of unequal length.
        must_learn: beginnings of parameter names, such as "fusion."; all of these parameters get a gradient.
        without_gradient: beginnings of names among these that the task states to leave alone.

    Checked are that fields are tensors which depend on the arguments alone, that indices point at images of the
    batch, that terms are counted, that the loss is finite and named, and random by torch's global generator alone, that
    neither the order of images nor padding changes it, that an image without words does no harm, that images
    without any words count nothing and give zero and a zero gradient, that the heads learn, and that bfloat16 works. A
    loss with random parts is compared by its mean over `DRAWS` draws, within five standard errors.

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
    assert task.count(batch) > 0, "the examples have something of the task, and its count is 0"
    expected = _loss(task, pipeline, batch)
    for term, value in expected.items():
        assert value.ndim == 0 and bool(value.isfinite()), f"the term {term} is {value}"
    _check_same(task, pipeline, batch, _collated(task, pipeline, list(reversed(examples))), "the order of images")
    _check_same(task, pipeline, batch, _widened(task, batch), "padding")
    silent = [replace(example, captions=(), questions=(), label=None) for example in examples]
    assert bool(_loss(task, pipeline, _collated(task, pipeline, [silent[0], *examples[1:]]))["loss"].isfinite()), (
        "an image without words"
    )
    if task.needs == "images":
        silent = [replace(example, inputs={}) for example in silent]
    nothing = _collated(task, pipeline, silent)
    assert task.count(nothing) == 0, f"images without words count {task.count(nothing)}"
    _check_nothing(task, pipeline, nothing)
    _check_learning(task, pipeline, expected["loss"], must_learn, tuple(without_gradient))
    low = copy.deepcopy(pipeline)
    low.model.to(torch.bfloat16)
    rounded = _loss(task, low, batch)["loss"]
    assert rounded.dtype == torch.float32, f"the loss in bfloat16 is {rounded.dtype}, not float32"
    exact = expected["loss"].item()
    assert abs(rounded.item() - exact) < 0.1 * max(1, abs(exact)), f"{rounded.item()} in bfloat16, {exact} in float32"


def _collated(task: Task[Any], pipeline: Pipeline, examples: Sequence[Example]) -> Batch:
    return make_batch(examples, {task.name: task}, pipeline.codec, pipeline.config, epoch=0)


def _loss(task: Task[Any], pipeline: Pipeline, batch: Batch, draw: int = 0) -> dict[str, Tensor]:
    dtype = next(pipeline.model.parameters()).dtype
    encoded = pipeline.model.encode({name: to_model_range(one, dtype) for name, one in batch.inputs.items()})
    seed_torch("check task", draw)
    terms = task.loss(pipeline.model, encoded, batch)
    assert "loss" in terms, f'the total is named "loss", there are {sorted(terms)}'
    return terms


@torch.no_grad()
def _draws(task: Task[Any], pipeline: Pipeline, batch: Batch, count: int) -> dict[str, Tensor]:
    """Each term's values over draws, [count]."""
    found = [_loss(task, pipeline, batch, draw) for draw in range(count)]
    return {term: torch.stack([draw_terms[term].double() for draw_terms in found]) for term in found[0]}


def _check_same(task: Task[Any], pipeline: Pipeline, batch: Batch, other: Batch, what: str) -> None:
    """The terms of both batches agree: exactly where nothing is drawn, in the mean where something is."""
    few = _draws(task, pipeline, batch, 3)
    repeated = _draws(task, pipeline, batch, 3)
    assert all(torch.equal(few[term], repeated[term]) for term in few), "the same seed gives another loss"
    is_random = any(bool((values - values[0]).abs().max() > 1e-6) for values in few.values())
    count = DRAWS if is_random else 1
    first, second = _draws(task, pipeline, batch, count), _draws(task, pipeline, other, count)
    for term, values in first.items():
        error = ((values.var() + second[term].var()) / count).sqrt() if is_random else values.new_zeros(())
        allowed = 1e-5 + 1e-4 * values.mean().abs() + 5 * error
        assert bool((values.mean() - second[term].mean()).abs() <= allowed), f"{what} changes {term}"


def _check_nothing(task: Task[Any], pipeline: Pipeline, batch: Batch) -> None:
    loss = _loss(task, pipeline, batch)["loss"]
    assert loss.ndim == 0 and loss.item() == 0, f"images without words have the loss {loss.item()}"
    gradients = torch.autograd.grad(loss, list(pipeline.model.parameters()), allow_unused=True)
    is_zero = all(gradient is None or not bool(gradient.any()) for gradient in gradients)
    assert is_zero and any(gradient is not None for gradient in gradients), "images without words give a gradient"


def _widened(task: Task[Any], batch: Batch) -> Batch:
    """The same batch with one more padded token in every text, under which stands an ordinary id."""
    fields = {}
    own = batch.by_task[task.name]
    shapes = {value.shape[:2]: name for name, value in own.items() if name.endswith("_is_real")}
    for name, value in own.items():
        is_real = own.get(name.removesuffix("_ids") + "_is_real")
        if value.ndim > 1 and value.shape[:2] in shapes and not name.endswith("_ids"):
            value = torch.cat([value, value.new_zeros(len(value), 1)], 1)
        elif name.endswith("_ids") and is_real is not None:
            value = torch.cat([torch.where(is_real, value, value[:, :1]), value[:, -1:].roll(1, 0)], 1)
        fields[name] = value
    return replace(batch, by_task={task.name: fields})


def _check_learning(
    task: Task[Any], pipeline: Pipeline, loss: Tensor, must_learn: Sequence[str], without: tuple[str, ...]
) -> None:
    named = dict(pipeline.model.named_parameters())
    for start in (*must_learn, *without):
        assert any(name.startswith(start) for name in named), f"no parameter starts with {start!r}"
    chosen = {
        name: value
        for name, value in named.items()
        if name.startswith(tuple(must_learn)) and not (without and name.startswith(without))
    }
    gradients = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
    for name, gradient in zip(chosen, gradients, strict=True):
        if chosen[name].numel():
            assert gradient is not None and bool(gradient.any()), f"{task.name} gives {name} no gradient"
            assert bool(gradient.isfinite().all()), f"the gradient of {name} is not finite"
