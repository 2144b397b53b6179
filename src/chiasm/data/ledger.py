"""What was not used, and why: one line a rejected item, and a sum that must come out."""

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from chiasm.core.errors import InputError, JobError
from chiasm.core.files import write_text
from chiasm.core.types import Source


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    kind: Literal["rejected", "note"]
    file: str
    row: int | None
    """1-based line or record number; None where the file as a whole is meant."""
    code: str
    """Fixed short reason, such as "missing_image"."""
    text: str


FEW = 3
"""Rejected items that stop no run, where they are at most `FEW_SHARE` of all."""
FEW_SHARE = 0.2
FILE = "ledger.jsonl"
"""Name of the ledger in a run folder."""
LEAK = "leak"
"""Code of an example that is left out of training, as the user chose, since it is also held out."""


class Ledger:
    """Counts items so that offered = used + rejected, exactly; safe to share between threads.

    An item is what the source hands over in one piece: a row of a table, an image of a caption file. A rejected
    item is not used at all. A note tells of something dropped from an item that was otherwise used (an empty
    caption among five) or of a decision taken for the whole source; notes do not enter the sum.
    """

    def __init__(self) -> None:
        self.offered = 0
        self.used = 0
        self.rejected = 0
        self.entries: list[Entry] = []
        self.advice: list[str] = []
        self._lock = threading.Lock()

    def offer(self, count: int = 1) -> None:
        """Count items as they are read; each must later be used or rejected."""
        with self._lock:
            self.offered += count

    def use(self, count: int = 1) -> None:
        """Count items that became part of an example."""
        with self._lock:
            self.used += count

    def reject(self, source: Source, code: str, text: str) -> None:
        """Enter one offered item that is not used."""
        with self._lock:
            self.rejected += 1
            self.entries.append(Entry("rejected", source.file, source.row, code, text))

    def withdraw(self, source: Source, code: str, text: str) -> None:
        """Enter an item that was counted as used and then failed, such as an image that does not decode."""
        with self._lock:
            self.used -= 1
            self.rejected += 1
            self.entries.append(Entry("rejected", source.file, source.row, code, text))

    def note(self, source: Source, code: str, text: str) -> None:
        """Enter a remark that rejects nothing."""
        with self._lock:
            self.entries.append(Entry("note", source.file, source.row, code, text))

    def counts(self, kind: Literal["rejected", "note"] = "rejected") -> dict[str, int]:
        """Return code -> number of entries, commonest first."""
        return dict(Counter(entry.code for entry in self.entries if entry.kind == kind).most_common())

    @classmethod
    def added(cls, ledgers: Iterable["Ledger"]) -> "Ledger":
        """Return a new ledger that holds the sums and entries of all of them."""
        total = cls()
        for ledger in ledgers:
            total.offered += ledger.offered
            total.used += ledger.used
            total.rejected += ledger.rejected
            total.entries += ledger.entries
            for text in ledger.advice:
                total.advise(text)
        return total

    def summary(self) -> str:
        """Return one sentence such as "8092 offered = 8091 used + 1 rejected (missing_image 1)"."""
        self._balance()
        text = f"{self.offered} offered = {self.used} used + {self.rejected} rejected"
        text += _listed(self.counts())
        notes = self.counts("note")
        return text + (f"; {sum(notes.values())} notes{_listed(notes)}" if notes else "")

    def advise(self, text: str) -> None:
        """Keep a hint how to make rejected items usable; shown where a run stops for them."""
        with self._lock:
            if text not in self.advice:
                self.advice.append(text)

    def check(self, max_rejected: float) -> None:
        """Stop where too much is unusable; what is left out of training because it is held out is no fault of the data.

        Up to `FEW` items never stop a run, where they are at most a fifth of all and `max_rejected` is above 0: one of
        twenty is 5 %, and says nothing of the rest.

        Args:
            max_rejected: largest acceptable share of rejected items, in [0, 1].

        Raises:
            RejectedDataError: more are rejected, or nothing at all is usable.
        """
        if not 0 <= max_rejected <= 1:
            raise InputError(f"max_rejected is {max_rejected}", "a share in [0, 1]", "--set data.max_rejected=0.01")
        self._balance()
        faulty = self.rejected - self.counts().get(LEAK, 0)
        share = faulty / self.offered if self.offered else 0.0
        are_few = bool(max_rejected) and faulty <= FEW and share <= FEW_SHARE
        if self.used and (share <= max_rejected or are_few):
            return
        raise RejectedDataError(self, max_rejected, share)

    def write(self, path: Path) -> None:
        """Write the entries as JSON lines, the sums as the last line; atomic."""
        self._balance()
        lines = [asdict(entry) for entry in self.entries]
        sums = {"offered": self.offered, "used": self.used, "rejected": self.rejected}
        lines.append({"kind": "summary", **sums, "codes": self.counts(), "notes": self.counts("note")})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        # A file name need not be UTF-8; its stray bytes become \udc.. escapes, which JSON reads back.
        write_text(path, text.encode("utf-8", "backslashreplace").decode())

    def _balance(self) -> None:
        if self.offered != self.used + self.rejected:
            raise JobError(
                f"the ledger does not add up: {self.offered} offered, {self.used} used, {self.rejected} rejected"
            )


class RejectedDataError(InputError):
    """Too little of the data is usable; states each reason with its count and first place.

    Args:
        ledger: of the data.
        max_rejected: the largest share that was acceptable.
        share: the share that is rejected.
    """

    def __init__(self, ledger: Ledger, max_rejected: float, share: float) -> None:
        self.ledger = ledger
        first: dict[str, Entry] = {}
        for entry in ledger.entries:
            if entry.kind == "rejected":
                first.setdefault(entry.code, entry)
        reasons = "".join(
            f"\n    {code}: {count}, the first at {Source(first[code].file, first[code].row)}: {first[code].text}"
            for code, count in ledger.counts().items()
        )
        accept = f"accept them with --set data.max_rejected={_at_least(share)}" if ledger.used else ""
        do = [*ledger.advice, "repair the data", *([accept] if accept else [])]
        super().__init__(
            f"{ledger.summary()}{reasons}",
            f"at most {max_rejected:.2%} rejected"
            + (f", or {FEW} items that are at most a fifth" if max_rejected else "")
            + ", and at least one used",
            "; or ".join(do),
        )


@contextmanager
def kept_where_refused(folder: Path, is_writer: bool) -> Iterator[None]:
    """Write the ledger of data that is refused inside to a run folder, and say so in the error.

    Args:
        folder: of the run.
        is_writer: True in the one of several processes that writes.
    """
    file = folder / FILE
    try:
        yield
    except RejectedDataError as error:
        if is_writer:
            error.ledger.write(file)
        raise InputError(error.given, error.allowed, f"{error.do}\n  every one is listed in {file}") from None


def _at_least(share: float) -> str:
    """The share rounded up to two digits that count, as `--set` reads it."""
    digits = 2 if share >= 0.1 else 3
    return f"{math.ceil(round(share * 10**digits, 9)) / 10**digits:g}"


def _listed(counts: dict[str, int]) -> str:
    return " (" + ", ".join(f"{code} {count}" for code, count in counts.items()) + ")" if counts else ""
