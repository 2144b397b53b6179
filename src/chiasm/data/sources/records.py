"""Records that a layout reads, its splits, and the mapping from column names to roles."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError, nearest
from chiasm.core.types import Caption, ImageRef, Question, Source, Turn
from chiasm.data.script import language_of
from chiasm.data.sources.parsing import BadRowError, Rejected
from chiasm.data.sources.walking import subfolders

IMAGE_FOLDERS: tuple[str, ...] = ("images", "Images", "image", "img", "photos", "Flicker8k_Dataset", "Flickr8k_Dataset")
IMAGE_FOLDERS += ("flickr30k-images", "flickr30k_images", "VQA_RAD Image Folder", "train2014", "val2014")
IMAGE_FOLDERS += ("train2017", "val2017", "test2015")
"""Names of folders beside (or up to two levels above) an annotation file that images are looked up in."""

ROLES: dict[str, tuple[str, ...]] = {
    "image": (
        "image",
        "image_path",
        "image_file",
        "image_name",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "file",
        "path",
        "img",
        "img_path",
        "photo",
        "picture",
    ),
    "caption": (
        "caption",
        "captions",
        "text",
        "sentence",
        "sentences",
        "statement",
        "comment",
        "description",
        "report",
    ),
    "question": ("question", "question_text"),
    "questions": ("questions",),
    "answer": ("answer", "answers"),
    "label": ("label", "class", "category", "class_name", "label_name", "finding"),
    "split": ("split", "subset", "partition"),
    "language": ("language", "lang"),
    "id": ("id", "sample_id", "uid", "qid", "question_id"),
    "group": ("group_id", "patient", "patient_id", "patientid", "concept", "identifier"),
    "kind": ("kind", "task", "answer_type", "question_type"),
    "inputs": ("inputs",),
}
"""Role -> usual names of the column, in lower case with _ for space and hyphen."""
UNASSIGNED = "unassigned"
"""Split of the images that stand in none of a layout's lists."""
_FIRST_WINS = ("id", "group", "kind")
"""Roles where several columns are common and the earliest name in `ROLES` is meant; elsewhere two are ambiguous."""
_CAPTIONS_IN = re.compile(r"captions?_([a-z]{2})")
_SYNONYMS = {"training": "train", "dev": "val", "valid": "val", "validation": "val", "testing": "test"}
_SYNONYMS |= {"eval": "test", "evaluation": "test"}
_SPLIT_WORD = re.compile(r"(?<![a-z])(train|training|val|valid|validation|dev|test|testing)(?:\d{4})?(?![a-z0-9])")
_SPLIT_FOLDER = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|eval|evaluation)(?:[_ -]?(?:\d{4}|set|images))?"
)
_ADDRESS_COLUMNS = ("url", "image_url", "img_url", "photo_url", "picture_url", "coco_url", "flickr_url", "link", "uri")
_TRUTH = {"true": "true", "false": "false"}


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image as a row names it."""

    name: str
    """Path as written, relative to one of the reading's folders."""
    embedded: ImageRef | None = None
    """The image itself, where the file holds it; `name` is then only what it is called."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row (or image entry) as its layout wrote it; texts are still raw, turns are clean."""

    source: Source
    images: tuple[NamedImage, ...]
    """One, several, or none of a text alone."""
    id: str = ""
    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()
    label: str | None = None
    group: str = ""
    split: str = ""
    """As written; "" where the layout names none."""
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further inputs -> their paths, as written."""
    turns: tuple[Turn, ...] = ()
    """A conversation, checked; such a record is an example of its own."""
    language: str = ""
    """Of the turns; "" means by their script."""
    objects: tuple[str, ...] = ()
    """Names of the annotated objects, each once."""


@dataclass(slots=True)
class Reading:
    """What a layout read.

    Attributes:
        folders: where relative image paths may start, tried in this order.
        splits: names of the splits that exist; () where the files tell of none.
        records, rejected: what was read, at least all of the wanted split.
        notes: remarks for the ledger.
    """

    folders: list[Path]
    splits: tuple[str, ...] = ()
    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[Rejected] = field(default_factory=list)

    def add(self, record: Record, split: str = "") -> None:
        """Keep a record; `split` is that of its folder or file; a row that names another is rejected."""
        if not split or record.split == split:
            self.records.append(record)
        elif not record.split or canonical_split(record.split) == canonical_split(split):
            self.records.append(replace(record, split=split))
        else:
            text = f"the row says split {record.split!r}, but lies in {split!r}"
            self.rejected.append(Rejected(record.source, "split_conflict", text))

    def reject(self, source: Source, code: str, text: str) -> None:
        """Keep a row that cannot be used."""
        self.rejected.append(Rejected(source, code, text))

    def set_splits_of_records(self) -> None:
        """Take the splits from the records; without a record that names one, there are none."""
        self.splits = tuple(dict.fromkeys(record.split for record in self.records if record.split))


def read_entries(file: Path, entries: Iterable[Any], record: Callable[[Any, Source], Record]) -> Reading:
    """Read a JSON list, one record an entry; an entry that lacks its parts is rejected by its number in the list."""
    reading = Reading(image_folders(file.parent))
    for number, entry in enumerate(entries, 1):
        source = Source(str(file), number)
        try:
            reading.records.append(record(entry, source))
        except BadRowError as error:
            reading.reject(source, error.code, error.text)
    reading.set_splits_of_records()
    return reading


class MissingSplitError(InputError):
    """The files have no split of that name; `names` are those that they have."""

    def __init__(self, path: Path, wanted: str, names: Sequence[str]) -> None:
        self.path, self.wanted, self.names = path, wanted, names
        usual = next((name for name in names if canonical_split(name) != "train"), "val")
        super().__init__(
            f"{path} has no split {wanted!r}{nearest(wanted, names)}",
            ", ".join(names) or "no split at all: the files hold no usable row",
            f"--split {usual} to measure a run on it, --set test_split={usual} to train one",
        )


def canonical_split(name: str) -> str:
    """Return the usual word for a split: "dev", "Validation" and "val2017" are "val", "training" is "train"."""
    return split_of_folder(name) or name.strip().lower()


def split_in_name(name: str) -> str:
    """Return the split that a file is named after ("captions_train2014" -> "train"), or "" without one."""
    found = dict.fromkeys(canonical_split(word) for word in _SPLIT_WORD.findall(name.lower()))
    return next(iter(found)) if len(found) == 1 else ""


def split_of_folder(name: str) -> str:
    """Return the split that a folder is named after as a whole ("train2017", "Validation" -> "val"), or ""."""
    match = _SPLIT_FOLDER.fullmatch(name.strip().lower())
    return _SYNONYMS.get(match[1], match[1]) if match else ""


def choose_split(wanted: str, available: Iterable[str], path: Path) -> str:
    """Return the name in `available` that means `wanted`: the same word, else a synonym.

    Raises:
        InputError: none does, or several; lists those that exist.
    """
    names = list(dict.fromkeys(available))
    if wanted in names:
        return wanted
    meant = [name for name in names if canonical_split(name) == canonical_split(wanted)]
    if len(meant) > 1:
        said = f"{path} has several splits that {wanted!r} may mean: {', '.join(meant)}"
        raise InputError(said, ", ".join(names), "name one of them as it is written")
    if not meant:
        raise MissingSplitError(path, wanted, names)
    return meant[0]


def image_folders(base: Path) -> list[Path]:
    """Return `base`, the usual image folders in it and up to two levels above, and folders of splits in these."""
    base = base.absolute()
    candidates = [up / name for up in (base, *list(base.parents)[:2]) for name in IMAGE_FOLDERS]
    found = [folder for folder in candidates if folder.is_dir()]
    places = [base, *(folder for folder in found if folder.parent == base)]
    by_split = [folder for place in places for folder in subfolders(place) if split_of_folder(folder.name)]
    return list(dict.fromkeys([base, *found, *by_split]))


def text_of(value: Any, code: str) -> str:
    """Return a plain value as text: strings, whole numbers and booleans ("true"); None as "".

    Raises:
        BadRowError: with `code`, for anything else.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    raise BadRowError(code, f"a {type(value).__name__} stands where a text belongs")


