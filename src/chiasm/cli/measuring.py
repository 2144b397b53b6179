"""The verbs that measure runs: evaluate, probe."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.cli.shared import (
    Json,
    Run,
    Set,
    change,
    check_settable,
    console,
    load,
    notes,
    print_measured,
    say,
    writable,
    write_result,
)
from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from chiasm.data.config import DataConfig
    from chiasm.serve.engine import Model
    from chiasm.tasks.scoring import Outcome


def evaluate(
    run: Run,
    data: Annotated[Path | None, typer.Option(help="Folder or file; the run's own data if not given.")] = None,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "val",
    against: Annotated[
        Path | None, typer.Option(help="Another run; how far the two differ on the same data.", metavar="RUN")
    ] = None,
    set_: Set = None,
    json_file: Json = None,
) -> None:
    """Measure a run on a split: metrics with count, 95 % interval, and the scores without seeing or reading.

    The same model is also measured with each question put to another picture, with no picture, and with no text.

    Example: chiasm evaluate runs/photos --data PHOTOS --split val --json numbers.json
    """
    from chiasm.core.device import environment
    from chiasm.evaluate.comparison import paired_differences
    from chiasm.evaluate.measure import measure, open_prepared
    from chiasm.report.tables import difference_table
    from chiasm.tasks.scoring import scores_as_json

    typed = set_ or []
    check_settable(typed, ("data.", "seed=", "decoding."))
    model, other = load(run), load(against) if against else None
    pipeline = model.pipeline
    chosen = pipeline.config.data
    if data is not None:
        chosen = _of_files(chosen, data)
    change(pipeline, chosen, typed)
    second = _seen(other, model, split, typed) if other else None
    examples, ledger = open_prepared(pipeline, split, notes())
    measured = measure(pipeline, examples, ledger, split, notes())
    differences = paired_differences(measured.outcome, second, pipeline.config.seed) if second else {}
    print_measured(measured)
    if differences:
        say(f"\n{run} less {against}, on the same pictures")
        console().print(difference_table(measured.rows(), differences))
    header = {"run": str(run), "data": str(data or pipeline.config.data.path or pipeline.config.data.source)}
    scores = scores_as_json(measured.outcome, measured.blind)
    told = {name: asdict(one) for name, one in differences.items()}
    compared = {"against": {"run": str(against), "differences": told}} if against else {}
    ends = {**compared, "ledger": ledger.summary(), "environment": environment()}
    write_result(json_file, {**header, "split": split, **scores, **ends})


def probe(
    run: Run,
    data: Annotated[Path, typer.Option(help="Pictures with classes: a folder of classes, or files with a label.")],
    split: Annotated[str, typer.Option(help="Split to measure on; it is neither fitted nor chosen on.")] = "val",
    shots: Annotated[str, typer.Option(help="Examples a class to learn from, separated by commas; 0 for none.")] = "0",
    draws: Annotated[int, typer.Option(help="How often the few examples are drawn.")] = 10,
    mirror: Annotated[bool, typer.Option("--mirror", help="Also use every picture's mirror image.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(help="Also write tables and curve to this HTML file.", metavar="FILE", callback=writable),
    ] = None,
    set_: Set = None,
    json_file: Json = None,
) -> None:
    """Say how well a run's image tower serves for new classes: a linear map of its features, fitted on labels.

    Beside it: the map of a few examples a class, drawn several times, and the classes by their names alone.

    Example: chiasm probe starter --data CLASSES --split test --shots 1,2,4,8,16 --json probe.json
    """
    from chiasm.core.device import environment
    from chiasm.core.files import write_text
    from chiasm.evaluate.linear_probe.run import probe as run_probe
    from chiasm.report.linear_probe import probe_page
    from chiasm.report.tables import metric_table

    typed, counts = set_ or [], _counts(shots)
    check_settable(typed, ("data.", "seed="))
    if draws < 2:
        raise InputError(f"--draws {draws}", "2 or more, 10 are usual", "an interval over draws needs several")
    pipeline = load(run).pipeline
    change(pipeline, _of_files(pipeline.config.data, data), typed)
    probed, ledger = run_probe(pipeline, split, counts, draws, mirror, notes())
    counted = probed.counts
    told = f"linear probe: {counted['fitted']} pictures fitted, {counted['choosing']} choose the weight decay "
    console().print(metric_table(probed.rows(), f"{told}({probed.decay:g}), {counted['measured']} of {split!r}"))
    if rows := probed.shot_rows():
        console().print(metric_table(rows, f"\nfew shots: mean over draws and its interval; n: {draws} draws"))
    if probed.why_not:
        say(f"zero-shot was not measured: {probed.why_not}")
    if ledger.rejected:
        say(ledger.summary())
    if page is not None:
        write_text(page, probe_page(probed, str(run)))
    write_result(
        json_file,
        {"run": str(run), "data": str(data), **probed.as_dict(), "seed": pipeline.config.seed, "mirror": mirror}
        | {"ledger": ledger.summary(), "environment": environment()},
    )


def _of_files(config: "DataConfig", path: Path) -> "DataConfig":
    """Other files in the place of a run's own."""
    return replace(config, source="files", path=str(path), format="auto", images="", others={})


def _counts(shots: str) -> tuple[int, ...]:
    """Numbers of examples as they are typed: "1,2,4"."""
    words = [word.strip() for word in shots.replace("，", ",").split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise InputError(f"--shots {shots}", "whole numbers separated by commas", "--shots 1,2,4,8,16")
    return tuple(sorted({int(word) for word in words} - {0}))


def _seen(other: "Model", model: "Model", split: str, assignments: list[str]) -> "Outcome":
    """What another run says of the very data that the first one is measured on."""
    from chiasm.evaluate.evaluator import evaluate as run_tasks
    from chiasm.evaluate.measure import open_prepared

    # The first run's data, seed included, holds what was set; only how the other one writes is still its own.
    other.pipeline.config = replace(other.pipeline.config, seed=model.pipeline.config.seed)
    writing = [one for one in assignments if one.strip().startswith("decoding.")]
    change(other.pipeline, model.pipeline.config.data, writing)
    examples, _ = open_prepared(other.pipeline, split, notes())
    return run_tasks(other.pipeline, examples)
