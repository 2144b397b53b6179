"""Run a claim's command again, compare what it writes with the stored intervals, and keep the new result."""

import datetime
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import claims_stored
from chiasm.core.device import environment
from claims_stored import Claim, node_at, scores


def words_of(command: str) -> list[str]:
    """The command as words, for this interpreter."""
    first, *rest = shlex.split(command)
    starts = {"chiasm": [sys.executable, "-m", "chiasm"], "python": [sys.executable]}
    return [*starts.get(first, [first]), *rest]


def keep(claim: Claim, written: Path, command_s: float) -> None:
    """Name a new result in its claim, and copy it into benchmarks/results where the command did not write it there.

    The copy says how many seconds the command took, so that one who wants to run it again knows.

    Raises:
        SystemExit: uncommitted code made it.
    """
    new = json.loads(written.read_text(encoding="utf-8"))
    commit = str(new.get("environment", environment())["commit"])
    if not commit or commit.endswith("-dirty"):
        sys.exit(f"the code is {commit or 'no commit'!r}: commit first, so that the stored numbers name what made them")
    part = claim.stored.partition("#")[2]
    stored = f"{written.name}#{part}" if part else written.name
    if written.parent != claims_stored.RESULTS:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        stored = f"{today}-{claim.name}.json"
        command = claim.command.replace("{data}/", "").replace(" --out {out}", "").replace(" --json {out}.json", "")
        seed = int(claim.seed) if claim.seed.isdigit() else claim.seed
        facts = {"date": today, "command": command, "seed": seed, "command_s": round(command_s)}
        content = json.dumps({**facts, "environment": environment(), **new}, indent=2, ensure_ascii=False)
        (claims_stored.RESULTS / stored).write_text(content + "\n", encoding="utf-8")
    for file in claims_stored.FILES:
        before, found, own = file.read_text(encoding="utf-8").partition(f"\n[{claim.name}]\n")
        own = own.replace(f'stored = "{claim.stored}"', f'stored = "{stored}"', 1)
        file.write_text(before + found + own, encoding="utf-8")
    print(f"kept: {stored}")


def run(name: str, is_kept: bool = False) -> int:
    """Run a claim's command, print each new score beside the stored one, and return 1 where one is outside."""
    claim = claims_stored.claims()[name]
    for other in claim.needs:
        if not (claims_stored.WORK / other).exists() and run(other):
            print(f"{other}, which {name} needs, came out otherwise", file=sys.stderr)
    place = claims_stored.WORK / name
    place.parent.mkdir(parents=True, exist_ok=True)
    command = claim.typed(place)
    print(command, file=sys.stderr)
    file, _, part = claim.stored.partition("#")
    # Read before the command, which may write over the file; of a new claim `--keep` makes it.
    compared = claim.compares if (claims_stored.RESULTS / file).is_file() else ()
    stored = [(top, *one) for top in compared for one in scores(node_at(claim.result, top))]
    started = time.time()
    subprocess.run(words_of(command), check=True, cwd=claims_stored.ROOT)
    command_s = time.time() - started
    if not file:
        print("nothing is stored to compare with: hold what was printed above against", *claim.texts)
        return 0
    reads = claim.reads.format(out=place.relative_to(claims_stored.ROOT))
    written = sorted(claims_stored.ROOT.glob(reads), key=lambda file: file.stat().st_mtime)
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
        keep(claim, written[-1], command_s)
    return int(outside > 0)
