"""Graphs of a pipeline compute what its tasks answer from, and what is no single pass is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.models.batch_invariant import BatchInvariantLinear
from chiasm.pipeline.interop.graph_files import reference
from chiasm.pipeline.interop.graphs import IDS, MASK, PIXELS, example_inputs, graphs_of, in_model_range, traceable
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig


def test_modules_compute_what_tasks_answer_from(pipeline: Pipeline) -> None:
    """Guards against a graph that skips an adapter, a projection or a normalisation."""
    graphs, left_out = graphs_of(pipeline)
    assert set(graphs) == {"image", "text", "vqa"} and set(left_out) == {"captioning"}
    assert graphs["vqa"].names == pipeline.codec.answers and len(graphs["vqa"].names) > 1
    texts = ["is there a circle?", "a small red square", "how many"]
    tokens = pipeline.codec.tokenizer.batch(texts)
    inputs = example_inputs(pipeline, tokens, 3)
    for graph in graphs.values():
        with torch.no_grad(), traceable(pipeline.model):
            got = graph.module(*(inputs[name] for name in graph.inputs))
        want = reference(pipeline, graph, inputs[PIXELS].permute(0, 3, 1, 2), texts)
        assert np.abs(want).max() > 0.01
        np.testing.assert_allclose(got.numpy(), want, atol=2e-6)
        assert set(graph.inputs) <= {PIXELS, IDS, MASK}


def test_classes_are_a_graph_of_pixels(config: RunConfig, examples: list[Example]) -> None:
    """Guards against a classifier that needs a text, and columns in another order than the classes."""
    recipe = find_recipe("classify", tiny=True)
    labelled = [replace(one, label=("b", "a")[number % 2]) for number, one in enumerate(examples)]
    made = replace(config, tasks={"classification": recipe.tasks["classification"]}, primary_metric="acc1")
    classifier = Pipeline.build(made, labelled, torch.device("cpu"))
    graphs, left_out = graphs_of(classifier)
    assert not left_out and graphs["classification"].inputs == (PIXELS,)
    assert graphs["classification"].names == ("a", "b")
    inputs = example_inputs(classifier, classifier.codec.tokenizer.batch(["a", "b"]), 2)
    with torch.no_grad():
        tokens = classifier.model.encode_image(in_model_range(inputs[PIXELS]))
        want = classifier.model.logits("classification", tokens.pooled)
        torch.testing.assert_close(graphs["classification"].module(inputs[PIXELS]), want)


def test_linear_layers_come_back(pipeline: Pipeline) -> None:
    """Guards against a pipeline that is no longer batch invariant after an export, or a failed one."""

    def count() -> int:
        return sum(type(module) is BatchInvariantLinear for module in pipeline.model.modules())

    def fail() -> None:
        with traceable(pipeline.model):
            assert count() == 0
            raise ZeroDivisionError

    before = count()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert count() == before > 0


def test_writing_and_other_inputs_are_refused(config: RunConfig, examples: list[Example], pipeline: Pipeline) -> None:
    """Guards against a file without the loop that writes, and against a graph that sees half of its inputs."""
    alone = replace(config, tasks={"captioning": config.tasks["captioning"]}, primary_metric="CIDEr")
    with pytest.raises(InputError, match="writes or draws step by step"):
        graphs_of(Pipeline.build(alone, examples, torch.device("cpu")))
    pipeline.resizing = replace(pipeline.resizing, method="within")
    with pytest.raises(InputError, match="many shapes"):
        graphs_of(pipeline)
