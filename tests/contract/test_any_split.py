"""Any batch, split over one to four processes in any way, has the loss and the gradient that one process has."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from several_processes import grad_of, together
from test_tasks import CASES, pipeline_for, scenes

from chiasm.core.distributed import all_reduce_gradients
from chiasm.core.shared_draws import seed_step
from chiasm.core.types import IMAGE, Example
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline

CAPTIONS, QUESTIONS = 3, 3


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[int]]:
    """Captions and questions of each picture, and where the pictures are cut into the shares of processes."""
    processes = draw(st.integers(2, 4))
    words = st.tuples(st.integers(0, CAPTIONS), st.integers(0, QUESTIONS))
    pictures = draw(st.lists(words, min_size=processes, max_size=6))
    places = st.integers(1, len(pictures) - 1)
    cuts = draw(st.lists(places, min_size=processes - 1, max_size=processes - 1, unique=True))
    return pictures, [0, *sorted(cuts), len(pictures)]


def shortened(pictures: list[tuple[int, int]]) -> list[Example]:
    """Scenes with as many captions and questions as each shall have; every second one a picture seen before."""
    examples = []
    for number, (captions, questions) in enumerate(pictures):
        whole = scenes()[number - number % 2 if number % 3 == 0 else number]
        made = (whole.captions * CAPTIONS)[:captions]
        examples.append(replace(whole, id=str(number), captions=made, questions=whole.questions[:questions]))
    return examples


def loss_and_gradient(
    name: str, pipeline: Pipeline, examples: list[Example]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What one process has of its share of a batch, after the gradients are averaged."""
    task = CASES[name].config[0][0]
    model = copy.deepcopy(pipeline.model)
    batch = make_batch(examples, {task: pipeline.tasks[task]}, pipeline.codec, pipeline.config, 0)
    seed_step("any split", 0)
    image = model.encode_image(to_model_range(batch.inputs[IMAGE], torch.float32))
    terms = pipeline.tasks[task].loss(model, {IMAGE: image}, batch)
    if terms["loss"].requires_grad:
        terms["loss"].backward()
    all_reduce_gradients(model.parameters())
    return {term: value.detach() for term, value in terms.items()}, grad_of(model)


def check_split(name: str, pictures: list[tuple[int, int]], bounds: list[int]) -> None:
    pipeline = pipeline_for(CASES[name])
    examples = shortened(pictures)
    expected = loss_and_gradient(name, pipeline, examples)
    shares = [examples[start:stop] for start, stop in pairwise(bounds)]
    for found in together(len(shares), lambda rank: loss_and_gradient(name, pipeline, shares[rank])):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(split=splits())
def test_any_split_trains_as_one_process(name: str, split: tuple[list[tuple[int, int]], list[int]]) -> None:
    """Guards against a process that waits for one with nothing to say, and means over the words of one process."""
    check_split(name, *split)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize(
    ("pictures", "bounds"),
    [
        ([(0, 0), (2, 3), (1, 1)], [0, 1, 3]),
        ([(3, 1), (1, 3), (0, 0), (0, 0)], [0, 2, 3, 4]),
        ([(0, 0), (0, 0)], [0, 1, 2]),
        ([(2, 2), (2, 2), (1, 1), (1, 1)], [0, 1, 2, 3, 4]),
    ],
)
def test_a_process_without_words_takes_part(name: str, pictures: list[tuple[int, int]], bounds: list[int]) -> None:
    """Guards against the hang of a process that returns before the others gather, and ragged captions."""
    check_split(name, pictures, bounds)