def column_word(name: str) -> str:
    """A column's name as `ROLES` writes it: in lower case, with _ for space and hyphen."""
    return re.sub(r"[ -]+", "_", name.strip().lower())


class Columns:
    """Which keys of a row play which role; made once for each distinct set of keys.

    Args:
        names: the keys as written, in order.
        where: what to call the file in the error.

    Raises:
        InputError: no image column, nothing to learn from, or two columns for one role.
    """

    def __init__(self, names: Iterable[str], where: str) -> None:
        self.names = list(names)
        plain = [column_word(name) for name in self.names]
        self.by_role: dict[str, str] = {}
        for role, known in ROLES.items():
            found = sorted(
                (known.index(word), name) for name, word in zip(self.names, plain, strict=True) if word in known
            )
            if len(found) > 1 and role not in _FIRST_WINS:
                raise self._error(f"{where} has {len(found)} columns for the {role}: {', '.join(n for _, n in found)}")
            if found:
                self.by_role[role] = found[0][1]
        matches = ((name, _CAPTIONS_IN.fullmatch(word)) for name, word in zip(self.names, plain, strict=True))
        self.captions_in = [(match[1], name) for name, match in matches if match]
        addresses = [name for name, word in zip(self.names, plain, strict=True) if word in _ADDRESS_COLUMNS]
        if "image" not in self.by_role and addresses:
            given = f"{where} names its images by addresses (column {addresses[0]!r}); nothing is downloaded"
            raise InputError(given, "images on disk", "fetch them, and name the files in a column `image`")
        if "image" not in self.by_role:
            raise self._error(f"{where} has no column that names an image")
        if not self.captions_in and not {"caption", "question", "questions", "label"} & set(self.by_role):
            raise self._error(f"{where} has no column with captions, questions or labels")
        if ("question" in self.by_role) != ("answer" in self.by_role):
            raise self._error(f"{where} has only one of question and answer")

    def _error(self, given: str) -> InputError:
        known = "; ".join(f"{role}: {', '.join(names)}" for role, names in ROLES.items())
        columns = ", ".join(repr(name) for name in self.names)
        return InputError(f"{given} (columns: {columns})", known, "rename the columns so that each role is clear")

    def record(self, source: Source, row: Mapping[str, Any]) -> Record:
        """Understand one row.

        Raises:
            BadRowError: a value has the wrong type, or the image is not named.
        """
        get = {role: row.get(name) for role, name in self.by_role.items()}
        images = paths_of(get.get("image"), "image")
        if not images:
            raise BadRowError("no_image", "the row names no image")
        language = text_of(get.get("language"), "language").strip().lower()
        captions = captions_of(get.get("caption"), language)
        for code, name in self.captions_in:
            captions += captions_of(row.get(name), code)
        questions = tuple(_listed_questions(get.get("questions")))
        kind = text_of(get.get("kind"), "kind").strip()
        if get.get("question") is not None:
            questions += (make_question(get["question"], get.get("answer"), kind, language),)
        label: str | None = text_of(get.get("label"), "label").strip() or None
        if label and label.lower() in _TRUTH and len(captions) == 1 and "question" not in self.by_role:
            # A sentence that is true or false of the image is a question with two answers, no caption.
            questions += (Question(captions[0].text, (_TRUTH[label.lower()],), kind, captions[0].language),)
            captions, label = (), None
        return Record(
            source,
            tuple(map(NamedImage, images)),
            text_of(get.get("id"), "id").strip(),
            captions,
            questions,
            label,
            text_of(get.get("group"), "group").strip(),
            text_of(get.get("split"), "split").strip(),
            _further_inputs(get.get("inputs")),
        )


