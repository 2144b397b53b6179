"""The verb that measures runs: evaluate."""

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
    write_result,
)

if TYPE_CHECKING:
    from chiasm.evaluate.outcome import Outcome
    from chiasm.serve.engine import Model


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
    from chiasm.evaluate.comparison import difference_table, paired_differences
    from chiasm.evaluate.measure import measure, open_prepared
    from chiasm.evaluate.outcome import scores_as_json

    typed = set_ or []
    check_settable(typed, ("data.", "seed=", "decoding."))
    model, other = load(run), load(against) if against else None
    pipeline = model.pipeline
    chosen = pipeline.config.data
    if data is not None:
        chosen = replace(chosen, source="files", path=str(data), format="auto", images="")
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
