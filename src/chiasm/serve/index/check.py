"""Consistency checks of an index, each with the way to fix it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chiasm.pipeline.zero_shot_starter import STARTER
from chiasm.serve.index.sqlite import SqliteStore
from chiasm.serve.index.store import Store
from chiasm.serve.photos import file_state

UNIT_TOLERANCE = 1e-3
"""How far a vector's length may be from 1."""
NUMBERS_AT_ONCE = 4096
SHOWN = 5
"""Maximum number of names that a finding lists."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: stable short name, such as "missing_files".
        count: number of items concerned.
        text: what is wrong.
        do: how to fix it.
        harms: True where search results may be wrong until it is fixed.
    """

    code: str
    count: int
    text: str
    do: str
    harms: bool


def check(store: Store) -> list[Finding]:
    """Check the database, the counts, all vectors, all files, the derived file and the model's folder."""
    again = f"restore {store.where} from a copy, or delete it and build it again"
    found = [Finding("database", 1, damage, again, True) for damage in store.damage()[:SHOWN]]
    if found:
        return found
    with store.transaction():
        found += _counts(store, again) + _vectors(store, again)
        found += _files(store)
    if isinstance(store, SqliteStore) and store.approximate is not None and not found:
        problem = store.approximate.problem(store.matrix())
        if problem:
            text = f"the derived file of approximate search {problem}"
            found.append(Finding("approximate", 1, text, "nothing: the next approximate search makes it anew", False))
    run = store.header().run
    if run not in ("", STARTER) and not Path(run).is_dir():
        text = f"the run it was built with is not in {run} any more"
        found.append(Finding("model", 1, text, "give --model RUN to searches", False))
    return found


def _counts(store: Store, again: str) -> list[Finding]:
    lone = store.rows(
        "SELECT count(*) FROM items i WHERE NOT EXISTS (SELECT 1 FROM vectors v WHERE v.number = i.number)"
    )
    spare = store.rows(
        "SELECT count(*) FROM vectors v WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.number = v.number)"
    )
    both = (
        ("items_without_vector", int(lone[0][0]), "images without a vector"),
        ("vectors_without_item", int(spare[0][0]), "vectors without an image"),
    )
    return [Finding(code, count, f"{count} {what}", again, True) for code, count, what in both if count]


def _vectors(store: Store, again: str) -> list[Finding]:
    wrong, last = list[int](), 0
    while numbers := _numbers_after(store, last):
        last = numbers[-1]
        for number, vector in store.vectors(numbers).items():
            is_unit = vector.shape == (store.dim,) and abs(float(np.linalg.norm(vector)) - 1) <= UNIT_TOLERANCE
            wrong += [] if is_unit else [number]
    if not wrong:
        return []
    shown = ", ".join(map(str, wrong[:SHOWN]))
    return [Finding("vectors", len(wrong), f"{len(wrong)} vectors are not of length 1: items {shown}", again, True)]


def _numbers_after(store: Store, last: int) -> list[int]:
    sql = "SELECT number FROM vectors WHERE number > ? ORDER BY number LIMIT ?"
    return [int(number) for (number,) in store.rows(sql, (last, NUMBERS_AT_ONCE))]


def _files(store: Store) -> list[Finding]:
    missing, changed = list[str](), list[str]()
    for path, (state, content) in store.states().items():
        now = file_state(path)
        if content and not now:
            missing.append(path)
        elif content and state and now != state:
            changed.append(path)
    found = []
    for code, paths, text in (
        ("missing_files", missing, "files of images are not there any more"),
        ("changed_files", changed, "files were changed since they were indexed"),
    ):
        if paths:
            do = "build the index again from its folder, or take them out: chiasm index delete INDEX PATH"
            found.append(
                Finding(code, len(paths), f"{len(paths)} {text}: {', '.join(sorted(paths)[:SHOWN])}", do, True)
            )
    refused = store.refused()
    if refused:
        shown = ", ".join(f"{file.path} ({file.code})" for file in refused[:SHOWN])
        text = f"{len(refused)} files could not be used: {shown}"
        found.append(Finding("rejected", len(refused), text, "repair or remove them, then build again", False))
    return found
