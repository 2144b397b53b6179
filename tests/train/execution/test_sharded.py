"""What divided weights do not support; the steps themselves are in test_base.py and runs/test_two_processes.py."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.models.stepwise import Stepwise
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig
from chiasm.train.execution.sharded import Sharded, _copy, _is_divisible


class Counting(Stepwise):
    """A module that changes once a step."""

    def finish_step(self, computed: Stepwise) -> None:
        """Nothing to do here."""


def run_config(pipeline: Pipeline) -> RunConfig:
    demo = find_recipe("demo", tiny=True)
    own = pipeline.config
    return replace(demo, model=own.model, tasks=own.tasks, data=own.data, primary_metric="")


CASES: dict[str, tuple[Callable[[RunConfig], RunConfig], str]] = {
    "pcgrad": (lambda run: replace(run, train=replace(run.train, weighting="pcgrad")), "compared between tasks"),
    "conflicts": (lambda run: replace(run, train=replace(run.train, conflict_every=2)), "compared between tasks"),
    "average": (lambda run: replace(run, tasks={"retrieval": RetrievalConfig(distil=0.4)}), "moving average"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_needs_a_whole_model_is_refused(pipeline: Pipeline, case: str) -> None:
    """Guards against a gradient or an average of one process's slice alone."""
    change, said = CASES[case]
    pipeline.config = change(run_config(pipeline))
    with pytest.raises(InputError, match=said):
        Sharded(pipeline, [])


def test_modules_that_change_without_a_gradient_are_refused(pipeline: Pipeline) -> None:
    """Guards against codebooks that are lost with the copy that computes."""
    pipeline.config = run_config(pipeline)
    assert Sharded(pipeline, []).model is pipeline.model
    pipeline.model.add_module("counting", Counting())
    with pytest.raises(InputError, match="codebook"):
        Sharded(pipeline, [])


def test_the_copy_trains_the_named_parameters_alone_and_computes_in_the_format(pipeline: Pipeline) -> None:
    """Guards against frozen parameters that are reduced, and buffers of another format than the weights."""
    pipeline.model.register_buffer("table", torch.ones(3))
    names = [name for name, _ in pipeline.model.named_parameters()][:2]
    made = _copy(pipeline.model, torch.bfloat16, names)
    assert [name for name, one in made.named_parameters() if one.requires_grad] == names
    assert (
        made.get_buffer("table").dtype == torch.bfloat16 and pipeline.model.get_buffer("table").dtype == torch.float32
    )
    empty, scalar = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.tensor(1.0))
    assert not _is_divisible(empty) and not _is_divisible(scalar) and _is_divisible(nn.Parameter(torch.zeros(1)))
