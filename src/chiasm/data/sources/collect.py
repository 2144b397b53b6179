"""From records to examples: find each image, keep the wanted language, put all about one image together."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes
from chiasm.core.random import counter_seed
from chiasm.core.types import IMAGE, Caption, Example, ImageRef, Question, Source, Turn
from chiasm.data.groups import joined_groups
from chiasm.data.image_refs import image_ref
from chiasm.data.ledger import Ledger
from chiasm.data.modalities import MODALITIES
from chiasm.data.script import language_of
from chiasm.data.sources.advice import advice_on_encoding, advice_on_missing
from chiasm.data.sources.image_finder import ImageFinder
from chiasm.data.sources.parsing import BadRowError, clean_text
from chiasm.data.sources.records import UNASSIGNED, NamedImage, Reading, Record, choose_split

FEW_GROUPS = 400
"""Number of groups below which splits are drawn by rank."""


def collect(
    reading: Reading, path: Path, split: str, languages: tuple[str, ...], ledger: Ledger
) -> tuple[list[Example], tuple[str, ...]]:
    """Turn the records of one split into examples, one an image, in the order of their first record.

    An image with one record keeps that record's id; with several, or without an id, the example is called by the
    image's path without its suffix. Records of several images make one example where they name the same ones in the
    same order. A conversation is an example of its own. Examples that share an image share a group.

    Returns:
        The examples, and the names of all splits.
    """
    for note in reading.notes:
        ledger.note(*note)
    for rejected in reading.rejected:
        ledger.offer()
        ledger.reject(*rejected)
    if text := advice_on_encoding(ledger.entries):
        ledger.advise(text)
    records, unassigned = list(reading.records), list[Record]()
    if not reading.splits and records:
        records, splits = _hashed_split(records, split, path, ledger)
    elif reading.splits:
        splits = reading.splits
        chosen = choose_split(split, splits, path)
        unassigned = [record for record in records if record.split == UNASSIGNED != chosen]
        records = [record for record in records if record.split in ("", chosen)]
    elif reading.rejected:
        return [], ()
    else:
        raise InputError(f"{path} holds no rows", "at least one image with words or a label", "check the files")
    finder = ImageFinder(reading.folders)
    for record in unassigned:
        _note_missing(record, finder, ledger)
    collector = _Collector(finder, languages, ledger, bool(reading.splits))
    for record in records:
        collector.add(record)
    collector.tell(path)
    return collector.examples(path.absolute() if path.is_dir() else path.absolute().parent), splits


def _note_missing(record: Record, finder: ImageFinder, ledger: Ledger) -> None:
    """Note a missing image of a record without a split (Flickr8k names one), since no split reads that record."""
    try:
        for image in record.images:
            if image.embedded is None:
                finder.find(image.name, record.split)
    except BadRowError as error:
        ledger.note(record.source, error.code, f"{error.text}; it is in no split")


def _hashed_split(
    records: list[Record], split: str, path: Path, ledger: Ledger
) -> tuple[list[Record], tuple[str, ...]]:
    """Draw the split of each group by a hash of its name, the same on every run: 5 % val, 5 % test, the rest train.

    Of fewer than `FEW_GROUPS` groups, those with the smallest hashes are taken, and more than 5 %: a tenth of them up
    to ten, and two of eight or more, so that there is something to measure.
    """
    members = [[_key_of(image) for image in record.images] or [_text_key(record.turns)] for record in records]
    group_of = joined_groups([record.group for record in records], members)
    groups = set(group_of)
    if len(groups) < FEW_GROUPS:
        held = min(max(len(groups) // 20, min(10, max(2, len(groups) // 10))), len(groups) // 4)
        ordered = sorted(groups, key=lambda group: (counter_seed("split", group), group))
        drawn = dict.fromkeys(ordered, "train") | dict.fromkeys(ordered[held : 2 * held], "test")
        drawn |= dict.fromkeys(ordered[:held], "val")
    else:
        places = {group: counter_seed("split", group) % 100 for group in groups}
        drawn = {group: "train" if at < 90 else "val" if at < 95 else "test" for group, at in places.items()}
    by_split: dict[str, list[Record]] = {}
    for record, group in zip(records, group_of, strict=True):
        by_split.setdefault(drawn[group], []).append(record)
    splits = tuple(name for name in ("train", "val", "test") if name in by_split)
    counts = Counter(drawn.values())
    told = ", ".join(f"{counts[name]} {name}" for name in splits)
    text = f"the files tell of no split; {told} were drawn by a hash of each image's group"
    ledger.note(Source(str(path)), "split_drawn", text)
    return by_split[choose_split(split, splits, path)], splits


def _key_of(image: NamedImage) -> str:
    """Key of an image: the content's hash where the file embeds it, else the path as written."""
    return image.embedded.content_key() if image.embedded else os.path.normpath(image.name)


