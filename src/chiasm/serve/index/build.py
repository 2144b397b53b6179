"""Files -> items: an index is brought in line with folders, and only what is new or changed is encoded.

Each part of `photos.AT_ONCE` images is one transaction. A killed or stopped job has lost at most the part in hand,
and the same command goes on with the rest, because what is done is seen in the index itself.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chiasm.core.errors import InputError, Interrupted
from chiasm.core.types import Source
from chiasm.data.ledger import Ledger
from chiasm.serve.index.metadata import Described
from chiasm.serve.index.store import Change, Entry, Refused, Store, Value
from chiasm.serve.photos import Encoded, Known, file_state, photo_paths

Encode = Callable[[Sequence[str], Known | None], Iterator[list[Encoded]]]
Progress = Callable[[int, int], None]
"""Called with (images done, images to do)."""


@dataclass(slots=True)
class Report:
    """What was done.

    Attributes:
        added, changed, unchanged, removed: images. `removed` vanished from the folder, or were taken out.
        ledger: what was offered, used and rejected, files that were known to be unusable included.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def text(self) -> str:
        """One line."""
        said = f"{self.added} added, {self.changed} changed, {self.unchanged} unchanged, {self.removed} removed"
        return f"{said}; {self.ledger.summary()}"

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        counts = {name: getattr(self, name) for name in ("added", "changed", "unchanged", "removed")}
        sums = {"offered": self.ledger.offered, "used": self.ledger.used, "rejected": self.ledger.rejected}
        rejected = [{"file": one.file, "code": one.code} for one in self.ledger.entries if one.kind == "rejected"]
        return {**counts, "ledger": sums, "rejected": rejected}


def sync(
    store: Store,
    encode: Encode,
    places: Sequence[Path],
    progress: Progress,
    forgets: bool = False,
    described: Described | None = None,
) -> Report:
    """Bring an index in line with folders and files.

    Args:
        store: the index.
        encode: `Encoder.encode`, or what does the same in several processes.
        places: folders, searched below, and image files.
        progress: told of each part.
        forgets: take out what the index has below these folders and they have no longer.
        described: metadata; images that it does not know keep theirs.

    Raises:
        InputError: a place is missing or has no image; another process writes.
        Interrupted: Ctrl-C; all parts before are kept.
    """
    offered = list(dict.fromkeys(str(path) for place in places for path in photo_paths(Path(os.path.abspath(place)))))
    with store.writing():
        work = _Work(store, store.states(), described)
        due = work.look_at(offered)
        done = 0
        try:
            progress(0, len(due))
            for part in encode(due, store.vectors_of):
                work.write(part)
                done += len(part)
                progress(done, len(due))
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped: {done} of {len(due)} images are in {store.where}\n  to go on: give the same command again"
            ) from None
        if forgets:  # at the end, so that an image that was moved finds its vector under the old path
            work.forget_vanished([os.path.abspath(place) for place in places], offered)
    ledger = work.report.ledger
    if not ledger.used:
        first = "; ".join(f"{entry.file}: {entry.code}" for entry in ledger.entries[:3])
        raise InputError(
            f"no image in {', '.join(map(str, places))} can be read; {ledger.summary()}; the first: {first}",
            "readable images",
            "look at the files",
        )
    return work.report


class _Work:
    """One `sync` while it goes on."""

    def __init__(self, store: Store, states: Mapping[str, tuple[str, str]], described: Described | None) -> None:
        self.store, self.states, self.described, self.report = store, states, described, Report()
        self.metadata = store.metadata() if described is not None else {}
        self.reasons = {one.path: one for one in store.refused()}

    def look_at(self, offered: Sequence[str]) -> list[str]:
        """Return the files to be read; of the others, write what their metadata have become."""
        due, told = [], Change()
        ledger = self.report.ledger
        for path in offered:
            ledger.offer()
            if not _is_text(path):
                ledger.reject(Source(repr(os.fsencode(path))), "file_name", "the file's name is not UTF-8; rename it")
                continue
            state, content = self.states.get(path, ("", ""))
            if not state or state != file_state(path):
                due.append(path)
            elif not content:
                ledger.reject(Source(path), self.reasons[path].code, self.reasons[path].text)
            else:
                self._keep(path, told)
        if told.describe:
            self.store.apply(told)
        return due

    def forget_vanished(self, folders: Sequence[str], offered: Sequence[str]) -> None:
        """Take out what lay below the folders and is not there any more."""
        there, below = set(offered), tuple(folder.rstrip("/") + "/" for folder in folders)
        gone = [path for path in self.states if path.startswith(below) and path not in there]
        self.report.removed += sum(bool(self.states[path][1]) for path in gone)
        if gone:
            self.store.apply(Change(remove=gone))

    def write(self, part: Sequence[Encoded]) -> None:
        """Write one part in one transaction; after that, and not before, it is counted."""
        change, rejected = Change(), list[Refused]()
        for one in part:
            before = self.states.get(one.path, ("", ""))[1]
            if one.problem is not None:
                rejected.append(Refused(one.path, one.state, one.problem.code, one.problem.given))
            elif before == one.content:
                change.touch.append((one.state, one.path))
                self._keep(one.path, change)
            else:
                assert one.vector is not None, "an image without a problem has a vector"
                kept = self.metadata.get(one.path) or {}
                metadata = self._described(one.path) or kept
                change.put.append(Entry(one.path, one.content, one.size_bytes, one.state, one.vector, metadata))
                self.report.changed += bool(before)
                self.report.added += not before
                self.report.ledger.use()
        change.refuse = rejected
        self.store.apply(change)
        for refused in rejected:
            self.report.ledger.reject(Source(refused.path), refused.code, refused.text)

    def _keep(self, path: str, change: Change) -> None:
        self.report.unchanged += 1
        self.report.ledger.use()
        told = self._described(path)
        if told is not None and told != self.metadata.get(path):
            change.describe.append((path, told))

    def _described(self, path: str) -> dict[str, Value] | None:
        return self.described.of(path) if self.described is not None else None


def delete(store: Store, what: Sequence[str], where: Mapping[str, Value] | None = None) -> int:
    """Take images out of an index by path, or all below a folder, or all that fit a filter; return how many.

    Files are not touched. An image that still lies in its folder comes back with the next build of that folder.

    Raises:
        InputError: neither was given, or something of that is not in the index.
    """
    if not what and not where:
        raise InputError("nothing to delete", "paths, folders, or --where KEY=VALUE", "say what")
    with store.writing():
        gone = [item.path for item in store.chosen(where)] if where else []
        known = store.states()
        for one in what:
            path = os.path.abspath(one)
            found = [path] if path in known else [name for name in known if name.startswith(path.rstrip("/") + "/")]
            if not found:
                raise InputError(f"{path} is not in {store.where}", "images and folders of the index", "check the path")
            gone += found
        gone = list(dict.fromkeys(gone))
        store.apply(Change(remove=gone))
    return sum(bool(known[path][1]) for path in gone)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
