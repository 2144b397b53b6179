"""Output of `chiasm search`: result lines with short paths, weak matches, and a contact sheet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from chiasm.serve.index import Hit
    from chiasm.serve.index.strength import Strength

LEAST_SHOWN = 3
"""Number of results shown for a weak match."""
SHEET_ENDINGS = (".html", ".htm", ".png")
READ_PX = 600
"""Decoding may stop at this size; the sheet is smaller."""


@dataclass(frozen=True, slots=True)
class Found:
    """A search result for display.

    Attributes:
        hits: all hits, best first.
        strength: comparison with the results of unrelated names; None if unknown.
        shows_all: whether to show hits that match no better than unrelated names.
        folder: the searched folder, for short paths; None for an index.
        searched: number of images searched.
    """

    hits: "Sequence[Hit]"
    strength: "Strength | None"
    shows_all: bool
    folder: Path | None
    searched: int

    def shown(self) -> "list[tuple[Hit, bool]]":
        """The hits to show, each with True if it matches better than unrelated names."""
        fits = self.strength.fits if self.strength else (True,) * len(self.hits)
        weak = self.strength is not None and self.strength.is_weak
        marked = [(hit, fit and not weak) for hit, fit in zip(self.hits, fits, strict=True)]
        if self.shows_all:
            return marked
        return marked[:LEAST_SHOWN] if weak else [(hit, fit) for hit, fit in marked if fit]

    def remark(self) -> str:
        """The message above a weak match; "" otherwise."""
        if self.strength is None or not self.strength.is_weak:
            return ""
        share = f"{100 * self.strength.unrelated:.0f} % of {self.strength.names} unrelated words"
        return f"weak match: {share} (a robin, a bullfrog, ...) find an image here that stands out as much"

    def rest(self) -> str:
        """The message about hits that are not shown; "" if all are shown."""
        left = len(self.hits) - len(self.shown())
        if not left:
            return ""
        return f"{left} more of the nearest {len(self.hits)} fit no better than unrelated words would: --all shows them"

    def root(self) -> str:
        """The folder that short paths are relative to; "" for full paths."""
        if self.folder is not None:
            place = self.folder.resolve()
            return str(place.parent if place.is_file() else place)
        places = {os.path.dirname(hit.path) for hit in self.hits}
        return os.path.commonpath(places) if places else ""

    def short(self, path: str) -> str:
        """An image's path relative to `root`."""
        root = self.root().rstrip(os.sep) + os.sep
        return path.removeprefix(root) if len(root) > 1 else path

    def as_rows(self) -> list[dict[str, Any]]:
        """All hits for `--json`, including those that are not shown."""
        fits = self.strength.fits if self.strength else (None,) * len(self.hits)
        return [
            {
                "id": hit.id,
                "path": hit.path,
                "similarity": hit.similarity,
                **({} if hit.score is None else {"score": hit.score}),
                **({} if fit is None else {"fits": fit}),
                "metadata": hit.metadata,
            }
            for hit, fit in zip(self.hits, fits, strict=True)
        ]


def score_of(hit: "Hit") -> str:
    """The printed score: the cosine, after the probability of re-ranking if there is one."""
    return ("" if hit.score is None else f"{hit.score:6.1%}  ") + f"{hit.similarity:+.3f}"


def print_found(found: Found) -> None:
    """Print the result: lines to standard output, remarks to standard error."""
    from rich.markup import escape

    from chiasm.cli.shared import notes, say

    if found.remark():
        notes().print(f"[yellow]{escape(found.remark())}[/yellow]", highlight=False, soft_wrap=True)
    for hit, fits in found.shown():
        say(f"{score_of(hit)}  {found.short(hit.path)}" + ("" if fits else "  (weak)"))
    if found.hits:
        notes().print(f"paths are below {found.root()}", highlight=False, markup=False, soft_wrap=True)
    if found.rest():
        notes().print(found.rest(), highlight=False, markup=False, soft_wrap=True)


def check_sheet(path: Path | None) -> None:
    """Check the suffix of the contact sheet before searching."""
    if path is not None and path.suffix.lower() not in SHEET_ENDINGS:
        raise InputError(f"--page {path}", "a file that ends in " + " or ".join(SHEET_ENDINGS), "--page found.html")


def write_sheet(path: Path, query: str, found: Found) -> None:
    """Write the contact sheet as an HTML page, or as a PNG image for the suffix .png."""
    from chiasm.core.files import write_bytes, write_text
    from chiasm.report.contact_sheet import Thumbnail, contact_page, contact_png

    sheet = [
        Thumbnail(_thumbnail(hit.path), score_of(hit).strip(), found.short(hit.path), fits)
        for hit, fits in found.shown()
    ]
    if path.suffix.lower() == ".png":
        write_bytes(path, contact_png(sheet))
        return
    foot = ". ".join(filter(None, [f"{found.searched:,} images searched, below {found.root()}", found.rest()]))
    write_text(path, contact_page(query, found.remark().capitalize(), sheet, f"{foot}."))


def _thumbnail(path: str) -> "npt.NDArray[np.uint8] | None":
    """The image; None if its file is missing or broken."""
    from chiasm.data.image import ImageError, load_image, read_image_bytes

    try:
        return load_image(read_image_bytes(path), path, READ_PX)
    except ImageError:
        return None
