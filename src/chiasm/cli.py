"""The door: words typed by a person -> one call -> printed result.

No machine learning, and nothing heavy imported before a verb needs it, so that `chiasm --help` is instant.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chiasm.core.errors import ChiasmError, InputError, from_system

if TYPE_CHECKING:
    from rich.console import Console

    from chiasm.evaluate.measure import Measured
    from chiasm.serve.engine import Model

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn image-text files into a model that people can ask, search and trust.\n\n"
    "Start with: [bold]chiasm demo[/bold]",
)

Run = Annotated[Path, typer.Argument(help="A run folder, made by `chiasm demo` or `chiasm train`.")]


def _writable(path: Path | None) -> Path | None:
    """Find out before an hour of work, and not after it, that its result has no place."""
    if path is not None:
        folder = next(one for one in path.absolute().parents if one.exists())
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{path} cannot be written", "a file in a folder that may be written to", "give another")
    return path


Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the result to this file.", metavar="FILE", callback=_writable),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a config key; may be repeated. `chiasm show RECIPE` lists the keys.", metavar="KEY=VALUE"
    ),
]
Tiny = Annotated[bool, typer.Option("--tiny", help="Shrink the recipe to seconds; only shows that it works.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Options for every verb stand before it: `chiasm --debug train ...`."""
    if debug:
        os.environ["CHIASM_DEBUG"] = "1"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder to create.")] = Path("runs/demo"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Train one model on three tasks in minutes, measure it, and write a report with pictures.

    Example: chiasm demo --out runs/demo
    """
    _train("demo", out, resume, set_, tiny, json_file)
    _say(
        f"\nTry it on a picture of the report, or draw your own:\n"
        f"  chiasm ask {out} {out}/example.png 'how many circles are there?'\n"
        f"  chiasm caption {out} {out}/example.png\n"
    )


@app.command()
def recipes() -> None:
    """List the recipes: what each trains, and on what.

    Example: chiasm recipes
    """
    from rich.table import Table

    from chiasm.recipes import RECIPES

    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        table.add_row(name, (recipe.__doc__ or "").strip().splitlines()[0])
    _console().print(table)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Print a recipe's every key, the model's size, and how long it will take here.

    Example: chiasm show demo --set train.batch_size=32
    """
    from chiasm.core.config import as_typed, keys, to_dict
    from chiasm.train.estimate import estimate

    config = _config(recipe, set_, tiny)
    for key, value in keys(config):
        _say(f"{key} = {as_typed(value)}")
    if config.data.source == "files" and not config.data.path:
        _say("\nSet data.path to see the model's size and an estimate of time and memory.")
        _write_json(json_file, {"recipe": recipe, "config": to_dict(config)})
        return
    found = estimate(config, _notes())
    _say("\n" + found.text())
    _write_json(json_file, {"recipe": recipe, "config": to_dict(config), "estimate": found.as_dict()})


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; `chiasm recipes` lists them.")],
    out: Annotated[Path | None, typer.Option(help="Run folder to create; runs/RECIPE if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped, bit for bit.")] = False,
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Train a recipe into a run folder, then measure it and write its report.

    Example: chiasm train flickr8k_retrieval --set data.path=PHOTOS --out runs/photos
    """
    _train(recipe, out or Path("runs") / recipe, resume, set_, tiny, json_file)


@app.command()
def evaluate(
    run: Run,
    data: Annotated[Path | None, typer.Option(help="Folder or file; the run's own data if not given.")] = None,
    split: Annotated[str, typer.Option(help="Split to measure on.")] = "val",
    set_: Set = None,
    json_file: Json = None,
) -> None:
    """Measure a run on a split: metrics with count, 95 % interval and the score with shuffled pictures.

    Example: chiasm evaluate runs/photos --data PHOTOS --split val --json numbers.json
    """
    from dataclasses import replace

    from chiasm.core.config import override
    from chiasm.core.device import environment
    from chiasm.evaluate.evaluator import scores_as_json
    from chiasm.evaluate.measure import measure, open_prepared

    model = _load(run)
    pipeline = model.pipeline
    if data is not None:
        files = replace(pipeline.config.data, source="files", path=str(data), format="auto", images="")
        pipeline.config = replace(pipeline.config, data=files)
    for assignment in set_ or []:
        if not assignment.strip().startswith(("data.", "seed=")):
            raise InputError(f"--set {assignment}", "data.KEY=VALUE or seed=VALUE; the model is what it is", "drop it")
    pipeline.config = override(pipeline.config, set_ or [])
    examples, ledger = open_prepared(pipeline, split, _notes())
    measured = measure(pipeline, examples, ledger, split, _notes())
    _print_measured(measured)
    header = {"run": str(run), "data": str(data or pipeline.config.data.path or pipeline.config.data.source)}
    scores = scores_as_json(measured.outcome, measured.blind)
    ends = {"ledger": ledger.summary(), "environment": environment()}
    _write_json(json_file, {**header, "split": split, **scores, **ends})


@app.command()
def ask(
    run: Run,
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    json_file: Json = None,
) -> None:
    """Answer one question about a picture.

    Example: chiasm ask runs/demo picture.png 'what color is the circle?'
    """
    answer = _load(run).ask(image, question)
    for one in answer.evidence["answers"]:
        _say(f"{one['probability']:6.1%}  {one['answer']}")
    _write_json(json_file, {"answer": answer.answer, "confidence": answer.confidence, **answer.evidence})


@app.command()
def caption(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Picture files.")],
    language: Annotated[str, typer.Option(help="en, zh, ...; the run's first language if not given.")] = "",
    json_file: Json = None,
) -> None:
    """Describe pictures in a sentence each.

    Example: chiasm caption runs/demo picture.png --language zh
    """
    said = _load(run).caption(list(images), language)
    for path, one in zip(images, said, strict=True):
        _say(f"{one.confidence:6.1%}  {one.answer}" + (f"  ({path})" if len(images) > 1 else ""))
    rows = [
        {"image": str(path), "caption": one.answer, "confidence": one.confidence}
        for path, one in zip(images, said, strict=True)
    ]
    _write_json(json_file, rows)


@app.command()
def match(
    run: Run,
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    texts: Annotated[list[str], typer.Argument(help="Sentences to compare with it.")],
    json_file: Json = None,
) -> None:
    """Say how well sentences fit a picture: cosine similarity, best first.

    Example: chiasm match runs/photos dog.jpg 'a dog in the snow' 'a red car'
    """
    found = sorted(zip(texts, _load(run).match(image, texts), strict=True), key=lambda pair: -pair[1])
    for text, similarity in found:
        _say(f"{similarity:+.3f}  {text}")
    _write_json(json_file, [{"text": text, "similarity": similarity} for text, similarity in found])


@app.command()
def embed(
    run: Run,
    path: Annotated[Path, typer.Argument(help="A picture file, or a folder of them.")],
    out: Annotated[
        Path, typer.Option(help="File to write: safetensors with `vectors`, paths in its metadata.", callback=_writable)
    ],
    json_file: Json = None,
) -> None:
    """Write the vectors of pictures, unit length, float32.

    Example: chiasm embed runs/photos PHOTOS --out photos.safetensors
    """
    from chiasm.serve.search import encode_pictures, write_vectors

    photos = _with_bar("encoding pictures", lambda report: encode_pictures(_load(run), path, report))
    write_vectors(out, photos)
    _print_rejected(photos.ledger)
    _say(f"{len(photos.paths)} vectors of {photos.vectors.shape[1]} numbers in {out}")
    _write_json(json_file, {"count": len(photos.paths), "dim": photos.vectors.shape[1], "file": str(out)})


@app.command()
def search(
    run: Run,
    photos: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    query: Annotated[str, typer.Argument(help="A sentence, or the path of a picture.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many to show.")] = 10,
    json_file: Json = None,
) -> None:
    """Find the photos of a folder that fit a sentence or look like a picture.

    Example: chiasm search runs/photos PHOTOS 'a dog in the snow'
    """
    from chiasm.serve.search import encode_pictures, query_vector

    model = _load(run)
    vector = query_vector(model, query)
    folder = _with_bar("encoding pictures", lambda report: encode_pictures(model, photos, report))
    found = folder.search(vector, count)
    _print_rejected(folder.ledger)
    for one in found:
        _say(f"{one.similarity:+.3f}  {one.path}")
    results = [{"path": one.path, "similarity": one.similarity} for one in found]
    _write_json(json_file, {"query": query, "searched": len(folder.paths), "results": results})


# --- below: what the verbs share ------------------------------------------------------------------------------


def _config(recipe: str, assignments: list[str] | None, tiny: bool) -> Any:
    from chiasm.core.config import override
    from chiasm.recipes import find_recipe

    return override(find_recipe(recipe, tiny), assignments or [])


def _train(
    recipe: str, out: Path, resume: bool, assignments: list[str] | None, tiny: bool, json_file: Path | None
) -> None:
    from chiasm.core.device import environment
    from chiasm.evaluate.evaluator import scores_as_json
    from chiasm.train.run import run
    from chiasm.train.trainer import Interrupted

    config = _config(recipe, assignments, tiny)
    try:
        finished = run(config, out, resume, _notes())
    except Interrupted as stop:
        again = shlex.join(["chiasm", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
        raise Interrupted(f"{stop}\n  to go on: {again}") from None
    if finished is None:  # one of several processes, and not the one that talks
        return
    _print_measured(finished.measured)
    scores = scores_as_json(finished.measured.outcome, finished.measured.blind)
    header = {"run": str(out), "data": config.data.path or config.data.source, "split": finished.measured.split}
    _write_json(json_file, {**header, **scores, "environment": environment()})


def _load(run: Path) -> "Model":
    from chiasm.serve.engine import load

    return load(run)


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _notes() -> "Console":
    from chiasm.core.log import stderr_console

    return stderr_console()


def _say(text: str) -> None:
    typer.echo(text)


def _print_measured(measured: "Measured") -> None:
    from chiasm.evaluate.report import metric_table

    console = _console()
    console.print(metric_table(measured.rows(), f"{len(measured.examples)} pictures of split {measured.split!r}"))
    if kinds := measured.kind_rows():
        console.print(metric_table(kinds))
    if measured.ledger.rejected:
        _say(measured.ledger.summary())


def _print_rejected(ledger: Any) -> None:
    if ledger.rejected:
        notes = _notes()
        notes.print(f"[yellow]{ledger.summary()}[/yellow]", highlight=False)
        for entry in ledger.entries[:10]:
            notes.print(f"  {entry.file}: {entry.text}", highlight=False, soft_wrap=True)


def _with_bar(what: str, work: Any) -> Any:
    """Run `work(report)` with a progress bar that appears when there is something to count."""
    from chiasm.evaluate.measure import Stages

    stages = Stages(_notes())
    try:
        return work(lambda done, total: stages(done, total, what))
    finally:
        stages.close()


def _write_json(path: Path | None, value: Any) -> None:
    if path is not None:
        from chiasm.core.files import write_json

        write_json(path, value)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn errors into one message and an exit status; a traceback only with --debug."""
    try:
        yield
    except Exception as error:
        if os.environ.get("CHIASM_DEBUG"):
            raise
        error = from_system(error) if isinstance(error, OSError | MemoryError) else error
        if not isinstance(error, ChiasmError):
            said = f"chiasm: a mistake of chiasm's own: {type(error).__name__}: {error}"
            typer.echo(f"{said}\n  do: `chiasm --debug VERB ...` shows where; please report it", err=True)
            sys.exit(1)
        word = "wrong input" if isinstance(error, InputError) else "stopped"
        typer.echo(f"chiasm: {word}: {error}", err=True)
        sys.exit(error.exit_code)


def main() -> None:
    """Entry point of the `chiasm` command."""
    # OpenMP threads that spin for long while they wait starve each other as soon as anything else runs: with a second
    # job on two cores, the tiny demo did 0.1 steps a second, and 1.8 once they went to sleep (docs/log.md).
    # A short spin keeps the speed of an idle machine. Must be set before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    with _errors():
        app()
