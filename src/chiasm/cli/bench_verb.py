"""The verb that measures speed: bench."""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import Json, console, note, say, writable, write_result


# More than eight arguments: each is an option of the command line, which typer reads from the signature.
def bench(
    run: Annotated[
        Path,
        typer.Argument(help="A run folder; a folder in the layout of Hugging Face or open_clip; or the word starter."),
    ] = Path("starter"),
    data: Annotated[Path | None, typer.Option(help="Folder or file; the run's own data if not given.")] = None,
    split: Annotated[str, typer.Option(help="Split whose images and texts are taken.")] = "val",
    batch: Annotated[int, typer.Option(min=1, help="Images, and texts, that are given at once.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each engine is timed once a round.")] = 5,
    page: Annotated[
        Path | None,
        typer.Option(help="Also write tables as bars to this HTML file.", metavar="FILE", callback=writable),
    ] = None,
    json_file: Json = None,
) -> None:
    """Measure how fast a model is here, beside other engines with its weights, and the limits of the machine.

    Engines are chiasm under each execution plan, and whichever of transformers, sentence-transformers, open_clip, ONNX
    Runtime and OpenVINO is installed and takes the model. Rounds are interleaved, numbers are medians, and each has its
    cosine to fp32.

    Example: chiasm bench runs/photos --data PHOTOS --json bench.json --page bench.html
    """
    from chiasm.api.benchmarking import bench as bench_run
    from chiasm.core.files import write_text
    from chiasm.report.speed import bench_page, bench_tables, limits_lines

    found = bench_run(run, data, split, batch=batch, rounds=rounds)
    for line in limits_lines(found.bench):
        say(line)
    for table in bench_tables(found.bench):
        say("")
        console().print(table, highlight=False)
    for name, part in found.plan.items():
        say(f"{name}, as auto chose: {part['format']}, {part['why']}")
    for name, reason in found.bench.absent.items():
        note(f"{name}: {reason}")
    if page is not None:
        write_text(page, bench_page(found.bench, found.run, found.environment))
    write_result(json_file, found.as_dict())
