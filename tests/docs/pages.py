"""Runs a page of docs/ as a reader would: its commands in order, then its programs, in a folder laid out for it."""

import csv
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from chiasm import cli
from chiasm.core.types import Example
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True)
class Printed:
    """What a page's commands and programs printed: line -> standard output and standard error, and of all programs."""

    commands: Mapping[str, tuple[str, str]]
    programs: str


@contextmanager
def as_it_stands() -> Iterator[Mapping[str, str]]:
    """Programs run unchanged."""
    yield {}


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page, and what a test must know to run it.

    Attributes:
        name: file in docs/.
        prepare: (folder, finished tiny run) -> None; lays out what the page supposes.
        needs: modules of extras without which the page is skipped.
        is_run: False for a line that is left out, such as one that serves until it is stopped.
        more: words that make a line shorter on a CPU.
        around: open while the programs run; yields the texts to replace in them, such as an address.
        check: (folder, what was printed) -> None; asserts what this page alone promises.
    """

    name: str
    prepare: Callable[[Path, Path], None]
    needs: tuple[str, ...] = ()
    is_run: Callable[[str], bool] = lambda line: True
    more: Callable[[str], Sequence[str]] = lambda line: ()
    around: Callable[[], AbstractContextManager[Mapping[str, str]]] = as_it_stands
    check: Callable[[Path, Printed], None] = lambda folder, printed: None

    @property
    def text(self) -> str:
        """The page."""
        return (DOCS / self.name).read_text(encoding="utf-8")

    def lines(self) -> list[str]:
        """The commands of its fenced blocks, continued lines joined."""
        return [line for block in blocks(self.text, "bash") for line in block.replace("\\\n", " ").splitlines() if line]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def run_page(page: Page, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Run every command and every program of a page in the current folder; each must succeed and print something."""
    said = {}
    for line in filter(page.is_run, page.lines()):
        said[line] = run_words([*shlex.split(line), *page.more(line)], patch, capsys)
        assert said[line][0].strip(), (line, said[line])
    capsys.readouterr()
    names: dict[str, object] = {}
    with page.around() as replaced:
        for program in blocks(page.text, "python"):
            for old, new in replaced.items():
                program = program.replace(old, new)
            exec(compile(program, page.name, "exec"), names)  # noqa: S102  the pages are ours
    return Printed(said, capsys.readouterr().out)


def run_words(words: list[str], patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run a command, which must succeed; what it printed on standard output and standard error."""
    if words[0] == "torchrun":  # its own processes, by the module that the command calls
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr
    assert words[0] == "chiasm", words
    patch.setattr(sys, "argv", words)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert not end.value.code, (words, printed.err)
    return printed.out, printed.err


def scenes(count: int, seed: int = 0, languages: tuple[str, ...] = ("en", "zh")) -> list[Example]:
    """Generated pictures with captions."""
    config = ScenesConfig(languages=languages, train_pictures=count, questions_per_picture=1)
    dataset = SceneDataset("train", config, seed)
    return [dataset.example(number) for number in range(count)]


def save(example: Example, path: Path) -> None:
    """Write an example's picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(example.inputs["image"].load()).save(path)


def save_photos(folder: Path, examples: Sequence[Example]) -> None:
    """Write pictures as 00.png, 01.png and so on."""
    for number, example in enumerate(examples):
        save(example, folder / f"{number:02}.png")


def write_captions(path: Path, examples: Sequence[Example], validation_from: int) -> None:
    """Write a table of the pictures that `save_photos` names, with captions and splits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number, example in enumerate(examples):
            split = "val" if number >= validation_from else "train"
            table.writerow([f"{number:02}.png", example.captions[0].text, split])
