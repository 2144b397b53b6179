"""Examples from files as training and evaluation want them: splits joined, validation kept apart, classes in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.run_config import DataConfig, OtherDataConfig
from chiasm.core.types import Caption, Example, Source
from chiasm.data.ledger import Ledger
from chiasm.data.prompts import expanded, filled
from chiasm.data.sources import FileData, read_source
from chiasm.data.sources.records import canonical_split, language_of

VALIDATION_SHARE = 10
"""One in so many training examples is kept for validation where the files have no validation split."""
LABEL_GROUP = "label:"
"""Begins the group of examples whose captions were made of their label."""


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Examples of one or several splits, and what was left out."""

    examples: list[Example]
    ledger: Ledger
    splits: tuple[str, ...]
    """Splits that the files have; () where they tell of none."""

    @property
    def has_validation(self) -> bool:
        """Whether the files have a split for validation."""
        return any(canonical_split(name) == "val" for name in self.splits)


def open_files(config: DataConfig, split: str) -> tuple[list[Example], Ledger]:
    """Read one split of the files that `config.path` names.

    "train" stands for `config.train_split`, which may join several by "+". Other names are those of the files. Where
    the files have no validation split, one training example in ten, by a hash of its group or id, is kept for it: so
    nothing is ever tuned on test. Examples with a label and no caption get `config.label_prompts` as captions.

    Raises:
        InputError: as `read_source`; the same id in two joined splits.
    """
    if split == "train":
        examples, ledger = _training(config)
    elif canonical_split(split) == "val":
        examples, ledger = _validation(config, split)
    else:
        found = _read(config, split)
        examples, ledger = found.examples, found.ledger
    return labels_in_words(examples, config.label_prompts), ledger


def splits_of(config: DataConfig) -> tuple[str, ...]:
    """Names of the splits that the files have, as they write them."""
    return _joined(config, config.train_split).splits


def open_other_files(
    name: str, config: OtherDataConfig, label_prompts: Sequence[str], taken: set[str]
) -> tuple[list[Example], Ledger]:
    """Read a further set of files for training.

    Args:
        name: the user's name for it; begins ids that are in `taken`, and all groups but those of labels.
        config: where the set is, and which splits of it.
        label_prompts: sentences for examples that have a label and no caption.
        taken: ids of the sets before; those of this one are added.
    """
    if not config.path:
        raise InputError(f"data.others.{name}.path is not set", "a folder or file", "name the set's folder")
    found = _joined(config, config.split)
    renamed = []
    for example in found.examples:
        own = f"{name}/{example.id}" if example.id in taken else example.id
        renamed.append(replace(example, id=own, group=f"{name}/{example.group}" if example.group else ""))
    taken.update(example.id for example in renamed)
    return labels_in_words(renamed, label_prompts), found.ledger


def labels_in_words(examples: Iterable[Example], prompts: Sequence[str]) -> list[Example]:
    """Give examples with a label and no caption the prompts (see `data.prompts`) as captions.

    Their group becomes their label, so that pictures of a class are positives of all its sentences (UniCL, Yang et
    al. 2022, equation 3). Other examples stay as they are, and so do all where there are no prompts.
    """
    prompts = expanded(prompts)
    languages = [language_of(prompt) for prompt in prompts]
    told = []
    for example in examples:
        if prompts and example.label and not example.captions:
            captions = tuple(
                Caption(filled(prompt, example.label), language)
                for prompt, language in zip(prompts, languages, strict=True)
            )
            example = replace(example, captions=captions, group=f"{LABEL_GROUP}{example.label}")
        told.append(example)
    return told


def _training(config: DataConfig) -> tuple[list[Example], Ledger]:
    found = _joined(config, config.train_split)
    if not found.has_validation:
        kept = [example for example in found.examples if not _is_kept_back(example)]
        _note_kept_back(config, found, len(found.examples) - len(kept))
        return kept, found.ledger
    return found.examples, found.ledger


def _validation(config: DataConfig, split: str) -> tuple[list[Example], Ledger]:
    try:
        found = _read(config, split)
    except InputError as error:
        training = _joined(config, config.train_split)
        if training.has_validation:
            raise error from None
        examples = [example for example in training.examples if _is_kept_back(example)]
        _note_kept_back(config, training, len(examples))
        return examples, training.ledger
    return found.examples, found.ledger


def _is_kept_back(example: Example) -> bool:
    return counter_seed("validation", example.group or example.id) % VALIDATION_SHARE == 0


def _note_kept_back(config: DataConfig, found: ReadFiles, count: int) -> None:
    text = f"the files have no validation split; {count} of the {len(found.examples)} examples of "
    text += f"{config.train_split!r} are kept for it, drawn by a hash of each example's group or id"
    found.ledger.note(Source(config.path), "validation_drawn", text)


def _read(config: DataConfig | OtherDataConfig, split: str) -> FileData:
    return read_source(Path(config.path), split, config.format, config.images, config.languages)


def _joined(config: DataConfig | OtherDataConfig, splits: str) -> ReadFiles:
    """Read splits joined by "+", one after the other."""
    names = [name.strip() for name in splits.split("+")]
    if not all(names) or len(set(map(canonical_split, names))) < len(names):
        raise InputError(f"the split {splits!r}", 'different names joined by "+"', "name each split once")
    parts = [_read(config, name) for name in names]
    seen: dict[str, str] = {}
    for name, part in zip(names, parts, strict=True):
        for example in part.examples:
            if example.id in seen:
                raise InputError(
                    f"{config.path}: the id {example.id!r} is in the splits {seen[example.id]!r} and {name!r}",
                    "splits that have no example in common",
                    "join other splits, or give each example an id of its own",
                )
        seen.update((example.id, name) for example in part.examples)
    examples = [example for part in parts for example in part.examples]
    return ReadFiles(examples, Ledger.added(part.ledger for part in parts), parts[0].splits)
