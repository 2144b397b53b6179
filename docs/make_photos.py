"""Draw docs/photos.jpg: `python docs/make_photos.py PHOTOS CAPTIONS_RUN`.

PHOTOS is a folder with the photos of docs/photos.md under the names given there; CAPTIONS_RUN a run of the recipe
`flickr8k_captions`. Search and labels come from the starter, which nobody trained; every number is the model's own.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import chiasm

QUERIES = ("a cup of coffee", "a mountain trail", "zwei Hunde am Zaun")
LABELS = ("cat", "dog", "flower", "mountain", "building", "person", "cup of coffee")
ASKED = ("cat", "pavilion", "dahlia", "cameraman")
CAPTIONED = ("cameraman", "dogs", "brook", "coffee")
WIDTH, EDGE, GAP = 1200, 24, 16
INK, GREY, BLUE, AMBER = "#1c1d22", "#6b6c73", "#7a9fd8", "#8a5a00"


def font(size_px: int, style: str = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, `style` "-Bold" or ""."""
    return ImageFont.truetype(f"DejaVuSans{style}.ttf", size_px)


class Sheet:
    """A page that grows downwards."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, 1600), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.top = EDGE

    def heading(self, title: str, note: str) -> None:
        """A line of bold text and a grey note behind it."""
        self.draw.text((EDGE, self.top), title, INK, font(22, "-Bold"))
        left = EDGE + self.draw.textlength(title, font(22, "-Bold")) + 12
        self.draw.text((left, self.top + 5), note, GREY, font(15))
        self.top += 40

    def photo(self, file: Path, left: int, top: int, width_px: int, height_px: int) -> None:
        """A photo, cut to the size that is given."""
        with Image.open(file) as image:
            self.image.paste(ImageOps.fit(image.convert("RGB"), (width_px, height_px)), (left, top))

    def lines(self, text: str, left: int, top: int, width_px: int, ink: str, size_px: int) -> int:
        """Text broken into lines; where the next line would begin."""
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if self.draw.textlength(longer, font(size_px)) > width_px:
                self.draw.text((left, top), line, ink, font(size_px))
                top, longer = top + size_px + 5, word
            line = longer
        self.draw.text((left, top), line, ink, font(size_px))
        return top + size_px + 5


def draw_search(sheet: Sheet, model: chiasm.Model, files: list[Path]) -> None:
    """A query a column, the nearest photo large, the next two small, each with its cosine."""
    sheet.heading("Search", f"{len(files)} photos, words in any of sixteen languages; cosine similarity")
    vectors = model.encode_image(files)
    width = (WIDTH - 2 * EDGE - 2 * GAP) // 3
    large, small = width * 2 // 3 - 4, width // 3 - 4
    for column, query in enumerate(QUERIES):
        left = EDGE + column * (width + GAP)
        cosines = vectors @ model.encode_text(query)
        best = np.argsort(-cosines)[:3]
        sheet.draw.text((left, sheet.top), f"“{query}”", INK, font(17))
        sheet.photo(files[best[0]], left, sheet.top + 30, large, 210)
        sheet.draw.text((left, sheet.top + 244), f"{cosines[best[0]]:.2f}", GREY, font(14))
        for row, number in enumerate(best[1:]):
            top = sheet.top + 30 + row * 108
            sheet.photo(files[number], left + large + 8, top, small, 84)
            sheet.draw.text((left + large + 8, top + 86), f"{cosines[number]:.2f}", GREY, font(14))
    sheet.top += 284


def draw_labels(sheet: Sheet, model: chiasm.Model, files: dict[str, Path]) -> None:
    """Four photos, each with its three likeliest labels."""
    sheet.heading("Ask", f"which of these is it: {', '.join(LABELS)}?")
    width = (WIDTH - 2 * EDGE - 3 * GAP) // 4
    for column, name in enumerate(ASKED):
        left = EDGE + column * (width + GAP)
        sheet.photo(files[name], left, sheet.top, width, 180)
        found = sorted(model.classify(files[name], LABELS).evidence["labels"], key=lambda one: -one["probability"])
        for row, (label, share) in enumerate((one["label"], one["probability"]) for one in found[:3]):
            top = sheet.top + 190 + row * 24
            sheet.draw.rectangle((left, top, left + max(2, round(width * share)), top + 20), fill=BLUE)
            sheet.draw.text((left + 6, top + 1), f"{label} {share:.0%}", INK, font(14))
    sheet.top += 280


def draw_captions(sheet: Sheet, model: chiasm.Model, files: dict[str, Path]) -> None:
    """Four photos, each with a sentence, its confidence, and whether it is unlike the training photos."""
    sheet.heading("Caption", "learned from 6,000 photos; one that is unlike them is reported")
    width = (WIDTH - 2 * EDGE - 3 * GAP) // 4
    bottom = sheet.top
    for column, name in enumerate(CAPTIONED):
        left = EDGE + column * (width + GAP)
        sheet.photo(files[name], left, sheet.top, width, 180)
        written = model.caption(files[name])
        top = sheet.lines(f"{written.answer} ({written.confidence:.0%})", left, sheet.top + 188, width, INK, 15)
        if written.domain is not None and written.domain.is_outside:
            said = f"unlike the training photos (distance {written.domain.image_distance:.1f}, limit 1)"
            top = sheet.lines(said, left, top, width, AMBER, 14)
        bottom = max(bottom, top)
    sheet.top = bottom


def main() -> None:
    """Read the photos, ask the models, write the figure."""
    folder, run = Path(sys.argv[1]), sys.argv[2]
    files = {file.stem: file for file in sorted(folder.glob("*.jpg"))}
    starter, sheet = chiasm.load("starter"), Sheet()
    draw_search(sheet, starter, list(files.values()))
    draw_labels(sheet, starter, files)
    draw_captions(sheet, chiasm.load(run), files)
    target = Path(__file__).resolve().parent / "photos.jpg"
    sheet.image.crop((0, 0, WIDTH, sheet.top + EDGE)).save(target, quality=85)


if __name__ == "__main__":
    main()
