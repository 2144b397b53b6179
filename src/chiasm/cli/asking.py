"""Verbs that use a run on pictures: ask, caption, match, classify, embed, search."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from chiasm.cli.shared import Json, Run, SetDecoding, load, notes, say, writable, write_result

if TYPE_CHECKING:
    from chiasm.data.ledger import Ledger

T = TypeVar("T")


def ask(
    run: Run,
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    set_: SetDecoding = None,
    json_file: Json = None,
) -> None:
    """Answer one question about a picture.

    Example: chiasm ask runs/demo picture.png 'what color is the circle?'
    """
    answer = load(run, set_).ask(image, question)
    if answer.evidence["abstains"]:
        say("not sure: below the confidence from which on this model answers; its guesses:")
    for one in answer.evidence["answers"]:
        say(f"{one['probability']:6.1%}  {one['answer']}")
    write_result(json_file, {"answer": answer.answer, "confidence": answer.confidence, **answer.evidence})


def caption(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Picture files.")],
    language: Annotated[str, typer.Option(help="en, zh, ...; the run's first language if not given.")] = "",
    set_: SetDecoding = None,
    json_file: Json = None,
) -> None:
    """Describe pictures in a sentence each.

    Example: chiasm caption runs/demo picture.png --language zh --set decoding.method=beam
    """
    said = load(run, set_).caption(list(images), language)
    for path, one in zip(images, said, strict=True):
        say(f"{one.confidence:6.1%}  {one.answer}" + (f"  ({path})" if len(images) > 1 else ""))
    rows = [
        {"image": str(path), "caption": one.answer, "confidence": one.confidence}
        for path, one in zip(images, said, strict=True)
    ]
    write_result(json_file, rows)


def match(
    run: Run,
    image: Annotated[Path, typer.Argument(help="A picture file.")],
    texts: Annotated[list[str], typer.Argument(help="Sentences to compare with it.")],
    json_file: Json = None,
) -> None:
    """Say how well sentences fit a picture, best first: cosine, and probability where the run was trained to match.

    Example: chiasm match runs/photos dog.jpg 'a dog in the snow' 'a red car'
    """
    pairs = list(zip(texts, load(run).match(image, texts), strict=True))
    pairs.sort(key=lambda pair: pair[1].probability or pair[1].similarity or 0.0, reverse=True)
    for text, one in pairs:
        cosine = "" if one.similarity is None else f"{one.similarity:+.3f}  "
        say(("" if one.probability is None else f"{one.probability:6.1%}  ") + cosine + text)
    rows = [{"text": text, "similarity": one.similarity, "probability": one.probability} for text, one in pairs]
    write_result(json_file, rows)


def classify(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Picture files.")],
    labels: Annotated[str, typer.Option(help="Names to choose from, separated by commas.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Sentence with {label} where a name belongs; may be repeated. The run's own if not given."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Say which of your labels fits each picture best; nobody needs to have trained on them.

    Example: chiasm classify runs/photos dog.jpg cat.jpg --labels 'dog,cat,red car'
    """
    names = [name.strip() for name in labels.replace("，", ",").split(",") if name.strip()]
    found = load(run).classify(list(images), names, prompt or ())
    for path, one in zip(images, found, strict=True):
        for label in one.evidence["labels"] if len(images) == 1 else one.evidence["labels"][:1]:
            say(f"{label['probability']:6.1%}  {label['label']}" + (f"  ({path})" if len(images) > 1 else ""))
    rows = [
        {"image": str(path), "label": one.answer, "confidence": one.confidence, "labels": one.evidence["labels"]}
        for path, one in zip(images, found, strict=True)
    ]
    write_result(json_file, rows)


def embed(
    run: Run,
    path: Annotated[Path, typer.Argument(help="A picture file, or a folder of them.")],
    out: Annotated[
        Path, typer.Option(help="File to write: safetensors with `vectors`, paths in its metadata.", callback=writable)
    ],
    json_file: Json = None,
) -> None:
    """Write the vectors of pictures, unit length, float32.

    Example: chiasm embed runs/photos PHOTOS --out photos.safetensors
    """
    from chiasm.serve.search import encode_pictures, write_vectors

    photos = _with_bar(lambda report: encode_pictures(load(run), path, report))
    write_vectors(out, photos)
    _print_rejected(photos.ledger)
    say(f"{len(photos.paths)} vectors of {photos.vectors.shape[1]} numbers in {out}")
    write_result(json_file, {"count": len(photos.paths), "dim": photos.vectors.shape[1], "file": str(out)})


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

    model = load(run)
    vector = query_vector(model, query)
    folder = _with_bar(lambda report: encode_pictures(model, photos, report))
    found = folder.search(vector, count)
    _print_rejected(folder.ledger)
    for one in found:
        say(f"{one.similarity:+.3f}  {one.path}")
    results = [{"path": one.path, "similarity": one.similarity} for one in found]
    write_result(json_file, {"query": query, "searched": len(folder.paths), "results": results})


def _print_rejected(ledger: "Ledger") -> None:
    if ledger.rejected:
        shown = notes()
        shown.print(f"[yellow]{ledger.summary()}[/yellow]", highlight=False)
        for entry in ledger.entries[:10]:
            shown.print(f"  {entry.file}: {entry.text}", highlight=False, soft_wrap=True)


def _with_bar(work: Callable[[Callable[[int, int], None]], T]) -> T:
    """Run `work(report)` with a progress bar that appears when there is something to count."""
    from chiasm.evaluate.measure import Stages

    stages = Stages(notes())
    try:
        return work(lambda done, total: stages(done, total, "encoding pictures"))
    finally:
        stages.close()
