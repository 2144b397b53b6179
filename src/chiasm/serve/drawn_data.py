"""Drawn images as training data: a folder that every recipe reads, made from captions.

A generator's images can stand beside real ones (`data.others.NAME.path=FOLDER`). They help most where real images are
few (Fan et al. 2024, "Scaling Laws of Synthetic Images for Model Training"; docs/drawing.md has our own table).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chiasm.core.errors import InputError
from chiasm.core.files import new_folder
from chiasm.core.log import Progress
from chiasm.core.types import Prediction
from chiasm.data.png import as_png
from chiasm.data.sources.parsing import Rejected, read_json_lines, read_lines
from chiasm.serve.drawings import MOST_IMAGES, Wish

CAPTION, FILE_NAME = "caption", "file_name"
SPLIT, TABLE = "train", "metadata.jsonl"
"""Drawn images are for training: a score measured on them says nothing about real ones."""
JSON_LINES = (".jsonl", ".ndjson")


class Drawer(Protocol):
    """What draws: a `Model`."""

    def drawings(self, captions: Sequence[str], wish: Wish) -> list[Prediction]:
        """As `Draws.drawings`."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A caption to draw.

    Attributes:
        caption: what the image shows.
        said: further columns of its row, such as a label, which hold for the image too.
    """

    caption: str
    said: Mapping[str, Any]


def read_captions(path: Path) -> list[Wanted]:
    """Read a text file with a caption a line, or JSON lines with `caption` and further columns.

    Empty lines are passed over.

    Raises:
        InputError: no such file, a line that is no text or has no caption, or no caption at all; names the line.
    """
    allowed = 'a caption a line, or JSON lines such as {"caption": "a red circle", "label": "circle"}'
    if not path.is_file():
        raise InputError(f"{path} is no file", allowed, "give the path of the file with the captions")
    found: list[Wanted] = []
    is_json = path.suffix.lower() in JSON_LINES
    for source, line in read_json_lines(path) if is_json else read_lines(path):
        if isinstance(line, Rejected):
            raise InputError(f"{line.source}: {line.text}", allowed, "correct the line, or leave it out")
        row: Mapping[str, Any] = line if isinstance(line, dict) else {CAPTION: line}
        caption = row.get(CAPTION)
        if not isinstance(caption, str) or (is_json and not caption.strip()):
            raise InputError(f"{source}: no {CAPTION!r} in the line", allowed, "correct the line, or leave it out")
        if caption.strip():
            said = {key: value for key, value in row.items() if key not in (CAPTION, FILE_NAME)}
            found.append(Wanted(caption.strip(), said))
    if not found:
        raise InputError(f"{path} has no caption", allowed, "write captions into it")
    return found


def write_drawn(model: Drawer, wanted: Sequence[Wanted], wish: Wish, folder: Path, progress: Progress) -> int:
    """Draw `wish.n` images of each caption into a new folder in the layout "imagefolder", and return their number.

    The folder appears when all are drawn. A row of its table has the image's file, the caption, the seed, and what else
    the caption's row had.

    Args:
        model: a run of the task drawing.
        wanted: captions.
        wish: how each is drawn.
        folder: absent, or empty.
        progress: called with (captions done, captions in all, what).

    Raises:
        InputError: something stands there; as `Draws.drawings`.
    """
    wish.check(1)
    at_once = max(1, min(64, MOST_IMAGES // wish.candidates))
    rows: list[str] = []
    with new_folder(folder) as place:
        (place / SPLIT).mkdir()
        for start in range(0, len(wanted), at_once):
            some = wanted[start : start + at_once]
            drawn = model.drawings([one.caption for one in some], wish)
            for number, image in enumerate(drawn):
                assert image.image is not None, "a drawing"
                name = f"{len(rows):06}.png"
                (place / SPLIT / name).write_bytes(as_png(image.image))
                row = {FILE_NAME: name, CAPTION: image.answer, "seed": image.evidence["seed"]}
                rows.append(json.dumps({**some[number // wish.n].said, **row}, ensure_ascii=False) + "\n")
            progress(min(start + at_once, len(wanted)), len(wanted), "drawing captions")
        (place / SPLIT / TABLE).write_text("".join(rows), encoding="utf-8")
    return len(rows)
