"""From records to examples: find each image, keep the wanted language, put all about one image together."""

import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import Caption, Example, ImageRef, Question, Source
from chiasm.data.image import SUFFIXES
from chiasm.data.image_refs import image_ref
from chiasm.data.ledger import Ledger
from chiasm.data.sources.advice import advice_on_encoding, advice_on_missing
from chiasm.data.sources.parsing import BadRowError, clean_text
from chiasm.data.sources.records import UNASSIGNED, Reading, Record, canonical_split, choose_split, split_of_folder

FEW_GROUPS = 400
"""Number of groups below which splits are drawn by rank."""
_WEB = re.compile(r"(?:https?|ftp|s3|gs)://", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|(?:file|pipe|data):|[A-Za-z]:[\\/]")


def collect(
    reading: Reading, path: Path, split: str, languages: tuple[str, ...], ledger: Ledger
) -> tuple[list[Example], tuple[str, ...]]:
    """Turn the records of one split into examples, one an image, in the order of their first record.

    An image with one record keeps that record's id; with several, or without an id, the example is called by the
    image's path without its suffix.

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
    return collector.examples(), splits


def _note_missing(record: Record, finder: "ImageFinder", ledger: Ledger) -> None:
    """Note a missing image of a record without a split (Flickr8k names one), since no split reads that record."""
    try:
        if record.embedded is None:
            finder.find(record.image, record.split)
    except BadRowError as error:
        ledger.note(record.source, error.code, f"{error.text}; it is in no split")


def _hashed_split(
    records: list[Record], split: str, path: Path, ledger: Ledger
) -> tuple[list[Record], tuple[str, ...]]:
    """Draw the split of each group by a hash of its name, the same on every run: 5 % val, 5 % test, the rest train.

    Of fewer than `FEW_GROUPS` groups, those with the smallest hashes are taken, and more than 5 %: a tenth of them up
    to ten, and two of eight or more, so that there is something to measure.
    """
    group_of = {record.source: record.group or _image_of(record) for record in records}
    groups = set(group_of.values())
    if len(groups) < FEW_GROUPS:
        held = min(max(len(groups) // 20, min(10, max(2, len(groups) // 10))), len(groups) // 4)
        ordered = sorted(groups, key=lambda group: (counter_seed("split", group), group))
        drawn = dict.fromkeys(ordered, "train") | dict.fromkeys(ordered[held : 2 * held], "test")
        drawn |= dict.fromkeys(ordered[:held], "val")
    else:
        places = {group: counter_seed("split", group) % 100 for group in groups}
        drawn = {group: "train" if at < 90 else "val" if at < 95 else "test" for group, at in places.items()}
    by_split: dict[str, list[Record]] = {}
    for record in records:
        by_split.setdefault(drawn[group_of[record.source]], []).append(record)
    splits = tuple(name for name in ("train", "val", "test") if name in by_split)
    counts = Counter(drawn.values())
    told = ", ".join(f"{counts[name]} {name}" for name in splits)
    text = f"the files tell of no split; {told} were drawn by a hash of each image's group"
    ledger.note(Source(str(path)), "split_drawn", text)
    return by_split[choose_split(split, splits, path)], splits


def _image_of(record: Record) -> str:
    """Key of a record's image: the content's hash where the file embeds it, else the path as written."""
    return record.embedded.content_key() if record.embedded else os.path.normpath(record.image)


class ImageFinder:
    """Looks images up in folders that are listed once each, instead of asking the disk for every row.

    Symbolic links are followed; a name that leads out of all the folders by itself ("..", an absolute path, an
    address) is refused. Where a folder is named after the record's split, those of other splits are not looked into:
    `1.jpg` of "val" is never the one in `train/`. A file whose name differs in case, in Unicode form, in the slashes
    of Windows, or by a suffix that the record leaves out, is taken where just one fits.
    """

    def __init__(self, folders: list[Path]) -> None:
        self._roots = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
        self._roots_of: dict[str, list[str]] = {}
        self._listed: dict[str, dict[str, bool]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, split: str = "") -> str:
        """Return the path of the image called `name`.

        Raises:
            BadRowError: "address", "path_escape", "missing_image" or "not_regular".
        """
        if _WEB.match(name):
            raise BadRowError("address", f"{name[:200]!r} is an address, and nothing is downloaded")
        if _ADDRESS.match(name) or "\0" in name:
            raise BadRowError("path_escape", f"{name[:200]!r} is no path inside the data")
        found = self._find(name, split) or ("\\" in name and self._find(name.replace("\\", "/"), split))
        if found:
            return found
        raise BadRowError("missing_image", f"there is no image {name[:200]!r}")

    def _find(self, name: str, split: str) -> str:
        places = [os.path.normpath(os.path.join(root, name)) for root in self._roots_for(split)]
        inside = [one for one in places if any(one.startswith(root.rstrip("/") + "/") for root in self._roots)]
        if not inside:
            raise BadRowError("path_escape", f"{name[:200]!r} leads out of the data")
        parts = [full.rsplit("/", 1) for full in inside]
        for full, (folder, base) in zip(inside, parts, strict=True):
            is_file = self._list(folder).get(base)
            if is_file:
                return full
            if is_file is False:
                raise BadRowError("not_regular", f"{name[:200]!r} is no regular file")
        return next((f"{folder}/{alike}" for folder, base in parts if (alike := self._similar(folder, base))), "")

    def _roots_for(self, split: str) -> list[str]:
        """The folders to look into, those of this very split first."""
        wanted = canonical_split(split)
        if wanted not in self._roots_of:
            named = {root: split_of_folder(os.path.basename(root)) for root in self._roots}
            own = [root for root in self._roots if wanted and named[root] == wanted]
            rest = [root for root in self._roots if root not in own and not (own and named[root])]
            self._roots_of[wanted] = own + rest
        return self._roots_of[wanted]

    def _similar(self, folder: str, base: str) -> str:
        """The one file of a folder whose name differs from `base` in writing alone; "" where none or several do."""
        if folder not in self._alike:
            alike: dict[str, list[str]] = {}
            for name, is_file in self._listed[folder].items():
                stem, suffix = os.path.splitext(name)
                if is_file:
                    alike.setdefault(_plain(name), []).append(name)
                if is_file and suffix.lower() in SUFFIXES:
                    alike.setdefault(_plain(stem), []).append(name)
            self._alike[folder] = alike
        found = self._alike[folder].get(_plain(base), [])
        return found[0] if len(found) == 1 else ""

    def _list(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a regular file (or a link to one); links that lead nowhere are left out."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = {
                        e.name: e.is_file() for e in entries if not e.is_symlink() or os.path.exists(e.path)
                    }
            except (OSError, ValueError):  # a name may hold half of a surrogate pair
                self._listed[folder] = {}
        return self._listed[folder]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(slots=True)
class _Draft:
    """An example under construction, to which records are added."""

    name: str
    source: Source
    id: str
    group: str
    image: ImageRef
    captions: list[Caption] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    label: str | None = None
    objects: dict[str, None] = field(default_factory=dict)
    num_records: int = 0


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
            if error.code in ("missing_image", "path_escape"):
                self._missing.append(record.image)
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
        if record.id in self._first_with_id:
            raise BadRowError("duplicate_id", f"the id {record.id!r} was used at {self._first_with_id[record.id]}")
        full = _image_of(record) if record.embedded else self._finder.find(record.image, record.split)
        captions, questions = self._wanted(record)
        label = clean_text(record.label) if record.label else None
        draft = self._drafts.get(full)
        if draft is None:
            image = record.embedded or image_ref(full)
            name = record.image.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8
            draft = _Draft(name, record.source, clean_text(record.id), clean_text(record.group), image)
        elif label and draft.label and label != draft.label:
            text = f"the image is {label!r} here and {draft.label!r} at {draft.source}"
            raise BadRowError("conflicting_label", text)
        draft.captions += captions
        draft.questions += questions
        draft.label = draft.label or label
        draft.objects |= dict.fromkeys(record.objects)
        draft.num_records += 1
        self._drafts[full] = draft
        if record.id:
            self._first_with_id[record.id] = record.source

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
        self._unread.update(foreign)
        if not captions and not questions and not record.label:
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

    def examples(self) -> list[Example]:
        taken: set[str] = set()
        result = []
        for draft in self._drafts.values():
            name = draft.id if draft.num_records == 1 and draft.id else os.path.splitext(draft.name)[0]
            if name in taken:
                name = draft.name
            while name in taken:
                name += "+"
            taken.add(name)
            result.append(
                Example(
                    name,
                    {"image": draft.image},
                    tuple(draft.captions),
                    tuple(draft.questions),
                    label=draft.label,
                    group=draft.group,
                    source=draft.source,
                    objects=tuple(draft.objects),
                )
            )
        return result
