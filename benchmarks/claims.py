"""The numbers that the texts tell: `python benchmarks/claims.py list | run NAME [--keep] | stale | check | table`.

benchmarks/claims*.toml say, for each command that printed numbers, where they stand in README, docs and recipes, in
which file of benchmarks/results they are stored, and which code they depend on.

- `list` shows every claim with date, commit, and whether its code is still that of the commit.
- `run NAME` runs the command again and compares what it writes with the stored 95 % intervals; exit 1 outside of them.
  The data are found through CHIASM_DATA (default ../shared/data); run folders go to runs/claims/NAME. With `--keep` the
  new result takes the place of the stored one, if the code is a commit; `check` then says which texts to change.
- `stale` names the claims whose command no longer parses or whose code has changed since; exit 1 if there are any.
- `check` names numbers of the texts without a claim, and claims whose number or text is gone; exit 1 if any.
- `table` writes docs/results.md anew, between its marks.
"""

import datetime
import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import claims_code
import claims_texts
from chiasm.core.device import environment

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "benchmarks").glob("claims*.toml"))
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
DATA = Path(os.environ.get("CHIASM_DATA", ROOT.parent / "shared" / "data")).resolve()
WORK = ROOT / "runs" / "claims"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"
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


def faults() -> list[str]:
    """Where texts and claims are out of step, one sentence each."""
    found = []
    covered: dict[str, dict[str, list[Claim]]] = {}
    for claim in claims().values():
        own = []
        for name, fragments in claim.texts.items():
            for fragment in fragments:
                rows = claims_texts.named(claims_texts.blocks(name), fragment)
                if len({block.header or block.text for block in rows}) != 1:
                    found.append(f"{claim.name}: {len(rows)} blocks of {name} have {fragment!r}, where one should")
                own += rows
                for block in rows:
                    covered.setdefault(name, {}).setdefault(block.text, []).append(claim)
        told = {score for block in own for score in block.scores}
        found += [f"{claim.name}: {score} stands in none of its texts" for score in claim.listed if score not in told]
    known_settings = settings()
    for name in claims_texts.texts():
        blocks = claims_texts.blocks(name)
        aside = {block.text for text in known_settings.get(name, []) for block in claims_texts.named(blocks, text)}
        for block in blocks:
            behind = covered.get(name, {}).get(block.text, [])
            if block.text in aside or not (block.scores or block.costs):
                continue
            if not behind:
                found.append(f"{name}: no claim has {', '.join(block.scores + block.costs)} of {block.text[:60]!r}")
            whose = ", ".join(claim.name for claim in behind)
            found += [
                f"{name}: {score} is in no stored result of {whose}: {block.text[:60]!r}"
                for score in block.scores
                if behind and not _is_backed(score, behind)
            ]
    return found


def _is_backed(score: str, behind: list[Claim]) -> bool:
    if any(score in claim.listed for claim in behind):
        return True
    return any(claims_texts.is_stored(score, list(claims_texts.numbers(claim.result))) for claim in behind)


