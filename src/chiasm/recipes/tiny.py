"""The `tiny` version of a recipe that trains on files in one stage."""

from dataclasses import replace

from chiasm.train.config import RunConfig


def few_steps(config: RunConfig, batch_size: int = 16) -> RunConfig:
    """Four steps, validated twice, on the same data, to test that the run works."""
    return replace(config, train=replace(config.train, epochs=0, steps=4, batch_size=batch_size, validate_every=2))
