"""The verbs of image search: search, and index with its subcommands.

`search` has more than eight arguments because each is an option of the command line.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.cli.found import Found, check_sheet, print_found, write_sheet
from chiasm.cli.shared import Json, Verbs, load, notes, print_rejected, remark, say, with_bar, writable, write_result
from chiasm.cli.suggesting import suggesting
from chiasm.core.errors import InputError, JobError

if TYPE_CHECKING:
    from chiasm.serve.engine import Model
    from chiasm.serve.index import Index
    from chiasm.serve.index.build import Report

index = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep an index of photos: build, add, delete, check, duplicates. `chiasm search INDEX QUERY` searches it.",
)

IndexPlace = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of an index, or its postgresql:// address.")]
ModelOf = Annotated[
    Path | None,
    typer.Option("--model", help="Run folder, if not the one stored in the index.", metavar="RUN"),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only images with this metadata; may be repeated.", metavar="KEY=VALUE"),
]
Metadata = Annotated[
    Path | None,
    typer.Option(
        "--metadata", help="Table with an image column (CSV, TSV, JSONL), or a captions' data set.", metavar="FILE"
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Number of encoding processes in a Ray cluster; 0 uses this process.")
]
RayAddress = Annotated[
    str,
    typer.Option("--ray", help="Address of a running Ray cluster; without it, one is started here.", metavar="ADDRESS"),
]


# More than eight arguments: each is an option of the command line, which typer reads from the signature.
def search(
    source: Annotated[
        str, typer.Argument(metavar="INDEX", help="An index; or a run folder, and then a folder of images.")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="A sentence, or the path of an image; after a run folder: FOLDER QUERY."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", help="Query image; combined with the words if both are given."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of results.")] = 10,
    where: Where = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Re-rank the nearest with the fusion model.")] = False,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Faster on a large index; may miss a few images.")
    ] = False,
    model: ModelOf = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page", help="Also write a contact sheet, a page or a .png image.", metavar="FILE", callback=writable
        ),
    ] = None,
    shows_all: Annotated[
        bool, typer.Option("--all", help="Also show images that match no better than unrelated words.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Find the photos that match a sentence, an image, or both.

    `chiasm search INDEX QUERY` searches an index, which stores the path of its model. `chiasm search RUN FOLDER QUERY`
    needs no index: it encodes the folder once and gives the same result. It prints "weak match" if nothing matches.

    Example: chiasm search photos.index 'a dog in the snow' --where year=2021
    """
    from chiasm.serve.index import is_index

    typed = list(words or [])
    folder = "" if is_index(source) else _folder(source, typed, image)
    rest = typed[1:] if folder else typed
    if len(rest) > 1:
        raise InputError(f"{len(rest)} words after {source}: {' '.join(rest)}", "one QUERY", "put quotes around it")
    text, query_image = _query(rest[0] if rest else "", image)
    check_sheet(page)
    with _opened(source, folder, rest, model, approximate) as opened:
        chosen = filters(where)
        hits = opened.search(text=text, image=query_image, count=count, where=chosen, rerank=rerank)
        judged = opened.strength(text, hits, chosen) if query_image is None else None
        found = Found(hits, judged, shows_all, Path(folder) if folder else None, len(opened))
        remark(opened.model, [text] if text else [])
    print_found(found)
    asked = {"query": rest[0] if rest else "", "image": str(image or "")}
    if page is not None:
        write_sheet(page, text or str(query_image), found)
    weak = {} if judged is None else {"weak": judged.is_weak, "unrelated": judged.unrelated}
    write_result(json_file, {**asked, "searched": found.searched, **weak, "results": found.as_rows()})


def _folder(source: str, words: list[str], image: Path | None) -> str:
    """The folder after a run."""
    if not words or (len(words) == 1 and image is None):
        raise InputError(
            f"{source} is no index",
            "chiasm search INDEX QUERY, or chiasm search RUN FOLDER QUERY",
            f"make an index: chiasm index build PHOTOS {source} --model RUN; or check the paths",
        )
    return words[0]


def _opened(source: str, folder: str, words: list[str], model: Path | None, approximate: bool) -> "Index":
    """The index that is searched: one that was built, or one in memory of a folder."""
    from chiasm.serve.index import folder_index, open_index

    if not folder:
        return open_index(source, _model(model), approximate)
    run = load(Path(source))
    with suggesting("search", Path(source), [Path(folder)], words):
        found, report = with_bar(lambda progress: folder_index(run, Path(folder), progress))
    print_rejected(report.ledger)
    return found


def _query(words: str, image: Path | None) -> tuple[str, Path | None]:
    from chiasm.serve.photos import is_image_file

    if image is None and is_image_file(words):
        return "", Path(words)
    if not words.strip() and image is None:
        raise InputError("nothing to look for", "a sentence, the path of an image, or --image PATH", "give one")
    return words, image


