"""Each variant changes a pipeline in place, and what it did is what its folder has."""

from pathlib import Path

import pytest
import torch

from chiasm.compress.variants import VARIANTS
from chiasm.core.types import Example
from chiasm.pipeline.pipeline import Pipeline


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_opens_as_it_was_made(name: str, pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Guards against a variant whose folder has other weights than were measured, or that changes nothing."""
    before = {key: value.clone() for key, value in pipeline.model.state_dict().items()}
    VARIANTS[name](pipeline)
    after = pipeline.model.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    pipeline.save(tmp_path, examples[0], {})
    opened = Pipeline.load(tmp_path, torch.device("cpu")).model.state_dict()
    for key, value in after.items():
        assert torch.allclose(opened[key], value, rtol=1e-6, atol=0), key
