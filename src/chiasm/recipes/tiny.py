"""The `tiny` version of a recipe that trains on files."""

from dataclasses import replace

from chiasm.train.config import RunConfig, TrainConfig


def few_steps(config: RunConfig, batch_size: int = 16) -> RunConfig:
    """Four steps in each stage, validated twice, on the same data, to test that the run works."""
    stages = {name: replace(one, train=_few(one.train, batch_size)) for name, one in config.stages.items()}
    return replace(config, train=_few(config.train, batch_size), stages=stages)


def _few(train: TrainConfig, batch_size: int) -> TrainConfig:
    return replace(train, epochs=0, steps=4, batch_size=batch_size, validate_every=2)