def filters(typed: list[str] | None) -> dict[str, str]:
    """Parse `--where KEY=VALUE` options into a mapping."""
    found: dict[str, str] = {}
    for one in typed or []:
        key, is_there, value = one.partition("=")
        if not is_there or not key.strip():
            raise InputError(f"--where {one}", "KEY=VALUE", "such as --where year=2021")
        if key.strip() in found:
            raise InputError(f"--where {key.strip()} twice", "each key once", "drop one")
        found[key.strip()] = value.strip()
    return found


def _model(run: Path | None) -> "Model | None":
    return load(run) if run is not None else None


@index.command()
def build(
    photos: Annotated[Path, typer.Argument(help="Folder of images.")],
    place: IndexPlace,
    model: Annotated[Path, typer.Option("--model", help="Run folder, or the word starter.", metavar="RUN")],
    metadata: Metadata = None,
    vectors: Annotated[
        str,
        typer.Option(
            "--vectors",
            help="How a new index keeps vectors: float32, int8 (1/4 of the bytes) or binary (1/32 in memory).",
            metavar="KIND",
        ),
    ] = "",
    workers: Workers = 0,
    ray: RayAddress = "",
    json_file: Json = None,
) -> None:
    """Make an index of a folder, or update it with new, changed and removed images.

    Only new and changed images are encoded. The same command resumes a build that was stopped or killed.

    Example: chiasm index build PHOTOS photos.index --model runs/photos --metadata photos.csv
    """
    from chiasm.serve.index import make_index
    from chiasm.serve.index.spread import spread_over

    spread = spread_over(model, workers, ray) if workers else None
    with suggesting("index build", model, [photos], [place]):
        made, report = with_bar(
            lambda progress: make_index(place, [photos], model, metadata, progress, spread, vectors=vectors)
        )
    _print_report(made, report, json_file)


@index.command()
def add(
    place: IndexPlace,
    photos: Annotated[list[Path], typer.Argument(help="Folders of images, and image files.")],
    model: ModelOf = None,
    metadata: Metadata = None,
    json_file: Json = None,
) -> None:
    """Add images to an index; unchanged images are not encoded again.

    Example: chiasm index add photos.index MORE_PHOTOS one.jpg
    """
    from chiasm.serve.index import open_index

    opened = open_index(place, _model(model))
    report = with_bar(lambda progress: opened.add(photos, metadata, progress))
    _print_report(opened, report, json_file)


def _print_report(made: "Index", report: "Report", json_file: Path | None) -> None:
    with made:
        print_rejected(report.ledger)
        say(f"{report.text()}\n{len(made)} images in {made.store.where}")
        write_result(json_file, {"index": made.store.where, "pictures": len(made), **report.as_dict()})


@index.command()
def delete(
    place: IndexPlace,
    photos: Annotated[list[Path] | None, typer.Argument(help="Images, or folders with all below them.")] = None,
    where: Where = None,
    json_file: Json = None,
) -> None:
    """Remove images from an index. Their files are kept, and the next build of their folder adds them again.

    Example: chiasm index delete photos.index PHOTOS/private
    """
    from chiasm.serve.index import open_store
    from chiasm.serve.index.build import delete as take_out

    store = open_store(place)
    try:
        gone, left = take_out(store, [str(one) for one in photos or []], filters(where)), store.count()
    finally:
        store.close()
    say(f"{gone} images removed, {left} left in {store.where}")
    write_result(json_file, {"removed": gone, "pictures": left})


@index.command()
def check(place: IndexPlace, json_file: Json = None) -> None:
    """Check an index for errors, and print how to fix each.

    The exit status is 1 if search results may be wrong.

    Example: chiasm index check photos.index
    """
    from dataclasses import asdict

    from chiasm.serve.index import open_store
    from chiasm.serve.index.check import check as look

    store = open_store(place)
    try:
        found, count = look(store), store.count()
    finally:
        store.close()
    for one in found:
        say(f"{'wrong' if one.harms else 'note'}: {one.text}\n  do: {one.do}")
    harms = sum(one.harms for one in found)
    say(f"{count} images in {store.where}, {harms} things wrong, {len(found) - harms} notes")
    write_result(json_file, {"pictures": count, "findings": [asdict(one) for one in found]})
    if harms:
        raise JobError(f"{store.where} needs care")


@index.command()
def duplicates(
    place: IndexPlace,
    above: Annotated[float, typer.Option(help="Least cosine of two images to compare their pixels.")] = 0.9,
    json_file: Json = None,
) -> None:
    """Find duplicates and near-duplicates: copies, other sizes, other compressions.

    Example: chiasm index duplicates photos.index
    """
    from chiasm.serve.index import open_store
    from chiasm.serve.index.duplicates import find_duplicates

    store = open_store(place)
    try:
        found = find_duplicates(store, above)
    finally:
        store.close()
    for group in found.groups:
        say("\n".join(group) + "\n")
    notes().print(f"{found.compared} pairs compared by their pixels", highlight=False)
    say(f"{len(found.groups)} groups of duplicates, {sum(map(len, found.groups))} images in them")
    pairs = [one._asdict() for one in found.pairs]
    write_result(json_file, {"groups": found.groups, "pairs": pairs, "compared": found.compared})
