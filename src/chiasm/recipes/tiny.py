"""What `tiny` makes of a recipe that trains on files in one stage."""

from dataclasses import replace

from chiasm.train.config import RunConfig


def few_steps(config: RunConfig, batch_size: int = 16) -> RunConfig:
    """Four steps in each stage, validated twice, on the same data, to test that the run works."""
    few = {"epochs": 0, "steps": 4, "batch_size": batch_size, "validate_every": 2, "validate_examples": 0}
    stages = {name: replace(one, train=replace(one.train, **few)) for name, one in config.stages.items()}
    return replace(config, train=replace(config.train, **few), stages=stages)
