"""Examples from files for training and evaluation: splits joined, validation held out, class prompts added."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chiasm.core.config import of_kind
from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import Caption, Example, Source
from chiasm.data.config import DataConfig, OtherDataConfig
from chiasm.data.ledger import Ledger
from chiasm.data.object_questions import with_object_questions
from chiasm.data.prompts import expanded, filled
from chiasm.data.script import language_of
from chiasm.data.sources import FileData, read_source
from chiasm.data.sources.records import MissingSplitError, canonical_split

FEW_GROUPS = 200
"""Number of groups below which the examples kept for validation are drawn by rank."""
VALIDATION_SHARE = 10
"""One in so many training examples is kept for validation where the files have no validation split."""
HELD_OUT = "held_out"
"""Split of the part that `data.fold` keeps out of training and validation."""
LABEL_GROUP = "label:"
"""Begins the group of examples whose captions were made of their label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesConfig(DataConfig):
    """Keys of a user's own files."""

    source: Literal["files"] = "files"
    path: str = ""
    """Folder or file of the user's data."""
    format: str = "auto"
    """Name of a layout, or "auto" to recognise it from the files."""
    images: str = ""
    """Folder that relative image paths start from; "" means the layout's own."""
    train_split: str = "train"
    """Split that is trained on; several are joined by "+", such as "train+hidden"."""
    fold: str = ""
    """"2/5" keeps the second of five parts of it, drawn by image or group, out of training and validation: for
    cross-validation, as the split "held_out" (--set test_split=held_out). "" keeps nothing out."""
    random_crop: float = 1.0
    """Least share, in (0, 1], of a training image's area that a step sees: a window at another place and of another
    size in each epoch, for towers that are trained. 1 shows images as they are measured."""
    object_questions: int = 0
    """Yes-no questions added to each training image, half of them after objects that it has and half after absent ones
    (`data.object_questions`): a language model that learned from captions alone answers all of them alike. The objects
    are the annotated ones, the label, or the nouns of English or Chinese captions; data without any get none. An even
    number; 0 adds none."""

    def check(self) -> None:
        """Check the path and ranges, and what every source has.

        Raises:
            InputError: names the key.
        """
        DataConfig.check(self)
        if not 0 < self.random_crop <= 1:
            raise InputError(f"data.random_crop is {self.random_crop}", "a share in (0, 1]", "1 turns it off")
        if not self.path:
            raise InputError("data.path is not set", "a folder or file with images and texts", "--data FOLDER")
        if self.object_questions < 0 or self.object_questions % 2:
            given = f"data.object_questions is {self.object_questions}"
            raise InputError(given, "an even number, or 0", "--set data.object_questions=4")