def _text_key(turns: tuple[Turn, ...]) -> str:
    """Key of a conversation without images, the same for equal words."""
    return f"text:{sha256_bytes(repr([(turn.role, turn.text) for turn in turns]).encode())[:16]}"


@dataclass(slots=True)
class _Draft:
    """An example under construction, to which records are added."""

    name: str
    source: Source
    id: str
    group: str
    keys: tuple[str, ...]
    """Absolute path, or hash of the content, of each image."""
    images: tuple[ImageRef, ...]
    inputs: dict[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    captions: list[Caption] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    label: str | None = None
    objects: dict[str, None] = field(default_factory=dict)
    num_records: int = 0

    def named_images(self) -> dict[str, Any]:
        """The images as an example has them: one by itself, several as a tuple, and none of a text alone."""
        if not self.images:
            return {}
        return {IMAGE: self.images[0] if len(self.images) == 1 else self.images}


class _Collector:
    def __init__(self, finder: ImageFinder, languages: tuple[str, ...], ledger: Ledger, needs_split: bool) -> None:
        self._finder, self._languages, self._ledger, self._needs_split = finder, set(languages), ledger, needs_split
        self._drafts: dict[str, _Draft] = {}
        self._first_with_id: dict[str, Source] = {}
        self._unread: Counter[str] = Counter()
        self._missing: list[str] = []

    def add(self, record: Record) -> None:
        self._ledger.offer()
        try:
            self._merge(record)
        except BadRowError as error:
            self._ledger.reject(record.source, error.code, error.text)
        else:
            self._ledger.use()

    def tell(self, path: Path) -> None:
        """Note how to make more of the data usable, and which languages were left out."""
        if text := advice_on_missing(self._missing, path):
            self._ledger.advise(text)
        if self._unread:
            wanted = sorted(self._languages) if self._ledger.used else []
            key = f"--set data.languages={','.join([*wanted, *sorted(self._unread)])}"
            told = ", ".join(f"{count} texts in {language!r}" for language, count in self._unread.most_common())
            if self._ledger.counts().get("other_language"):
                self._ledger.advise(f"{key} ({told})")
            else:
                self._ledger.note(Source(str(path)), "other_language", f"{told} are not used; {key} uses them")

    def _merge(self, record: Record) -> None:
        if self._needs_split and not record.split:
            raise BadRowError("no_split", "the row names no split, although others do")
        if record.id in self._first_with_id and not record.turns:
            raise BadRowError("duplicate_id", f"the id {record.id!r} was used at {self._first_with_id[record.id]}")
        keys = tuple(
            _key_of(image) if image.embedded else self._found(image.name, record.split) for image in record.images
        )
        inputs = {name: self._input(name, paths, record.split) for name, paths in record.inputs.items()}
        captions, questions = self._wanted(record)
        label = clean_text(record.label) if record.label else None
        # LLaVA's files give several conversations about an image one id.
        key = str(record.source) if record.turns else "\0".join(keys)
        draft = self._drafts.get(key)
        if draft is None:
            images = tuple(one.embedded or image_ref(key) for one, key in zip(record.images, keys, strict=True))
            own, group = clean_text(record.id), clean_text(record.group)
            draft = _Draft(_name_of(record), record.source, own, group, keys, images)
        elif label and draft.label and label != draft.label:
            text = f"the image is {label!r} here and {draft.label!r} at {draft.source}"
            raise BadRowError("conflicting_label", text)
        draft.inputs = inputs | draft.inputs
        draft.turns = record.turns
        draft.captions += captions
        draft.questions += questions
        draft.label = draft.label or label
        draft.objects |= dict.fromkeys(record.objects)
        draft.num_records += 1
        self._drafts[key] = draft
        if record.id:
            self._first_with_id[record.id] = record.source

    def _input(self, name: str, paths: tuple[str, ...], split: str) -> Any:
        """References to the files of a further input; of the modality of that name, else images."""
        modality = MODALITIES.get(name, MODALITIES[IMAGE])
        found = tuple(modality.refer(Path(self._found(path, split))) for path in paths)
        return found[0] if len(found) == 1 else found

    def _found(self, name: str, split: str) -> str:
        try:
            return self._finder.find(name, split)
        except BadRowError as error:
            if error.code in ("missing_image", "path_escape"):
                self._missing.append(name)
            raise

    def _wanted(self, record: Record) -> tuple[list[Caption], list[Question]]:
        """Clean the texts and keep the wanted languages; a record of which nothing remains is refused."""
        notes: list[tuple[str, str]] = []
        captions, questions, foreign = [], [], list[str]()
        for caption in record.captions:
            if not self._speaks(caption.language):
                foreign.append(caption.language)
            elif text := self._cleaned(caption.text, "caption", notes):
                captions.append(Caption(text, caption.language))
        for asked in record.questions:
            if not self._speaks(asked.language):
                foreign.append(asked.language)
                continue
            text = self._cleaned(asked.text, "question", notes)
            answers = tuple(a for a in (self._cleaned(a, "answer", notes) for a in asked.answers) if a)
            if text and answers:
                questions.append(Question(text, answers, clean_text(asked.kind), asked.language))
        language = record.language or _language_of(record.turns)
        if record.turns and not self._speaks(language):
            foreign.append(language)
        self._unread.update(foreign)
        if not captions and not questions and not record.label and (foreign or not record.turns):
            if foreign and not notes:
                raise BadRowError(
                    "other_language", f"no text in the wanted languages ({', '.join(sorted(self._languages))})"
                )
            raise BadRowError(*(notes[0] if notes else ("no_text", "the image has no caption, question or label")))
        for code, text in notes:
            self._ledger.note(record.source, code, text)
        return captions, questions

    def _speaks(self, language: str) -> bool:
        return not self._languages or language in self._languages

    def _cleaned(self, text: str, what: str, notes: list[tuple[str, str]]) -> str:
        try:
            cleaned = clean_text(text)
        except BadRowError as error:
            notes.append((error.code, f"a {what} was dropped: {error.text}"))
            return ""
        if not cleaned:
            notes.append((f"empty_{what}", f"a {what} without visible text was dropped"))
        return cleaned

    def examples(self, base: Path) -> list[Example]:
        """The examples; groups that are made of images are named by their paths relative to `base`."""
        groups = self._groups(base)
        taken: set[str] = set()
        result = []
        for draft, group in zip(self._drafts.values(), groups, strict=True):
            name = draft.id if draft.num_records == 1 and draft.id else os.path.splitext(draft.name)[0]
            if name in taken:
                name = f"{name}-{draft.source.row}" if draft.turns else draft.name
            while name in taken:
                name += "+"
            taken.add(name)
            result.append(
                Example(
                    name,
                    draft.named_images() | draft.inputs,
                    tuple(draft.captions),
                    tuple(draft.questions),
                    draft.turns,
                    draft.label,
                    group,
                    draft.source,
                    objects=tuple(draft.objects),
                )
            )
        return result

    def _groups(self, base: Path) -> list[str]:
        """The stated group of each example; one for all examples that share an image; and that of equal texts."""
        drafts = list(self._drafts.values())
        members = [[os.path.relpath(key, base) if os.path.isabs(key) else key for key in d.keys] for d in drafts]
        members = [names or [_text_key(draft.turns)] for names, draft in zip(members, drafts, strict=True)]
        joined = joined_groups([draft.group for draft in drafts], members)
        sizes = Counter(joined)
        return [
            group if sizes[group] > 1 or not draft.images else draft.group
            for group, draft in zip(joined, drafts, strict=True)
        ]


def _name_of(record: Record) -> str:
    """What an example without an id is called, with a suffix: by its first image, or a conversation by its row."""
    if record.turns or not record.images:
        return f"{Path(record.source.file).stem}-{record.source.row}.row"
    return record.images[0].name.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8


def _language_of(turns: tuple[Turn, ...]) -> str:
    """The language of most turns; "" of none."""
    found = Counter(language_of(turn.text) for turn in turns)
    return found.most_common(1)[0][0] if found else ""
