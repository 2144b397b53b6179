"""What lies in folders: subfolders by name, and the files below a folder, whatever links lead in circles."""

from collections.abc import Iterator
from pathlib import Path


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, and links to folders, by name; hidden ones are left out."""
    return [one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith(".")]


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder, or link to one: first its own by name, then those of its subfolders.

    Links to folders are followed, each folder once, and none that leads above `folder`. Hidden
    files and folders are left out; so is a folder that may not be listed.
    """
    seen = {(above.stat().st_dev, above.stat().st_ino) for above in folder.absolute().parents}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            entries = sorted(here.iterdir())
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        entries = [one for one in entries if not one.name.startswith(".")]
        yield from (one for one in entries if one.is_file())
        waiting += [one for one in reversed(entries) if one.is_dir()]
