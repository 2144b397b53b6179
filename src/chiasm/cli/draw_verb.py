"""The verb of runs that draw: captions -> a contact sheet."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.cli.shared import Json, Run, doubts, load, note, notes, say, writable, write_result
from chiasm.cli.suggesting import suggesting
from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from chiasm.core.log import Bar
    from chiasm.core.types import Prediction

PATIENCE_S = 2.0
"""Seconds of drawing after which progress is shown."""
SHOWN_PX = 220
"""Side of an image on the sheet; smaller ones are magnified by a whole number."""


# More than eight arguments: each is an option that a person types.
def draw(
    run: Run,
    captions: Annotated[list[str], typer.Argument(help='What the images show; "" varies --start without words.')],
    out: Annotated[
        Path, typer.Option(help="PNG file to write: the image, or a sheet where there are several.", callback=writable)
    ],
    number: Annotated[int, typer.Option("-n", "--number", help="Images of each caption.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first image; the others have the numbers after it.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token each time.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many likeliest tokens; 0 among all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among tokens of this probability together.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How much more than in training the caption counts.")] = None,
    start: Annotated[Path | None, typer.Option(help="An image to complete, vary or change.")] = None,
    keep_rows: Annotated[
        int | None, typer.Option(help="Rows of its tokens to keep, from the top; half if not given.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="An image whose white part of --start is drawn anew.")] = None,
    best_of: Annotated[int, typer.Option(help="Draw so many of each caption and keep the best.")] = 0,
    rank_by: Annotated[
        Path | None, typer.Option(help="The run that says which are best: of the task retrieval or matching.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Draw images for captions, and print their seeds.

    Example: chiasm draw runs/dalle 'a large red circle top left' -n 8 --out sheet.png
    """
    from chiasm.core.files import write_bytes
    from chiasm.serve.drawings import Wish

    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}", "a file that ends in .png", f"--out {out.with_suffix('.png')}")
    model = load(run)
    with suggesting("draw", run, (), captions):
        sampling = model.sampling(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
    wish = Wish(
        n=number,
        seed=seed,
        sampling=sampling,
        start=start,
        keep_rows=keep_rows,
        mask=mask,
        best_of=best_of,
        rank_by=None if rank_by is None else load(rank_by),
    )
    shown = _Progress()
    try:
        found = model.drawings(captions, wish, shown)
    finally:
        shown.close()
    for caption in dict.fromkeys(captions):
        _remark(next(one for one in found if one.answer == caption))
    write_bytes(out, png_of(found))
    for place, one in enumerate(found, 1):
        ranked = f"  ranked {one.evidence['rank_score']:.3f}" if "rank_score" in one.evidence else ""
        say(f"{place:3}  seed {one.evidence['seed']}  {one.confidence:6.1%} a token{ranked}  {one.answer}")
    say(f"{len(found)} images in {out}")
    rows = [{"caption": one.answer, **one.as_dict()} for one in found]
    write_result(json_file, {"file": str(out), "images": rows})


def png_of(found: "list[Prediction]") -> bytes:
    """The only image as it was drawn, or all on a sheet, as a PNG file."""
    from chiasm.data.png import as_png
    from chiasm.report.contact_sheet import Thumbnail, contact_png

    images = [one.image for one in found if one.image is not None]
    if len(images) == 1:
        return as_png(images[0])
    # The packaged font has no Chinese: the terminal tells what caption 2 is.
    captions = dict.fromkeys(one.answer for one in found)
    labels = {text: text if text.isascii() else f"caption {place}" for place, text in enumerate(captions, 1)}
    times = max(1, SHOWN_PX // max(images[0].shape[:2]))
    return contact_png(
        [
            Thumbnail(image.repeat(times, 0).repeat(times, 1), f"seed {one.evidence['seed']}", labels[one.answer])
            for one, image in zip(found, images, strict=True)
        ]
    )


def _remark(drawing: "Prediction") -> None:
    """Print what of a caption was not read, and how it is unlike those of training."""
    said = list(drawing.evidence["remarks"])
    if drawing.domain is not None and drawing.domain.unknown_words:
        said.append("words not in training: " + ", ".join(drawing.domain.unknown_words[:8]))
    for one in [*said, *doubts(drawing)]:
        note(f"{drawing.answer!r}: {one}")


class _Progress:
    """A bar that appears when drawing takes longer than `PATIENCE_S`."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.bar: Bar | None = None

    def __call__(self, done: int, total: int) -> None:
        """One more token."""
        from chiasm.core.log import Bar

        if self.bar is None and time.monotonic() - self.began > PATIENCE_S:
            self.bar = Bar(notes(), "drawing", "tokens", total)
        if self.bar is not None:
            self.bar.update(done)

    def close(self) -> None:
        """End the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
