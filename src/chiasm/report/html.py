"""HTML whose texts are escaped by construction: plain strings are data, only `Markup` is HTML.

Captions, questions and file names come from strangers; no function of the report joins them to tags by hand.
"""

import base64
import html
import io
import unicodedata

import numpy as np
import numpy.typing as npt
from PIL import Image

from chiasm.core.errors import InputError

TINY_PX = 96
"""Images with no longer side are drawn with visible pixels; larger ones are photos."""
TINY_SHOWN_PX = 144
"""A tiny image is enlarged by the whole factor that first reaches this side."""
JPEG_QUALITY = 78


class Markup(str):
    """Text that is HTML already; made only by `element`, `join` and `svg` builders."""

    __slots__ = ()


Child = str | None
"""A plain text (will be escaped), a `Markup`, or nothing."""


def escape(text: Child) -> Markup:
    """Return `text` safe for element content and quoted attributes; control characters become U+FFFD."""
    if text is None:
        return Markup()
    if isinstance(text, Markup):
        return text
    kept = (
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return Markup(html.escape("".join(kept)))


def join(*children: Child) -> Markup:
    """Escape what is plain and put the parts one after the other."""
    return Markup("".join(escape(child) for child in children))


def element(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Build one element.

    Args:
        tag: element name; `img`, `meta`, `br` and `link` get no end tag.
        children: content, in order.
        attributes: `class_` stands for `class`, `data_label` for `data-label`; None leaves one out.
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in ("img", "meta", "br", "link"):
        return Markup(f"<{tag}{named}>")
    return Markup(f"<{tag}{named}>{join(*children)}</{tag}>")


def said(text: str, tag: str = "span", class_: str | None = None, language: str = "") -> Markup:
    """A text by a person or a model, with its language, so that the browser takes the right glyphs and direction."""
    return element(tag, text, class_=class_, lang=language or _script_language(text), dir="auto")


def breakable(name: str) -> Markup:
    """Let `text_to_image_R@1` break after its underscores."""
    first, *rest = name.split("_")
    return join(first, *(join("_", Markup("<wbr>"), part) for part in rest))


def image_element(image: npt.NDArray[np.uint8], alt: str, photo_px: int) -> Markup:
    """An `img` element that carries its own data.

    Args:
        image: uint8 [h, w, 3] RGB. A side of up to 96 pixels is enlarged with sharp pixels and stored as PNG, a
            larger one is stored as JPEG.
        alt: what the image shows, for those who do not see it.
        photo_px: longest stored side of a photo.
    """
    mime, content, size = _encoded(image, photo_px)
    source = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return element("img", src=source, alt=alt, width=size[0], height=size[1])


def _encoded(image: npt.NDArray[np.uint8], photo_px: int) -> tuple[str, bytes, tuple[int, int]]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an image of {image.dtype} {image.shape}", "uint8 [h, w, 3] RGB", "convert it with load_image"
        )
    drawn = Image.fromarray(np.ascontiguousarray(image))
    side, buffer = max(drawn.size), io.BytesIO()
    if side <= TINY_PX:
        factor = -(-TINY_SHOWN_PX // side)
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
        drawn.save(buffer, "PNG", optimize=True)
        return "image/png", buffer.getvalue(), drawn.size
    drawn.thumbnail((photo_px, photo_px), Image.Resampling.LANCZOS)
    drawn.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "image/jpeg", buffer.getvalue(), drawn.size


def _script_language(text: str) -> str | None:
    """Guess what decides the glyphs of shared Chinese characters: kana means Japanese, hangul Korean."""
    if any("\u3040" <= c <= "\u30ff" for c in text):
        return "ja"
    if any("\uac00" <= c <= "\ud7af" for c in text):
        return "ko"
    return "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else None
