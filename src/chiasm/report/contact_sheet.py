"""Contact sheet of search results: thumbnails in order with score and path, as a page or as an image."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from chiasm.report.html import Markup, element, image_element, said
from chiasm.report.page import document

THUMBNAIL_PX = 300
_CELL_PX, _TEXT_PX, _GAP_PX, _COLUMNS = 220, 15, 12, 5


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One image of a sheet.

    Attributes:
        image: uint8 [h, w, 3] RGB, or None where the file cannot be read any more.
        score: as it is printed.
        path: short, as it is printed.
        fits: False where the image fits no better than it would fit unrelated words.
    """

    image: npt.NDArray[np.uint8] | None
    score: str
    path: str
    fits: bool = True


def contact_page(query: str, remark: str, found: Sequence[Thumbnail], foot: str) -> Markup:
    """The sheet as a page in the report's style: one file without script or outside requests.

    Args:
        query: text of the search.
        remark: stands in a box above the images; "" for none.
        found: best first.
        foot: the searched folders, and the files that were left out.
    """
    cards = []
    for place, thumbnail in enumerate(found, 1):
        shown = (
            image_element(thumbnail.image, f"Result {place}: {thumbnail.path}", THUMBNAIL_PX)
            if thumbnail.image is not None
            else None
        )
        weak = element("span", " · weak", class_="is-wrong") if not thumbnail.fits else None
        lines = element("strong", f"{place}. {thumbnail.score}", weak), said(thumbnail.path, "p", "muted")
        cards.append(element("li", shown, element("div", *lines, class_="card-text"), class_="card"))
    header = element(
        "header",
        element("p", "chiasm search", class_="brand"),
        said(query or "like the given image", "h1"),
        element("p", foot, class_="muted"),
        element("p", remark, class_="panel is-weak") if remark else None,
    )
    return document(f"chiasm search: {query}", header, [element("section", element("ol", *cards, class_="contact"))])


def contact_png(found: Sequence[Thumbnail]) -> bytes:
    """The sheet as a PNG file: five images a row, place and score above the end of the path."""
    count = max(len(found), 1)
    columns = min(_COLUMNS, count)
    height = _CELL_PX + 3 * _TEXT_PX
    size = columns * (_CELL_PX + _GAP_PX) + _GAP_PX, -(-count // columns) * (height + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_PX - 2)
    for number, thumbnail in enumerate(found):
        left = _GAP_PX + (number % columns) * (_CELL_PX + _GAP_PX)
        top = _GAP_PX + (number // columns) * (height + _GAP_PX)
        if thumbnail.image is not None:
            shown = Image.fromarray(thumbnail.image)
            shown.thumbnail((_CELL_PX, _CELL_PX), Image.Resampling.LANCZOS)
            sheet.paste(shown, (left + (_CELL_PX - shown.width) // 2, top + (_CELL_PX - shown.height) // 2))
        text = f"{number + 1}. {thumbnail.score}" + ("" if thumbnail.fits else "  weak")
        draw.text((left, top + _CELL_PX + 2), text, "black", font)
        draw.text((left, top + _CELL_PX + 2 + _TEXT_PX), _end(thumbnail.path, draw, font), "dimgrey", font)
    written = io.BytesIO()
    sheet.save(written, "PNG", optimize=True)
    return written.getvalue()


def _end(path: str, draw: ImageDraw.ImageDraw, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """As much of the end of a path as is as wide as a cell; letters that the packaged font lacks become "?"."""
    text = path.encode("latin-1", "replace").decode("latin-1")
    for start in range(len(text)):
        shown = text[start:] if start == 0 else "..." + text[start:]
        if draw.textlength(shown, font) <= _CELL_PX:
            return shown
    return ""
