"""Do the tests bite? Plant each bug of mutants.toml in a copy of the package, and see its tests go red.

`python benchmarks/mutants.py [WORDS]` runs those whose name contains the words, all without; with --list it only says
which there are, and whether the place of each is still there. Two at a time; the copies lie in a temporary folder and
the checkout is not touched. Exit 1 where a bug stays unnoticed or its place is gone, or where the tests are red without
any.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src" / "chiasm"
AT_ONCE = 2
LIMIT_S = 300
TESTS_FAILED = 1
"""Exit status of pytest where tests ran and some failed; a collection error or an interrupt is another."""


@dataclass(frozen=True)
class Mutant:
    """One planted bug."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str]

    def planted(self) -> str | None:
        """The file's text with the bug; None where `old` does not stand there exactly once, or the file is gone."""
        if not (PACKAGE / self.file).is_file():
            return None
        text = (PACKAGE / self.file).read_text(encoding="utf-8")
        return text.replace(self.old, self.new) if text.count(self.old) == 1 else None


def mutants() -> list[Mutant]:
    """All planted bugs, in the order of the file."""
    content = tomllib.loads((REPOSITORY / "benchmarks" / "mutants.toml").read_text(encoding="utf-8"))
    return [Mutant(**one) for one in content["mutant"]]


def run_tests(tests: list[str], source: Path) -> int:
    """Exit status of pytest with the package below `source`; a run that hangs counts as red."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return TESTS_FAILED
    if done.returncode not in (0, TESTS_FAILED):
        print(done.stdout.decode()[-2000:], done.stderr.decode()[-2000:])
    return done.returncode


def verdict(mutant: Mutant) -> tuple[str, float]:
    """What became of a planted bug: "red" is what should, "GREEN", "PLACE GONE" or "BROKEN" is not; and the seconds."""
    start, text = time.monotonic(), mutant.planted()
    if text is None:
        return "PLACE GONE", 0.0
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "src"
        shutil.copytree(PACKAGE, source / "chiasm", ignore=shutil.ignore_patterns("__pycache__"))
        (source / "chiasm" / mutant.file).write_text(text, encoding="utf-8")
        status = run_tests(mutant.tests, source)
    said = {0: "GREEN", TESTS_FAILED: "red"}.get(status, "BROKEN")
    return said, time.monotonic() - start


def main() -> int:
    """Plant, test, print a line each and the sum."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="run those whose name contains these words; all if none are given")
    parser.add_argument("--list", action="store_true", help="list them, and run nothing")
    typed = parser.parse_args()
    chosen = [one for one in mutants() if " ".join(typed.words) in one.name]
    if not chosen:
        parser.error(f"no planted bug has a name that contains {' '.join(typed.words)!r}; --list lists them")
    if typed.list:
        gone = [one for one in chosen if one.planted() is None]
        for one in chosen:
            print(f"{'PLACE GONE' if one in gone else 'stands':10}  {one.file}: {one.name}")
        return 1 if gone else 0
    tests = sorted({test for one in chosen for test in one.tests})
    if run_tests(tests, PACKAGE.parent) != 0:
        print("the tests are red, or do not run, without any planted bug")
        return 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = []
        for mutant, (said, seconds) in zip(chosen, pool.map(verdict, chosen), strict=True):
            print(f"{said:10} {seconds:5.1f} s  {mutant.name}", flush=True)
            found.append(said)
    print(f"{found.count('red')} of {len(found)} planted bugs go red")
    return 0 if found.count("red") == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
