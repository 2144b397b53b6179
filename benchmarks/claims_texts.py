"""Which numbers the texts hold, and whether a claim stands behind each: README, docs and the docstrings of recipes.

A text is cut into blocks: a paragraph, or a row of a table. A claim names a block by a fragment that occurs in one
block of the file alone; a fragment of a table's header names all rows of the table.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOT_READ = ("docs/help.md", "docs/log.md")
"""Written by the command line itself; and the log, whose entries have dates of their own and stay as they are."""
DECIMALS = re.compile(r"(?<![\w.])\d+\.\d{2,3}(?!\w|\.\d)")
"""Scores stand with two or three places."""
SHARES = re.compile(r"(?<![\w.])\d+\.\d(?= %)")
COSTS = re.compile(
    r"(?<![\w.])\d[\d,.]* (?:ms|s|seconds|min|minutes|MiB|KB|MB|(?:photos|texts|captions) a second)(?!\w)"
)


@dataclass(frozen=True)
class Block:
    """A paragraph or a row, with spaces and line ends as one space; `header` is the first row of its table."""

    text: str
    header: str = ""

    @property
    def scores(self) -> list[str]:
        """Numbers with two or three places, and percentages with one as `12.3 %`."""
        return DECIMALS.findall(self.text) + [f"{share} %" for share in SHARES.findall(self.text)]

    @property
    def costs(self) -> list[str]:
        """Seconds, bytes and rates."""
        return COSTS.findall(self.text)


def texts() -> list[str]:
    """Paths of all texts that hold numbers, relative to the repository's root."""
    pages = [page for page in sorted((ROOT / "docs").glob("*.md")) if f"docs/{page.name}" not in NOT_READ]
    recipes = sorted((ROOT / "src" / "chiasm" / "recipes").rglob("*.py"))
    return [file.relative_to(ROOT).as_posix() for file in (ROOT / "README.md", *pages, *recipes)]


def blocks(name: str) -> list[Block]:
    """All blocks of one text; fenced code, HTML comments and headings hold no claims."""
    content = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".py"):
        nodes = [node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Module | ast.FunctionDef)]
        parts = [ast.get_docstring(node) or "" for node in nodes]
    else:
        content = re.sub(r"<!-- claims: begin -->.*?<!-- claims: end -->", "", content, flags=re.S)
        parts = [re.sub(r"```.*?```|<!--.*?-->", "\n\n", content, flags=re.S)]
    return [block for part in parts for block in _blocks(part)]


def _blocks(content: str) -> Iterator[Block]:
    paragraph: list[str] = []
    header = ""
    for line in [*content.splitlines(), ""]:
        is_row = line.startswith("|")
        if paragraph and (is_row or not line.strip() or line.lstrip().startswith(("- ", "#"))):
            yield Block(" ".join(" ".join(paragraph).split()))
            paragraph = []
        if is_row:
            header = header or line
            if not re.fullmatch(r"[|\s:-]+", line):
                yield Block(" ".join(line.split()), " ".join(header.split()))
            continue
        header = ""
        if line.strip() and not line.startswith("#"):
            paragraph.append(line)


def named(found: Sequence[Block], fragment: str) -> list[Block]:
    """The blocks that a fragment names: one, or all rows of the table whose header has it."""
    tables = {block.header for block in found if block.header == fragment} or {
        block.header for block in found if block.text == block.header and fragment in block.text
    }
    if tables:
        return [block for block in found if block.header in tables]
    return [block for block in found if fragment in block.text]


def numbers(stored: Any) -> Iterator[float]:
    """Every number of a JSON value."""
    if isinstance(stored, dict | list):
        for part in stored.values() if isinstance(stored, dict) else stored:
            yield from numbers(part)
    elif isinstance(stored, int | float):
        yield float(stored)


def is_stored(score: str, known: Sequence[float]) -> bool:
    """Whether a number of a text is one of `known`, rounded as the text has it; a middle may be rounded either way."""
    value = float(score.removesuffix(" %")) / (100 if score.endswith("%") else 1)
    places = len(score.removesuffix(" %").split(".")[1]) + (2 if score.endswith("%") else 0)
    return any(abs(value - abs(one)) <= 0.51 * 10**-places for one in known)
