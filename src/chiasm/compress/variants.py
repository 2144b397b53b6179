"""The ways to compress a run without training it again: a table of functions that change a pipeline in place."""

from collections.abc import Callable

from chiasm.models.packing import Packing, round_weights
from chiasm.pipeline.pipeline import Pipeline


def _rounded(packing: Packing) -> Callable[[Pipeline], None]:
    def apply(pipeline: Pipeline) -> None:
        round_weights(pipeline.model, pipeline.saved_names(), packing)
        pipeline.packing = packing

    return apply


VARIANTS: dict[str, Callable[[Pipeline], None]] = {"int8": _rounded("int8"), "bf16": _rounded("bf16")}
"""Name of a variant, as `--to` takes it -> what it does to a pipeline. Weights of installed packages stay."""
