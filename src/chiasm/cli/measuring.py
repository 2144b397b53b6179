"""The verbs that measure runs: evaluate, probe."""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import Json, Run, Set, console, print_tables, say, writable, write_result
from chiasm.core.errors import InputError


def evaluate(
    run: Run,
    data: Annotated[Path | None, typer.Option(help="Folder or file; the run's own data if not given.")] = None,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "val",
    against: Annotated[
        Path | None, typer.Option(help="Another run to compare with on the same data.", metavar="RUN")
    ] = None,
    set_: Set = None,
    json_file: Json = None,
) -> None:
    """Measure a run on a split: metrics with count and 95 % interval, and blind scores.

    Blind scores are those of the same model with shuffled images, without images, and without texts.

    Example: chiasm evaluate runs/photos --data PHOTOS --split val --json numbers.json
    """
    from chiasm.api.measuring import evaluate as evaluate_run
    from chiasm.api.overrides import as_overrides
    from chiasm.api.showing import measured_tables
    from chiasm.report.tables import difference_table

    found = evaluate_run(run, data, split, against=against, overrides=as_overrides(set_ or ()))
    print_tables(measured_tables(found.measured), found.measured.ledger)
    for line in found.plan.lines():
        say(f"execution of {line}")
    if found.differences:
        say(f"\n{run} less {against}, on the same images")
        console().print(difference_table(found.measured.rows(), found.differences))
    write_result(json_file, found.as_dict())


def probe(
    run: Run,
    data: Annotated[Path, typer.Option(help="Images with classes: a folder of classes, or files with a label.")],
    split: Annotated[str, typer.Option(help="Split to measure on; not used for fitting or selection.")] = "val",
    shots: Annotated[str, typer.Option(help="Training examples per class, separated by commas; 0 for none.")] = "0",
    draws: Annotated[int, typer.Option(help="Number of draws of the few training examples.")] = 10,
    mirror: Annotated[bool, typer.Option("--mirror", help="Also use every image's mirror image.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(help="Also write tables and curve to this HTML file.", metavar="FILE", callback=writable),
    ] = None,
    set_: Set = None,
    json_file: Json = None,
) -> None:
    """Fit a linear probe on the features of a run's image tower, to measure how well they separate new classes.

    Also measures few-shot probes, over several draws, and zero-shot classification by the class names.

    Example: chiasm probe starter --data CLASSES --split test --shots 1,2,4,8,16 --json probe.json
    """
    from chiasm.api.measuring import probe as probe_run
    from chiasm.api.overrides import as_overrides
    from chiasm.api.showing import probe_tables
    from chiasm.core.files import write_text
    from chiasm.report.linear_probe import probe_page

    counts, typed = _counts(shots), as_overrides(set_ or ())
    found = probe_run(run, data, split, shots=counts, draws=draws, mirror=mirror, overrides=typed)
    print_tables(probe_tables(found.probed), found.ledger)
    if found.probed.why_not:
        say(f"zero-shot was not measured: {found.probed.why_not}")
    if page is not None:
        write_text(page, probe_page(found.probed, str(run)))
    write_result(json_file, found.as_dict())


def _counts(shots: str) -> tuple[int, ...]:
    """Numbers of examples as they are typed: "1,2,4"."""
    words = [word.strip() for word in shots.replace("，", ",").split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise InputError(f"--shots {shots}", "whole numbers separated by commas", "--shots 1,2,4,8,16")
    return tuple(int(word) for word in words)