def paths_of(value: Any, code: str) -> tuple[str, ...]:
    """Understand one path, or a list of paths; () for none.

    Raises:
        BadRowError: with `code`, for anything else, and for a list with an empty path.
    """
    paths = tuple(text_of(one, code).strip() for one in (value if isinstance(value, list) else [value]))
    if paths == ("",):
        return ()
    if not all(paths):
        raise BadRowError(code, "an empty name stands where a file's belongs")
    return paths


def _further_inputs(value: Any) -> dict[str, tuple[str, ...]]:
    """Understand `{"depth": "a.png"}`."""
    if value is None or isinstance(value, str):  # a text column of that name means something else
        return {}
    if not isinstance(value, dict) or "image" in value:
        raise BadRowError("inputs", "`inputs` is no object of names (other than image) and files")
    found = {text_of(name, "inputs"): paths_of(path, "inputs") for name, path in value.items()}
    return {name: paths for name, paths in found.items() if paths}


def captions_of(value: Any, language: str = "") -> tuple[Caption, ...]:
    """Understand one caption or a list of them; `language` "" means by script."""
    texts = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(Caption(text, language or language_of(text)) for text in (text_of(t, "caption") for t in texts))


def make_question(text: Any, answers: Any, kind: str = "", language: str = "") -> Question:
    """Understand a question and its answer, list of answers, or VQAv2 list of `{"answer": ...}`.

    Repeated answers stay, because VQA accuracy counts them; the commonest stands first.

    Raises:
        BadRowError: "no_answer" without any.
    """
    question = text_of(text, "question")
    values = answers if isinstance(answers, list) else [answers]
    plain = [text_of(v.get("answer") if isinstance(v, dict) else v, "answer").strip() for v in values]
    given = [answer for answer in plain if answer]
    if not given:
        raise BadRowError("no_answer", f"the question {question[:60]!r} has no answer")
    first = max(given, key=given.count)
    ordered = [answer for answer in given if answer == first] + [answer for answer in given if answer != first]
    return Question(question, tuple(ordered), kind, language or language_of(question))


def _listed_questions(value: Any) -> Iterable[Question]:
    if value is None:
        return
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRowError("question", "`questions` is no list of objects with question and answer")
    for item in value:
        kind = text_of(next((item[name] for name in ROLES["kind"] if item.get(name) is not None), ""), "kind").strip()
        answers = item.get("answers") if item.get("answers") is not None else item.get("answer")
        text = item.get("question") if item.get("question") is not None else item.get("text")
        yield make_question(text, answers, kind, text_of(item.get("language"), "language"))
