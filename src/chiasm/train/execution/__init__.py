"""Execution plans: number format, processes and moving average of a training step, behind one contract."""

from collections.abc import Sequence

from chiasm.core.distributed import world_size
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.config import config_of
from chiasm.train.execution.base import Execution
from chiasm.train.execution.processes import Processes
from chiasm.train.execution.sharded import Sharded
from chiasm.train.execution.single import SingleProcess


def make_execution(pipeline: Pipeline, names: Sequence[str]) -> Execution:
    """The plan for the processes that run now; each process calls this with the same arguments.

    Args:
        pipeline: its model is trained with its run config.
        names: parameters to train.
    """
    if world_size() == 1:
        return SingleProcess(pipeline, names)
    return Sharded(pipeline, names) if config_of(pipeline).train.shards else Processes(pipeline, names)
