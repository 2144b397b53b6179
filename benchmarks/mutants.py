"""Do the tests bite? Plant each bug of mutants.toml in a copy of the package, and see its tests go red.

`python benchmarks/mutants.py [WORDS]` runs those whose name contains the words, all without. Two at a time; the copies
lie in a temporary folder and the checkout is not touched. Exit 1 where a bug stays unnoticed or its place is gone, or
where the tests are red without any.
"""

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
        """The file's text with the bug; None where `old` does not stand there exactly once."""
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
    words = " ".join(sys.argv[1:])
    chosen = [one for one in mutants() if words in one.name]
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