def of_files(config: DataConfig, path: str) -> FilesConfig:
    """The data config of a run with other files: the folder or file `path`, whose layout is recognised."""
    return replace(of_kind(config, FilesConfig, "source"), path=path, format="auto", images="", others={})


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Examples of one or several splits, and what was left out."""

    examples: list[Example]
    ledger: Ledger
    splits: tuple[str, ...]
    """Splits that the files have; () where they name none."""

    @property
    def has_validation(self) -> bool:
        """Whether the files have a split for validation."""
        return any(canonical_split(name) == "val" for name in self.splits)


def open_files(config: FilesConfig, split: str) -> tuple[list[Example], Ledger]:
    """Read one split of the files that `config.path` names.

    "train" stands for `config.train_split`, which may join several by "+". Other names are those of the files. Where
    the files have no validation split, one training example in ten, by a hash of its group or id, is kept for it: so
    nothing is ever tuned on test. With `config.fold`, a part of the training examples is in neither and makes the split
    "held_out". Examples with a label and no caption get `config.label_prompts` as captions. Training examples get
    `config.object_questions`.

    Raises:
        InputError: as `read_source`; the same id in two joined splits; a fold that is none.
    """
    if config.fold and split == HELD_OUT:
        training = _joined(config, config.train_split)
        examples, ledger = _by_fold(config, training)[1], training.ledger
    elif split == "train":
        examples, ledger = _training(config)
        if config.object_questions:
            examples = _with_object_questions(examples, config.object_questions, ledger)
    elif canonical_split(split) == "val":
        examples, ledger = _validation(config, split)
    else:
        found = _read(config, split)
        examples, ledger = found.examples, found.ledger
    return labels_in_words(examples, config.label_prompts), ledger


def splits_of(config: FilesConfig) -> tuple[str, ...]:
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
        raise InputError(
            f"data.others.{name}.path is not set", "a folder or file", f"--set data.others.{name}.path=FOLDER"
        )
    found = _joined(config, config.split)
    found.ledger.advice = [text.replace("--set data.", f"--set data.others.{name}.") for text in found.ledger.advice]
    renamed = []
    for example in found.examples:
        own = f"{name}/{example.id}" if example.id in taken else example.id
        renamed.append(replace(example, id=own, group=f"{name}/{example.group}" if example.group else ""))
    taken.update(example.id for example in renamed)
    return labels_in_words(renamed, label_prompts), found.ledger


def labels_in_words(examples: Iterable[Example], prompts: Sequence[str]) -> list[Example]:
    """Give examples with a label and no caption the prompts (see `data.prompts`) as captions.

    Their group becomes their label, so that images of a class are positives of all its sentences (UniCL, Yang et
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


def _with_object_questions(examples: list[Example], per_image: int, ledger: Ledger) -> list[Example]:
    """The examples with questions after their objects, or as they are, with advice, where no object can be named."""
    try:
        return with_object_questions(examples, per_image)
    except InputError as error:
        ledger.advice.append(f"data.object_questions={per_image} asks nothing: {error.given}")
        return examples


def _training(config: FilesConfig) -> tuple[list[Example], Ledger]:
    found = _not_held_out(config)
    if not found.has_validation:
        kept_back = _kept_back(found.examples)
        kept = [example for example in found.examples if _group(example) not in kept_back]
        _note_kept_back(config, found, len(found.examples) - len(kept))
        return kept, found.ledger
    return found.examples, found.ledger


def _validation(config: FilesConfig, split: str) -> tuple[list[Example], Ledger]:
    try:
        found = _read(config, split)
    except InputError as error:
        training = _not_held_out(config)
        if training.has_validation:
            raise error from None
        kept_back = _kept_back(training.examples)
        examples = [example for example in training.examples if _group(example) in kept_back]
        _note_kept_back(config, training, len(examples))
        return examples, training.ledger
    return found.examples, found.ledger


def _not_held_out(config: FilesConfig) -> ReadFiles:
    """The splits that are trained on, less the part that `config.fold` names."""
    found = _joined(config, config.train_split)
    return replace(found, examples=_by_fold(config, found)[0]) if config.fold else found


def _by_fold(config: FilesConfig, found: ReadFiles) -> tuple[list[Example], list[Example]]:
    """Training examples without and within the fold: groups in the order of a hash, dealt out in turn.

    So all folds hold as many groups, to within one, and adding an example to a group moves no other one.
    """
    fold, folds = _fold(config.fold)
    groups = {_group(example) for example in found.examples}
    if len(groups) < folds:
        raise InputError(
            f"data.fold is {config.fold!r}, and {config.path} has {len(groups)} images or groups to train on",
            "as many parts, or fewer",
            "--set data.fold=1/2",
        )
    ordered = sorted(groups, key=lambda group: (counter_seed("fold", group), group))
    held = {group for place, group in enumerate(ordered) if place % folds == fold - 1}
    kept = [example for example in found.examples if _group(example) not in held]
    out = [example for example in found.examples if _group(example) in held]
    text = (
        f"{len(out)} of the {len(found.examples)} examples of {config.train_split!r} are fold {config.fold}, held out"
    )
    found.ledger.note(Source(config.path), HELD_OUT, text)
    return kept, out


def _fold(text: str) -> tuple[int, int]:
    """Read which part, and of how many."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) and int(count) > 1):
        raise InputError(f"data.fold is {text!r}", 'one of several parts, such as "2/5"', "--set data.fold=1/5")
    return int(number), int(count)


def _group(example: Example) -> str:
    return example.group or example.id


def _kept_back(examples: Iterable[Example]) -> set[str]:
    """Groups kept for validation: one in ten by a hash; of few groups the smallest hashes, two of six or more."""
    places = {group: counter_seed("validation", group) for group in map(_group, examples)}
    if len(places) >= FEW_GROUPS:
        return {group for group, place in places.items() if place % VALIDATION_SHARE == 0}
    count = min(max(2, len(places) // VALIDATION_SHARE), len(places) // 3)
    return set(sorted(places, key=lambda group: (places[group], group))[:count])


def _note_kept_back(config: FilesConfig, found: ReadFiles, count: int) -> None:
    text = f"the files have no validation split; {count} of the {len(found.examples)} examples of "
    text += f"{config.train_split!r} are kept for it, drawn by a hash of each example's group or id"
    found.ledger.note(Source(config.path), "validation_drawn", text)


def _read(config: FilesConfig | OtherDataConfig, split: str) -> FileData:
    return read_source(Path(config.path), split, config.format, config.images, config.languages)


def _joined(config: FilesConfig | OtherDataConfig, splits: str) -> ReadFiles:
    """Read splits joined by "+", one after the other."""
    names = [name.strip() for name in splits.split("+")]
    meant = {name if name[-1:].isdigit() else canonical_split(name) for name in names}
    if not all(names) or len(meant) < len(names):
        raise InputError(f"the split {splits!r}", 'different names joined by "+"', "name each split once")
    try:
        parts = [_read(config, name) for name in names]
    except MissingSplitError as error:
        key = "data.train_split" if isinstance(config, FilesConfig) else "data.others.NAME.split"
        free = [name for name in error.names if canonical_split(name) not in ("val", "test")] or error.names[:1]
        raise InputError(error.given, error.allowed, f"--set {key}={'+'.join(free) or 'SPLIT'}") from None
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
