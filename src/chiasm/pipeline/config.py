"""Typed config of a pipeline: everything that inference needs, without training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.config import by_kind, by_name, from_dict
from chiasm.core.files import read_json
from chiasm.data.config import DataConfig
from chiasm.data.files import FilesConfig
from chiasm.data.opening import source_configs
from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.tasks import task_configs
from chiasm.tasks.base import TaskConfig

TRAINING_KEYS = frozenset({"train", "init_from", "stages"})
"""Keys of a run's config that only training reads (`train.config.RunConfig`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """Model, data and tasks: the part of a run's config that serving and evaluation read."""

    recipe: str
    """Name of the recipe that made this config."""
    seed: int = 0
    primary_metric: str = ""
    """The metric of validation that picks the best weights; "" means the first task's."""
    test_split: str = "val"
    """Split that the final table is measured on."""
    data: DataConfig = field(default_factory=FilesConfig, metadata=by_kind(source_configs, "source"))
    model: ModelConfig = field(default_factory=ModelConfig)
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict, metadata=by_name(task_configs))
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


def read_pipeline_config(folder: Path) -> PipelineConfig:
    """Read the part of a run folder's `config.json` that inference needs.

    Raises:
        InputError: missing, damaged, or with a key that no format version has.
    """
    return pipeline_config(read_json(folder / "config.json", "the run's config"), "config.json")


def pipeline_config(values: Mapping[str, Any], where: str) -> PipelineConfig:
    """Extract the pipeline's config from a run's config; `where` names the source in errors."""
    own = {key: value for key, value in values.items() if key not in TRAINING_KEYS}
    return from_dict(PipelineConfig, own, where, is_stored=True)
