"""Find the files that rows name, in folders that are listed once each."""

import os
import re
import unicodedata
from pathlib import Path

from chiasm.data.image import SUFFIXES
from chiasm.data.sources.parsing import BadRowError
from chiasm.data.sources.records import canonical_split, split_of_folder

_WEB = re.compile(r"(?:https?|ftp|s3|gs)://", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|(?:file|pipe|data):|[A-Za-z]:[\\/]")


class ImageFinder:
    """Looks images up in folders that are listed once each, instead of asking the disk for every row.

    Symbolic links are followed; a name that leads out of all the folders by itself ("..", an absolute path, an
    address) is refused. Where a folder is named after the record's split, those of other splits are not looked into:
    `1.jpg` of "val" is never the one in `train/`. A file whose name differs in case, in Unicode form, in the slashes
    of Windows, or by a suffix that the record leaves out, is taken where just one fits.
    """

    def __init__(self, folders: list[Path]) -> None:
        self._roots = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
        self._roots_of: dict[str, list[str]] = {}
        self._listed: dict[str, dict[str, bool]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, split: str = "") -> str:
        """Return the path of the image called `name`.

        Raises:
            BadRowError: "address", "path_escape", "missing_image" or "not_regular".
        """
        if _WEB.match(name):
            raise BadRowError("address", f"{name[:200]!r} is an address, and nothing is downloaded")
        if _ADDRESS.match(name) or "\0" in name:
            raise BadRowError("path_escape", f"{name[:200]!r} is no path inside the data")
        found = self._find(name, split) or ("\\" in name and self._find(name.replace("\\", "/"), split))
        if found:
            return found
        raise BadRowError("missing_image", f"there is no image {name[:200]!r}")

    def _find(self, name: str, split: str) -> str:
        places = [os.path.normpath(os.path.join(root, name)) for root in self._roots_for(split)]
        inside = [one for one in places if any(one.startswith(root.rstrip("/") + "/") for root in self._roots)]
        if not inside:
            raise BadRowError("path_escape", f"{name[:200]!r} leads out of the data")
        parts = [full.rsplit("/", 1) for full in inside]
        for full, (folder, base) in zip(inside, parts, strict=True):
            is_file = self._list(folder).get(base)
            if is_file:
                return full
            if is_file is False:
                raise BadRowError("not_regular", f"{name[:200]!r} is no regular file")
        return next((f"{folder}/{alike}" for folder, base in parts if (alike := self._similar(folder, base))), "")

    def _roots_for(self, split: str) -> list[str]:
        """The folders to look into, those of this very split first."""
        wanted = canonical_split(split)
        if wanted not in self._roots_of:
            named = {root: split_of_folder(os.path.basename(root)) for root in self._roots}
            own = [root for root in self._roots if wanted and named[root] == wanted]
            rest = [root for root in self._roots if root not in own and not (own and named[root])]
            self._roots_of[wanted] = own + rest
        return self._roots_of[wanted]

    def _similar(self, folder: str, base: str) -> str:
        """The one file of a folder whose name differs from `base` in writing alone; "" where none or several do."""
        if folder not in self._alike:
            alike: dict[str, list[str]] = {}
            for name, is_file in self._listed[folder].items():
                stem, suffix = os.path.splitext(name)
                if is_file:
                    alike.setdefault(_plain(name), []).append(name)
                if is_file and suffix.lower() in SUFFIXES:
                    alike.setdefault(_plain(stem), []).append(name)
            self._alike[folder] = alike
        found = self._alike[folder].get(_plain(base), [])
        return found[0] if len(found) == 1 else ""

    def _list(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a regular file (or a link to one); links that lead nowhere are left out."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = {
                        e.name: e.is_file() for e in entries if not e.is_symlink() or os.path.exists(e.path)
                    }
            except (OSError, ValueError):  # a name may hold half of a surrogate pair
                self._listed[folder] = {}
        return self._listed[folder]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
