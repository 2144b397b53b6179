"""The verb that makes runs smaller: compress."""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import Json, console, note, say, write_result


# More than eight arguments: each is an option of the command line, which typer reads from the signature.
def compress(
    run: Annotated[Path, typer.Argument(help="A run folder; or a folder in the layout of Hugging Face or open_clip.")],
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            help="int8, bf16, pruned25, pruned50, layers25, layers50, or several joined by +; may be repeated: the "
            "smallest that passes is written.",
            metavar="HOW",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to create.")],
    data: Annotated[Path | None, typer.Option(help="Folder or file; the run's own data if not given.")] = None,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "val",
    max_loss: Annotated[
        float, typer.Option("--max-loss", help="Points (hundredths) of the primary metric that may be lost.")
    ] = 1.0,
    json_file: Json = None,
) -> None:
    """Write a smaller run folder, if what it loses on your data is small enough.

    Each variant is measured beside the run as it was: score and interval of the difference, cosine, size, latency and
    memory. The exit status is 1, and nothing is written, if every variant loses more than --max-loss.

    Example: chiasm compress runs/photos --to int8 --to bf16 --data PHOTOS --out runs/small
    """
    from chiasm.api.compressing import compress as compress_run
    from chiasm.report.compression import compression_table

    found = compress_run(run, out, to, data, split, max_loss=max_loss)
    console().print(compression_table(found.variants, found.metric), highlight=False)
    for remark in found.remarks:
        note(remark)
    say(f"{found.chosen} is in {out}; all variants are in {out / 'compression.html'}")
    write_result(json_file, found.as_dict())
