"""The verb that draws training data: captions of a file -> a folder of images that every recipe reads."""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import Run, load, notes, say
from chiasm.core.files import check_new_folder


def generate(
    run: Run,
    captions: Annotated[Path, typer.Argument(help="A text file with a caption a line, or JSON lines with `caption`.")],
    out: Annotated[Path, typer.Option(help="New folder for the images and their table.")],
    number: Annotated[int, typer.Option("-n", "--number", help="Images of each caption.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first image of each caption.")] = 0,
    guidance: Annotated[float | None, typer.Option(help="How much more than in training the caption counts.")] = None,
    best_of: Annotated[int, typer.Option(help="Draw so many of each caption and keep the best.")] = 0,
    rank_by: Annotated[
        Path | None, typer.Option(help="The run that says which are best: of the task retrieval or matching.")
    ] = None,
) -> None:
    """Draw images of many captions into a folder to train on, beside real ones or alone.

    Further columns of JSON lines, such as a label, go into the folder's table.

    Example: chiasm generate runs/dalle captions.txt --out drawn
    """
    from chiasm.evaluate.measure import ProgressBars
    from chiasm.serve.drawings import Wish
    from chiasm.serve.drawn_data import read_captions, write_drawn

    check_new_folder(out)
    wanted = read_captions(captions)
    model = load(run)
    ranker = None if rank_by is None else load(rank_by)
    sampling = model.sampling(guidance=guidance)
    wish = Wish(n=number, seed=seed, sampling=sampling, best_of=best_of, rank_by=ranker)
    bars = ProgressBars(notes())
    try:
        written = write_drawn(model, wanted, wish, out, bars)
    finally:
        bars.close()
    say(f"{written} images of {len(wanted)} captions in {out}")
    say("Train on them beside real ones:")
    say(f"  chiasm train RECIPE --data DATA --set data.others.drawn.path={out}")
