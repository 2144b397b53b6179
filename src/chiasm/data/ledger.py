"""What was not used, and why: one line a rejected item, and a sum that must come out."""

import json
import threading
from collections import Counter
from collections.abc import Iterable
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


LEAK = "leak"
"""Code of an example that is left out of training, as the user chose, since it is also held out."""


class Ledger:
    """Counts items so that offered = used + rejected, exactly; safe to share between threads.

    An item is what the source hands over in one piece: a row of a table, a picture of a caption file. A rejected
    item is not used at all. A note tells of something dropped from an item that was otherwise used (an empty
    caption among five) or of a decision taken for the whole source; notes do not enter the sum.
    """

    def __init__(self) -> None:
        self.offered = 0
        self.used = 0
        self.rejected = 0
        self.entries: list[Entry] = []
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
        """Enter an item that was counted as used and then failed, such as a picture that does not decode."""
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
        return total

    def summary(self) -> str:
        """Return one sentence such as "8092 offered = 8091 used + 1 rejected (missing_image 1)"."""
        self._balance()
        text = f"{self.offered} offered = {self.used} used + {self.rejected} rejected"
        text += _listed(self.counts())
        notes = self.counts("note")
        return text + (f"; {sum(notes.values())} notes{_listed(notes)}" if notes else "")

    def check(self, max_rejected: float) -> None:
        """Stop where too much is unusable; what is left out of training because it is held out is no fault of the data.

        Args:
            max_rejected: largest acceptable share of rejected items, in [0, 1].

        Raises:
            InputError: the share is above, or nothing at all is usable.
        """
        if not 0 <= max_rejected <= 1:
            raise InputError(f"max_rejected is {max_rejected}", "a share in [0, 1]", "--set data.max_rejected=0.01")
        self._balance()
        faulty = self.rejected - self.counts().get(LEAK, 0)
        share = faulty / self.offered if self.offered else 0.0
        if self.used and share <= max_rejected:
            return
        first = next((entry for entry in self.entries if entry.kind == "rejected"), None)
        where = f"; the first: {Source(first.file, first.row)}: {first.text}" if first else ""
        raise InputError(
            f"{self.summary()}{where}",
            f"at most {max_rejected:.2%} rejected and at least one used",
            "repair the data, or raise data.max_rejected",
        )

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


def _listed(counts: dict[str, int]) -> str:
    return " (" + ", ".join(f"{code} {count}" for code, count in counts.items()) + ")" if counts else ""
