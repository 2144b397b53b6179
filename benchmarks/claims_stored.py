"""What benchmarks/claims*.toml say of each command that printed numbers, and the results that are stored of it.

`claims.py` lists and checks them, `claims_run.py` runs one again.
"""

import json
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import claims_code

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "benchmarks").glob("claims*.toml"))
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("CHIASM_DATA", ROOT.parent / "shared" / "data")).resolve()
WORK = ROOT / "runs" / "claims"
SCORE = {"value", "low", "high", "n"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of docs/results.md: the paths of a metric and of its value with images shuffled in the stored JSON."""

    metric: str
    score: str
    shuffled: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One command and the numbers that it printed.

    Args:
        name: its key in claims.toml.
        command: `{data}` is the folder of real data, `{out}` a folder of its own, `{NAME}` that of another claim.
        code: folders and files below src/chiasm whose change makes the numbers stale.
        stored: `FILE` or `FILE#PATH` in benchmarks/results; "" where the numbers were only printed.
        reads: what the command writes and `run` reads: a JSON file, or a pattern whose newest file is taken.
        compares: paths in the stored JSON that `run` holds against a new one; all scores below them.
        gate: a stored curve in tests/runs/golden that holds the same code to the same numbers at a small size.
        derived: numbers in its texts that are computed from stored ones: means, differences, shares.
        printed: numbers in its texts that were printed and not stored.
        published: numbers in its texts that others published.
        texts: {file: fragments of the blocks that have the numbers}.
        rows: its lines in docs/results.md.
        setting: its first cell there.
        small: the command at a size that a test can run; by default with --tiny where the verb has it. "" for none.
    """

    name: str
    command: str
    code: tuple[str, ...]
    stored: str = ""
    reads: str = "{out}/results.json"
    compares: tuple[str, ...] = ("metrics",)
    gate: str = ""
    date: str = ""
    commit: str = ""
    seed: str = "0"
    machine: str = ""
    derived: tuple[str, ...] = ()
    printed: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    texts: dict[str, list[str]] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    setting: str = ""
    small: str | None = None

    @property
    def listed(self) -> tuple[str, ...]:
        """Numbers of its texts that the stored JSON does not have."""
        return self.derived + self.printed + self.published

    @property
    def result(self) -> Any:
        """The stored JSON, or None."""
        return read(self.stored) if self.stored else None

    @property
    def facts(self) -> tuple[str, str, str]:
        """(Date, commit, machine), of the stored result where it says them."""
        if not self.stored:
            return self.date, self.commit, self.machine
        whole, own = read(self.stored.split("#")[0]), self.result
        environment = own.get("environment") or whole.get("environment") or {}
        date = own.get("date") or whole.get("date") or self.date or self.stored[:10]
        commit = environment.get("commit") or whole.get("commit") or self.commit
        threads = environment.get("threads")
        where = environment.get("cpu", "") if environment.get("device", "cpu") == "cpu" else environment["device"]
        return date, commit, self.machine or (f"{where}, {threads} threads" if threads != 1 else f"{where}, 1 thread")

    @property
    def changed(self) -> list[str]:
        """Files that it depends on and that have changed since its commit."""
        commit = self.facts[1].removesuffix("-dirty")
        gate = f"tests/runs/golden/{self.gate}.json" if self.gate else ""
        return claims_code.changed_files(self.code, commit, gate)

    def typed(self, place: Path) -> str:
        """The command with its folders."""
        others = {name: shlex.quote(str(place.parent / name)) for name in claims()}
        return self.command.format(data=shlex.quote(str(DATA)), out=shlex.quote(str(place)), **others)

    @property
    def needs(self) -> list[str]:
        """Claims whose run folder the command reads."""
        return [name for name in claims() if "{" + name + "}" in self.command]


@cache
def read(stored: str) -> Any:
    """A node of a file in benchmarks/results: `FILE#KEY.KEY`, a key may hold dots where it is whole."""
    file, _, path = stored.partition("#")
    return node_at(json.loads((RESULTS / file).read_text(encoding="utf-8")), path)


def node_at(node: Any, path: str) -> Any:
    """The node of a JSON value at a path; the longest key that fits is taken, since keys may hold dots."""
    if not path:
        return node
    if isinstance(node, list):
        head, _, rest = path.partition(".")
        return node_at(node[int(head)], rest)
    for key in sorted(node, key=len, reverse=True):
        if path == key or path.startswith(f"{key}."):
            return node_at(node[key], path[len(key) + 1 :])
    raise KeyError(path)


@cache
def contents() -> dict[str, Any]:
    """What benchmarks/claims*.toml hold, as one table."""
    return {name: entry for file in FILES for name, entry in tomllib.loads(file.read_text(encoding="utf-8")).items()}


@cache
def claims() -> dict[str, Claim]:
    """All claims of benchmarks/claims*.toml, by name."""
    content = contents()
    return {
        name: Claim(
            name=name,
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in entry.items()
                if key not in own
            },
            code=tuple(paths_of(entry["code"], content["code"])),
            rows=tuple(Row(**row) for row in entry.get("rows", [])),
        )
        for own in [("code", "rows")]
        for name, entry in content.items()
        if name not in ("code", "settings")
    }


def paths_of(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Paths for words of `code`, each a path or a group of them; "!" before a group stands before each of its paths."""
    for word in words:
        if word.startswith("!"):
            yield from (f"!{path}" for path in groups.get(word[1:], [word[1:]]))
        elif word in groups:
            yield from paths_of(groups[word], groups)
        else:
            yield word


def settings() -> dict[str, list[str]]:
    """{file: fragments of blocks} whose numbers are settings, limits or sums, which no command measured."""
    return dict(contents()["settings"])


def scores(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(Path, score) of every {"value", "low", "high", "n"} below a node."""
    if isinstance(node, dict) and node.keys() >= SCORE:
        yield path, node
    elif isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from scores(value, f"{path}.{key}" if path else str(key))
