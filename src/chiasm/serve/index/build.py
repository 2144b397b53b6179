"""Synchronise an index with folders of images; only new and changed images are encoded.

Each part of `photos.AT_ONCE` images is one transaction. A job that is killed or stopped loses at most the current part,
and the same command continues with the rest, because the index itself records what is done.
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
    """What one synchronisation did.

    Attributes:
        added, changed, unchanged, removed: numbers of images; `removed` were no longer in the folders.
        ledger: what was offered, used and rejected, files already known to be unusable included.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def text(self) -> str:
        """One line."""
        counts = f"{self.added} added, {self.changed} changed, {self.unchanged} unchanged, {self.removed} removed"
        return f"{counts}; {self.ledger.summary()}"

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        counts = {name: getattr(self, name) for name in ("added", "changed", "unchanged", "removed")}
        sums = {"offered": self.ledger.offered, "used": self.ledger.used, "rejected": self.ledger.rejected}
        rejected = [
            {"file": entry.file, "code": entry.code} for entry in self.ledger.entries if entry.kind == "rejected"
        ]
        return {**counts, "ledger": sums, "rejected": rejected}


def sync(
    store: Store,
    encode: Encode,
    places: Sequence[Path],
    progress: Progress,
    forgets: bool = False,
    described: Described | None = None,
) -> Report:
    """Synchronise an index with folders and files.

    Args:
        store: the index.
        encode: `Encoder.encode`, or a function that does the same in several processes.
        places: folders, searched recursively, and image files.
        progress: called after each part.
        forgets: remove items below these folders whose files no longer exist.
        described: metadata; images without a row keep what they have.

    Raises:
        InputError: a place is missing or has no image; another process writes to the index.
        Interrupted: Ctrl-C; all parts before are kept.
    """
    offered = list(dict.fromkeys(str(path) for place in places for path in photo_paths(Path(os.path.abspath(place)))))
    with store.writing():
        work = _Work(store, store.states(), described)
        due = work.to_encode(offered)
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
        if forgets:  # last, so that the vector of a moved image is still found under its old path
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
    """The state of one `sync`."""

    def __init__(self, store: Store, states: Mapping[str, tuple[str, str]], described: Described | None) -> None:
        self.store, self.states, self.described, self.report = store, states, described, Report()
        self.metadata = store.metadata() if described is not None else {}
        self.reasons = {refused.path: refused for refused in store.refused()}

    def to_encode(self, offered: Sequence[str]) -> list[str]:
        """Return the files that are new or changed; update the metadata of the others."""
        due, change = [], Change()
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
                self._keep(path, change)
        if change.describe:
            self.store.apply(change)
        return due

    def forget_vanished(self, folders: Sequence[str], offered: Sequence[str]) -> None:
        """Remove items below the folders whose files no longer exist."""
        there, below = set(offered), tuple(folder.rstrip("/") + "/" for folder in folders)
        gone = [path for path in self.states if path.startswith(below) and path not in there]
        self.report.removed += sum(bool(self.states[path][1]) for path in gone)
        if gone:
            self.store.apply(Change(remove=gone))

    def write(self, part: Sequence[Encoded]) -> None:
        """Write one part in one transaction; it is counted only after that."""
        change, rejected = Change(), list[Refused]()
        for image in part:
            before = self.states.get(image.path, ("", ""))[1]
            if image.problem is not None:
                rejected.append(Refused(image.path, image.state, image.problem.code, image.problem.given))
            elif before == image.content:
                change.touch.append((image.state, image.path))
                self._keep(image.path, change)
            else:
                assert image.vector is not None, "an image without a problem has a vector"
                metadata = self._described(image.path) or self.metadata.get(image.path) or {}
                change.put.append(
                    Entry(image.path, image.content, image.size_bytes, image.state, image.vector, metadata)
                )
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
        metadata = self._described(path)
        if metadata is not None and metadata != self.metadata.get(path):
            change.describe.append((path, metadata))

    def _described(self, path: str) -> dict[str, Value] | None:
        return self.described.of(path) if self.described is not None else None


def delete(store: Store, what: Sequence[str], where: Mapping[str, Value] | None = None) -> int:
    """Remove images from an index by path, by folder, or by filter; return how many.

    Files are not touched. An image that is still in its folder is added again by the next build of that folder.

    Raises:
        InputError: neither paths nor a filter were given, or a path is not in the index.
    """
    if not what and not where:
        raise InputError("nothing to delete", "paths, folders, or --where KEY=VALUE", "say what")
    with store.writing():
        gone = [item.path for item in store.chosen(where)] if where else []
        known = store.states()
        for place in what:
            path = os.path.abspath(place)
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
