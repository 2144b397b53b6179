"""Where examples come from: the table of sources, and opening one split of what a config names."""

from collections.abc import Callable, Mapping

from chiasm.core.errors import InputError
from chiasm.data.config import DataConfig
from chiasm.data.dataset import MAIN, Dataset, ListDataset, examples_of, with_question_kinds
from chiasm.data.files import open_files, open_other_files
from chiasm.data.generated.boxes.dataset import BoxesDataset
from chiasm.data.generated.scene_dataset import SceneDataset
from chiasm.data.generated.sort_of_clevr import SortOfClevrDataset
from chiasm.data.mixture import MixedDataset


def _open_files(split: str, config: DataConfig, seed: int) -> Dataset:
    return ListDataset(split, *open_files(config, split))


SOURCES: Mapping[str, Callable[[str, DataConfig, int], Dataset]] = {
    "files": _open_files,
    "scenes": SceneDataset,
    "sort_of_clevr": SortOfClevrDataset,
    "boxes": BoxesDataset,
}
"""`data.source` -> what opens a split of it, called with (split, config, seed)."""


def open_dataset(config: DataConfig, split: str, seed: int) -> Dataset:
    """Open one split of what the config names.

    "train" of files is `config.train_split`, and of any source it is mixed with the sets of `config.others`; every
    other split is of the main set alone.

    Raises:
        InputError: the source has no such split or language; files as `data.files.open_files`.
    """
    if config.source != "files" and config.fold:
        raise InputError(
            f"data.fold is {config.fold!r} with data.source {config.source!r}",
            "files; a generator makes test pictures of its own",
            "drop data.fold",
        )
    main = SOURCES[config.source](split, config, seed)
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
