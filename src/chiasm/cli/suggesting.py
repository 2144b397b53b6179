"""Suggested commands for a run, with the user's paths and the texts of the run's stored example."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import InputError, MissingTaskError

if TYPE_CHECKING:
    from chiasm.pipeline.stored_example import StoredExample

SENTENCES = ("FIRST SENTENCE", "SECOND SENTENCE")
QUESTION = "QUESTION"
STARTER_CAN = ("chat", "match", "classify", "search", "embed", "index build")
"""Verbs that the packaged towers support without training."""
CAPTIONED = ("retrieval", "captioning", "matching")
"""Tasks that train on files with captions."""


def commands(
    tasks: Sequence[str], run: str, images: Sequence[str], folder: str, example: "StoredExample | None"
) -> list[str]:
    """Command lines that a run supports on the given images.

    Args:
        tasks: tasks of the run.
        run: the run folder.
        images: paths of images; most verbs use only the first.
        folder: folder of images to search.
        example: source of the texts; without it, words in capitals are placeholders.
    """
    from chiasm.serve.abilities import can

    questions = example.questions[:1] if example else ()
    texts = (*example.texts[:1], *example.others[:1]) if example else ()
    first = list(images[:1]) or ["IMAGE"]
    found = []
    if can(tasks, "ask"):
        found.append(["ask", run, *first, *(questions or (QUESTION,))])
    if can(tasks, "chat"):
        found.append(["chat", run, *first])
    if can(tasks, "caption"):
        found.append(["caption", run, *(images or first)])
    if can(tasks, "draw"):
        found.append(["draw", run, *(texts[:1] or ("CAPTION",)), "-n", "8", "--out", "drawn.png"])
    if "classification" in tasks:
        found.append(["classify", run, *(images or first)])
    if can(tasks, "match"):
        found.append(["match", run, *first, *(texts if len(texts) > 1 else SENTENCES)])
    if can(tasks, "search"):
        found.append(["search", run, folder, *(texts[:1] or SENTENCES[:1])])
    return [shlex.join(["chiasm", *words]) for words in found]


def print_next(run: Path, tasks: Sequence[str]) -> None:
    """Print commands to try on the stored example of a new run."""
    from chiasm.cli.shared import say
    from chiasm.pipeline.stored_example import StoredExample

    image = str(run / "example.png")
    lines = commands(tasks, str(run), [image], "PHOTOS", StoredExample.read(run))
    if lines:
        lines.append(shlex.join(["chiasm", "serve", str(run)]))
        say(f"\nTry it on {image}, one of the images that it was measured on:")
        say("".join(f"  {line}\n" for line in lines))


@contextmanager
def suggesting(verb: str, run: Path, images: Sequence[Path] = (), rest: Sequence[str] = ()) -> Iterator[None]:
    """Suggest commands if the run lacks the task of a verb.

    Args:
        verb: the verb, as typed.
        run: a run folder, or another name of a model.
        images: image arguments of the verb.
        rest: arguments after the images, such as sentences.

    Raises:
        InputError: instead of a MissingTaskError.
    """
    from chiasm.pipeline.stored_example import StoredExample

    try:
        yield
    except MissingTaskError as error:
        example = StoredExample.read(run) if run.is_dir() else None
        paths, files = [str(path) for path in images], [str(path) for path in images if path.is_file()]
        folder = next((str(path if path.is_dir() else path.parent) for path in images), "PHOTOS")
        parts = [("with this run", commands(error.trained, str(run), files, folder, example))]
        if verb in STARTER_CAN and str(run) != "starter":
            words = [*verb.split(), "starter", *paths, *rest]
            if verb == "index build":
                words = [*verb.split(), *paths, *rest, "--model", "starter"]
            parts.append(("with the packaged towers", [shlex.join(["chiasm", *words])]))
        parts.append((f"a run that was trained for {error.task}", [_training(error, run)]))
        lines = [f"{heading}:" + "".join(f"\n        {line}" for line in some) for heading, some in parts if some]
        raise InputError(
            f"{run} was trained for {', '.join(error.trained)}, so `chiasm {verb}` cannot use it",
            f"a run that was trained for {error.task}",
            "\n      ".join(["one of these", *lines]),
        ) from None


def _training(error: MissingTaskError, run: Path) -> str:
    """The command that trains the missing task, on the run's data if they have the annotations."""
    from chiasm.recipes.table import RECIPES, find_recipe

    fitting = {name: find_recipe(name) for name in RECIPES}
    fitting = {name: config for name, config in fitting.items() if error.task in config.tasks}
    fed = [name for name, config in fitting.items() if not config.data.is_generated]
    recipe = next(iter(fed or fitting))
    path = _data_path(run) if error.task in CAPTIONED and set(error.trained) & set(CAPTIONED) else ""
    words = ["chiasm", "train", recipe]
    words += ["--data", path or "DATA"] if fed else []
    return shlex.join([*words, "--out", f"runs/{recipe}"])


def _data_path(run: Path) -> str:
    from chiasm.core.files import read_json

    path = run / "config.json"
    config: Mapping[str, Any] = read_json(path, "the run's config") if path.is_file() else {}
    return str(config.get("data", {}).get("path", ""))