def scores(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(Path, score) of every {"value", "low", "high", "n"} below a node."""
    if isinstance(node, dict) and node.keys() >= SCORE:
        yield path, node
    elif isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from scores(value, f"{path}.{key}" if path else str(key))


def words_of(command: str) -> list[str]:
    """The command as words, for this interpreter."""
    first, *rest = shlex.split(command)
    starts = {"chiasm": [sys.executable, "-m", "chiasm"], "python": [sys.executable]}
    return [*starts.get(first, [first]), *rest]


def keep(claim: Claim, written: Path) -> None:
    """Name a new result in its claim, and copy it into benchmarks/results where the command did not write it there.

    Raises:
        SystemExit: uncommitted code made it.
    """
    new = json.loads(written.read_text(encoding="utf-8"))
    commit = str(new.get("environment", environment())["commit"])
    if not commit or commit.endswith("-dirty"):
        sys.exit(f"the code is {commit or 'no commit'!r}: commit first, so that the stored numbers name what made them")
    part = claim.stored.partition("#")[2]
    stored = f"{written.name}#{part}" if part else written.name
    if written.parent != RESULTS:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        stored = f"{today}-{claim.name}.json"
        command = claim.command.replace("{data}/", "").replace(" --out {out}", "").replace(" --json {out}.json", "")
        seed = int(claim.seed) if claim.seed.isdigit() else claim.seed
        facts = {"date": today, "command": command, "seed": seed, "environment": environment()}
        (RESULTS / stored).write_text(
            json.dumps({**facts, **new}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    for file in FILES:
        before, found, own = file.read_text(encoding="utf-8").partition(f"\n[{claim.name}]\n")
        own = own.replace(f'stored = "{claim.stored}"', f'stored = "{stored}"', 1)
        file.write_text(before + found + own, encoding="utf-8")
    print(f"kept: {stored}")


def run(name: str, is_kept: bool = False) -> int:
    """Run a claim's command, print each new score beside the stored one, and return 1 where one is outside."""
    claim = claims()[name]
    for other in claim.needs:
        if not (WORK / other).exists() and run(other):
            print(f"{other}, which {name} needs, came out otherwise", file=sys.stderr)
    place = WORK / name
    place.parent.mkdir(parents=True, exist_ok=True)
    print(command := claim.typed(place), file=sys.stderr)
    file, _, part = claim.stored.partition("#")
    # Read before the command, which may write over the file; of a new claim `--keep` makes it.
    compared = claim.compares if (RESULTS / file).is_file() else ()
    stored = [(top, *one) for top in compared for one in scores(node_at(claim.result, top))]
    started = time.time()
    subprocess.run(words_of(command), check=True, cwd=ROOT)
    if not file:
        print("nothing is stored to compare with: hold what was printed above against", *claim.texts)
        return 0
    reads = claim.reads.format(out=place.relative_to(ROOT))
    written = sorted(ROOT.glob(reads), key=lambda file: file.stat().st_mtime)
    if not written or written[-1].stat().st_mtime < started - 1:
        raise SystemExit(f"the command wrote no {reads}, which is what claim {name} reads")
    new = json.loads(written[-1].read_text(encoding="utf-8"))
    outside = 0
    for top, path, old in stored:
        where = ".".join(word for word in (top, path) if word)
        try:
            now = node_at(new, where)["value"]
        except KeyError:
            now = node_at(new, f"{part}.{where}")["value"]
        fits = old["low"] <= now <= old["high"]
        outside += not fits
        said = "" if fits else "  OUTSIDE"
        print(f"{where:40} {now:.3f}  stored {old['value']:.3f} ({old['low']:.3f}-{old['high']:.3f}){said}")
    if is_kept:
        keep(claim, written[-1])
    return int(outside > 0)


def state(claim: Claim) -> str:
    """`current`, or why the claim is stale."""
    untyped = claims_code.cannot_be_typed(claim.typed(WORK / claim.name))
    if untyped:
        return f"cannot be typed: {untyped}"
    if not claims_code.is_known(claim.facts[1].removesuffix("-dirty")):
        return "stale: of no commit that this history has"
    changed = claim.changed
    held = f" (since then held by golden {claim.gate})" if claim.gate else ""
    return f"stale: {len(changed)} files changed{held}" if changed else f"current{held}"


def table() -> str:
    """The rows of docs/results.md."""
    lines = [
        "| command and data | metric | score | 95 % interval | n | images shuffled | measured |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for claim in claims().values():
        date, commit, _ = claim.facts
        for number, row in enumerate(claim.rows):
            score = node_at(claim.result, row.score)
            blind = node_at(claim.result, row.shuffled) if row.shuffled else None
            shuffled = "" if blind is None else f"{blind['value'] if isinstance(blind, dict) else blind:.3f}"
            cells = (
                claim.setting if not number else "",
                row.metric,
                f"{score['value']:.3f}",
                f"{score['low']:.3f}-{score['high']:.3f}",
                f"{score['n']:,}",
                shuffled,
                f"{date}, {commit}" if not number else "",
            )
            lines.append("| " + " | ".join(cells).replace("|  |", "| |") + " |")
    return "\n".join(lines)


def page() -> str:
    """docs/results.md with the table as it must be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


def show() -> None:
    """Print all claims as a table, the command of each below its row."""
    wide = max(len(name) for name in claims())
    print(f"{'claim':{wide}}  {'date':10}  {'commit':13}  {'seed':7}  {'machine':22}  {'places':>6}  state")
    for name, claim in claims().items():
        date, commit, machine = claim.facts
        places = sum(len(fragments) for fragments in claim.texts.values())
        kept = "" if claim.stored else "; not stored"
        row = f"{name:{wide}}  {date:10}  {commit or '-':13}  {claim.seed:7}  {machine:22}  {places:>6}"
        print(f"{row}  {state(claim)}{kept}\n    {claim.command}")


def main() -> int:
    """Do what the first word says."""
    words = sys.argv[1:] or ["--help"]
    if words[0] == "list":
        show()
    elif words[0] == "run" and words[1:2] and words[1] in claims() and words[2:] in ([], ["--keep"]):
        return run(words[1], is_kept="--keep" in words)
    elif words[0] == "stale":
        found = {name: state(claim) for name, claim in claims().items()}
        late = {name: why for name, why in found.items() if not why.startswith("current")}
        print("\n".join(f"{name}: {why}" for name, why in late.items()) or "no claim is stale")
        return int(bool(late))
    elif words[0] == "check":
        found_faults = faults()
        print("\n".join(found_faults) or "texts and claims are in step")
        return int(bool(found_faults))
    elif words[0] == "table":
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(__doc__, "\nClaims:", ", ".join(claims()), file=sys.stderr)
        return 0 if words[0] in ("--help", "-h") else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
