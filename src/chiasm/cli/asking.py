"""Verbs of inference on images: ask, caption, match, classify, embed."""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import (
    Json,
    Run,
    SetDecoding,
    doubts,
    load,
    note,
    outside,
    print_rejected,
    remark,
    say,
    with_bar,
    writable,
    write_result,
)
from chiasm.cli.suggesting import suggesting


def ask(
    run: Run,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    set_: SetDecoding = None,
    json_file: Json = None,
) -> None:
    """Answer one question about an image. The starter answers by an image classifier's words alone, and often wrongly.

    Example: chiasm ask runs/demo picture.png 'what color is the circle?'
    """
    model = load(run, set_)
    with suggesting("ask", run, [image], [question]):
        answer = model.ask(image, question)
    if model.is_told:
        note(model.talker.note)
    else:
        remark(model, [question])
    if answer.abstain_reasons:
        say("; ".join([*doubts(answer), "its guesses:"]))
    for one in answer.evidence["answers"]:
        say(f"{one['probability']:6.1%}  {one['answer']}")
    write_result(json_file, {"answer": answer.answer, **answer.as_dict()})


def caption(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    language: Annotated[str, typer.Option(help="en, zh, ...; the run's first language if not given.")] = "",
    set_: SetDecoding = None,
    json_file: Json = None,
) -> None:
    """Write a caption for each image.

    Example: chiasm caption runs/demo picture.png --language zh --set decoding.method=beam
    """
    model = load(run, set_)
    with suggesting("caption", run, images):
        said = model.caption(list(images), language)
    for path, one in zip(images, said, strict=True):
        say(f"{one.confidence:6.1%}  {one.answer}" + (f"  ({path})" if len(images) > 1 else ""))
        for reason in doubts(one):
            say("        " + reason)
    rows = [
        {"image": str(path), "caption": one.answer, **one.as_dict()} for path, one in zip(images, said, strict=True)
    ]
    write_result(json_file, rows)


def match(
    run: Run,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    texts: Annotated[list[str], typer.Argument(help="Sentences to compare with it.")],
    json_file: Json = None,
) -> None:
    """Score how well sentences match an image, best first: cosine, and probability if the run has the task matching.

    Example: chiasm match runs/photos dog.jpg 'a dog in the snow' 'a red car'
    """
    model = load(run)
    with suggesting("match", run, [image], texts):
        pairs = list(zip(texts, model.match(image, texts), strict=True))
    remark(model, texts)
    pairs.sort(key=lambda pair: pair[1].probability or pair[1].similarity or 0.0, reverse=True)
    for text, one in pairs:
        cosine = "" if one.similarity is None else f"{one.similarity:+.3f}  "
        say(("" if one.probability is None else f"{one.probability:6.1%}  ") + cosine + text)
        if one.domain is not None and one.domain.is_outside:
            note(f"{text!r}: {outside(one.domain)}")
    rows = [{"text": text, **one.as_dict()} for text, one in pairs]
    write_result(json_file, rows)


def classify(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    labels: Annotated[
        str,
        typer.Option(help="Class names, separated by commas; without them, the classes that the run was trained on."),
    ] = "",
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Template with {label}, or one of the sets photos_en, photos_zh, drawings_en, drawings_zh; may be "
            "repeated. The run's own if not given."
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Classify images: among the classes of the run, or zero-shot among your own labels.

    Example: chiasm classify runs/photos dog.jpg cat.jpg --labels 'dog,cat,red car'
    """
    names = [name.strip() for name in labels.replace("，", ",").split(",") if name.strip()]
    model = load(run)
    with suggesting("classify", run, images, ["--labels", labels or "dog,cat"]):
        found = model.classify(list(images), names, prompt or ())
    remark(model, names)
    for path, one in zip(images, found, strict=True):
        for label in one.evidence["labels"] if len(images) == 1 else one.evidence["labels"][:1]:
            say(f"{label['probability']:6.1%}  {label['label']}" + (f"  ({path})" if len(images) > 1 else ""))
        for reason in doubts(one):
            say("        " + reason)
    rows = [{"image": str(path), "label": one.answer, **one.as_dict()} for path, one in zip(images, found, strict=True)]
    write_result(json_file, rows)


def embed(
    run: Run,
    path: Annotated[Path, typer.Argument(help="An image file, or a folder of them.")],
    out: Annotated[
        Path, typer.Option(help="File to write: safetensors with `vectors`, paths in its metadata.", callback=writable)
    ],
    json_file: Json = None,
) -> None:
    """Write the embeddings of images: unit length, float32.

    Example: chiasm embed runs/photos PHOTOS --out photos.safetensors
    """
    from chiasm.serve.index import folder_index, write_vectors

    model = load(run)
    with suggesting("embed", run, [path], ["--out", str(out)]):
        index, report = with_bar(lambda progress: folder_index(model, path, progress))
    count, dim = write_vectors(out, index)
    print_rejected(report.ledger)
    say(f"{count} vectors of {dim} numbers in {out}")
    write_result(json_file, {"count": count, "dim": dim, "file": str(out)})
