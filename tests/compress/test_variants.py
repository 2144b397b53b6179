"""Each variant changes a pipeline in place, and what it did is what its folder has."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from chiasm.compress.variants import VARIANTS, steps_of, training_examples
from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.models.pruning import kind_of, prunable
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.adaptation import begun
from chiasm.train.config import RunConfig
from chiasm.train.run import run


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_opens_as_it_was_made(name: str, pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Guards against a variant whose folder has other weights than were measured, or that changes nothing."""
    before = {key: value.clone() for key, value in pipeline.model.state_dict().items()}
    VARIANTS[name](pipeline)
    after = pipeline.model.state_dict()
    assert any(key not in after or not torch.equal(before[key], after[key]) for key in before)
    pipeline.save(tmp_path, examples[0], {})
    opened = Pipeline.load(tmp_path, torch.device("cpu")).model.state_dict()
    for key, value in after.items():
        assert torch.allclose(opened[key], value, rtol=1e-6, atol=0), key


def test_half_of_the_units_and_heads_go(pipeline: Pipeline) -> None:
    """Guards against a share that is taken twice, and against heads that are counted as units."""
    before = prunable(pipeline.model)
    VARIANTS["pruned50"](pipeline)
    after = prunable(pipeline.model)
    units = [sum(parts for name, parts in found.items() if name.endswith(".mlp")) for found in (before, after)]
    scored = [name for name in before if after[name] < before[name]]
    assert scored and all(1 <= after[name] <= before[name] for name in before)
    assert units[1] == units[0] - int(0.5 * units[0])
    assert len(pipeline.config.model.pruned) == len(scored)
    VARIANTS["pruned25"](pipeline)
    entries = dict(entry.rsplit("=", 1) for entry in pipeline.config.model.pruned)
    assert set(scored) <= set(entries), "what was pruned before is still stated"
    assert all(int(count) == prunable(pipeline.model)[name] for name, count in entries.items())


def test_half_of_the_blocks_go_and_the_rest_is_pruned_by_its_new_number(
    pipeline: Pipeline, examples: list[Example], tmp_path: Path
) -> None:
    """Guards against sizes that are stated for blocks that have moved."""

    def blocks() -> dict[str, int]:
        found = prunable(pipeline.model)
        return {name: parts for name, parts in found.items() if kind_of(pipeline.model, name) == "blocks"}

    before = blocks()
    for step in steps_of("pruned25+layers50+pruned25"):
        step(pipeline)
    after = blocks()
    lost = sum(before.values()) - sum(after.values())
    assert 0 < lost <= int(0.5 * sum(before.values())) and all(1 <= after[name] <= before[name] for name in before)
    pipeline.save(tmp_path, examples[0], {})
    assert prunable(Pipeline.load(tmp_path, torch.device("cpu")).model) == prunable(pipeline.model)


def test_variants_are_joined(pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Guards against a second step that is left out, or taken first, when weights are still whole."""
    for step in steps_of("pruned50+int8"):
        step(pipeline)
    pipeline.save(tmp_path, examples[0], {})
    opened = Pipeline.load(tmp_path, torch.device("cpu"))
    assert opened.packing == "int8" and opened.config.model.pruned == pipeline.config.model.pruned != ()
    with pytest.raises(InputError, match="int9"):
        steps_of("pruned50+int9")


def test_training_examples_are_drawn_once_for_all(pipeline: Pipeline) -> None:
    """Guards against ranks that change from run to run, and against the first rows of a sorted file alone."""
    ids = [one.id for one in training_examples(pipeline, 40)]
    assert len(set(ids)) == 40 and ids == [one.id for one in training_examples(pipeline, 40)]
    assert ids != sorted(ids)


def test_a_run_begins_pruned_as_the_run_it_begins_from(
    config: RunConfig, pipeline: Pipeline, examples: list[Example], tmp_path: Path
) -> None:
    """Guards against retraining of the whole model, whose layers take no weight of the pruned one."""
    VARIANTS["pruned50"](pipeline)
    pipeline.save(tmp_path, examples[0], {})
    start = begun(replace(config, init_from=str(tmp_path)))
    assert start.model.pruned == pipeline.config.model.pruned
    fresh = Pipeline.build(start, examples, torch.device("cpu"), codec=pipeline.codec)
    _, left = fresh.take_weights(tmp_path)
    assert left == 0 and prunable(fresh.model) == prunable(pipeline.model)


def test_a_pruned_run_is_trained_again_by_the_one_loop(
    config: RunConfig, pipeline: Pipeline, examples: list[Example], tmp_path: Path
) -> None:
    """Guards against sizes that training forgets: the run folder that it writes must open."""
    VARIANTS["pruned50"](pipeline)
    pipeline.save(tmp_path / "pruned", examples[0], {})
    short = replace(config.train, steps=2, validate_every=2, batch_size=8)
    start = replace(config, init_from=str(tmp_path / "pruned"), train=short)
    run(start, tmp_path / "again", False, Console(file=io.StringIO()))
    opened = Pipeline.load(tmp_path / "again", torch.device("cpu"))
    assert prunable(opened.model) == prunable(pipeline.model)
    moved, before = opened.model.state_dict(), pipeline.model.state_dict()
    assert any(not torch.equal(moved[name], before[name]) for name in before if name.startswith("fusion."))
