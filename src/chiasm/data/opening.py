"""Where examples come from: the table of sources, and opening one split of what a config names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from chiasm.core.errors import InputError
from chiasm.data.config import DataConfig
from chiasm.data.dataset import MAIN, Dataset, ListDataset, examples_of, with_question_kinds
from chiasm.data.files import FilesConfig, open_files, open_other_files, splits_of
from chiasm.data.generated.boxes.dataset import BoxesConfig, BoxesDataset
from chiasm.data.generated.rainbow import RainbowConfig, RainbowDataset
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.data.generated.sort_of_clevr import SortOfClevrConfig, SortOfClevrDataset
from chiasm.data.mixture import MixedDataset


class Source(NamedTuple):
    """How the examples of one source are described and opened."""

    config: type[DataConfig]
    """Its keys; `source` has its name in `SOURCES` as the default."""
    open: Callable[[str, Any, int], Dataset]
    """Called with (split, config, seed)."""
    splits: Callable[[Any], tuple[str, ...]] | None = None
    """Called with the config: names of the splits. None of a generator, whose splits have no image in common."""


def _open_files(split: str, config: FilesConfig, seed: int) -> Dataset:
    return ListDataset(split, *open_files(config, split))


SOURCES: dict[str, Source] = {
    "files": Source(FilesConfig, _open_files, splits_of),
    "scenes": Source(ScenesConfig, SceneDataset),
    "sort_of_clevr": Source(SortOfClevrConfig, SortOfClevrDataset),
    "boxes": Source(BoxesConfig, BoxesDataset),
    "rainbow": Source(RainbowConfig, RainbowDataset),
}
"""`data.source` -> its config and what opens a split of it. A further source is one file and one line here."""


def source_configs() -> Mapping[str, type[DataConfig]]:
    """`data.source` -> the class of the section `data` (`core.config.by_kind`)."""
    return {name: source.config for name, source in SOURCES.items()}


def open_dataset(config: DataConfig, split: str, seed: int) -> Dataset:
    """Open one split of what the config names.

    "train" of files is `config.train_split`, and of any source it is mixed with the sets of `config.others`; every
    other split is of the main set alone.

    Raises:
        InputError: the source has no such split or language; files as `data.files.open_files`.
    """
    main = SOURCES[config.source].open(split, config, seed)
    if config.question_kinds:
        main = with_question_kinds(main, config.question_kinds)
    if split != "train" or not config.others:
        return main
    parts: dict[str, Dataset] = {MAIN: main}
    taken = set() if main.is_generated else {example.id for example in examples_of(main)}
    for name, other in config.others.items():
        if name in parts:
            raise InputError(f"data.others has a set called {name!r}", "another name", "rename it")
        parts[name] = ListDataset(split, *open_other_files(name, other, config.label_prompts, taken))
    weights = [1.0, *(other.weight for other in config.others.values())]
    return MixedDataset(parts, weights, config.mixture_temperature, seed)
