"""A run folder is complete exactly when its manifest says so: written last, with the hash of every file.

The same rule serves the trained model (`RUN/`) and each checkpoint (`RUN/checkpoints/step-00000100/`).
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.files import read_json, sha256_bytes, sha256_file, sweep_partial, write_bytes, write_json

FORMAT = 2
"""Version of the folder layout that is written. Since 2, heads stand as `heads.TASK.`, and configs have own keys."""
READABLE = {"run": (1, 2), "checkpoint": (2,)}
"""Versions that are read, by kind of folder; others are refused, never guessed at."""
MANIFEST = "MANIFEST.json"
PLAN = "plan.json"
"""The whole config that a run was begun with; `config.json` is that of a stage, once it has a checkpoint."""


def write_folder(folder: Path, kind: str, files: Mapping[str, bytes], keep: Iterable[str] = ()) -> None:
    """Write files, then the manifest. Until the manifest stands, readers see the old folder or none.

    Args:
        folder: created if absent; what an earlier, killed writer left is swept.
        kind: "run" or "checkpoint", checked when read.
        files: name -> content.
        keep: names already in the folder that the manifest also vouches for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep_partial(folder)
    entries = {name: {"sha256": sha256_bytes(content), "bytes": len(content)} for name, content in files.items()}
    for name in keep:
        entries[name] = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
    # A manifest that no longer fits its files must not stand while they change.
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": kind, "files": entries})


def verify_folder(folder: Path, kind: str) -> None:
    """Check that every file the manifest names is there, whole and unchanged.

    Raises:
        InputError: no such folder, no manifest, another format version, another kind, or a damaged file, by name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", f"a {kind} folder made by chiasm", "check the path")
    if not (folder / MANIFEST).exists():
        raise InputError(
            f"{folder} has no {MANIFEST}",
            f"a complete {kind} folder; the manifest is written last",
            "finish the run with `chiasm train --resume --out FOLDER`, or give another folder",
        )
    manifest = read_json(folder / MANIFEST, "the folder's manifest")
    readable = READABLE[kind]
    if not isinstance(manifest, dict) or manifest.get("format") not in readable:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise InputError(
            f"{folder} has format version {found!r}",
            "format version " + " or ".join(map(str, readable)),
            "use the version of chiasm that wrote it, or train again",
        )
    if manifest.get("kind") != kind or not isinstance(manifest.get("files"), dict):
        raise InputError(f"{folder} is a {manifest.get('kind')} folder", f"a {kind} folder", "give the other folder")
    for name, entry in manifest["files"].items():
        _verify_file(folder, str(name), entry)


def _verify_file(folder: Path, name: str, entry: Mapping[str, object]) -> None:
    path = folder / name
    if Path(name).name != name or not isinstance(entry, dict):
        raise InputError(
            f"{folder / MANIFEST} names {name!r}", "plain file names with their hashes", "restore the folder"
        )
    if not path.is_file():
        problem = "is missing"
    elif path.stat().st_size != entry.get("bytes"):
        problem = f"has {path.stat().st_size} bytes, {entry.get('bytes')} were written"
    elif sha256_file(path) != entry.get("sha256"):
        problem = "does not have the content that was written"
    else:
        return
    raise InputError(
        f"{folder} is damaged: {name} {problem}",
        "the files as they were written",
        "restore it from a copy, or train again",
    )


def step_folder(checkpoints: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` optimiser steps."""
    return checkpoints / f"step-{step:08d}"


def newest_checkpoint(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, and a sentence for each newer one that is torn or damaged."""
    problems = []
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            verify_folder(folder, "checkpoint")
        except InputError as error:
            problems.append(error.given)
            continue
        return folder, problems
    return None, problems


def prune_checkpoints(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints, and torn ones older than the newest complete one."""
    complete = [folder for folder in sorted(checkpoints.glob("step-*"), reverse=True) if (folder / MANIFEST).exists()]
    kept = set(complete[:keep])
    for folder in checkpoints.glob("step-*"):
        if kept and folder not in kept and folder < max(kept):
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
