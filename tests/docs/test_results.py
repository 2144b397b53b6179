"""Every row of the README's table is a stored result of a clean commit."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\d\.\d{3}")


NEAR = 0.00051
"""Rounding to three places, of numbers that may lie in the middle."""


def stored() -> list[tuple[str, dict[str, Any], str]]:
    """(Metric or kind, its {"value", "low", "high", "n"}, commit) of every score in benchmarks/results."""
    files = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))
    return [score for file in files for score in scores(json.loads(file.read_text(encoding="utf-8")), "", "")]


def scores(node: Any, name: str, commit: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every {"value", "low", "high", "n"} below a node, with its key and the commit of the nearest environment."""
    if isinstance(node, list):
        for value in node:
            yield from scores(value, name, commit)
    if not isinstance(node, dict):
        return
    environment = node.get("environment")
    if isinstance(environment, dict):
        commit = str(environment.get("commit", commit))
    if {"value", "low", "high", "n"} <= node.keys():
        yield name, node, commit
    for key, value in node.items():
        yield from scores(value, key, commit)


def rows() -> list[list[str]]:
    """Cells of the README's rows of scores."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == 6 and ROW.fullmatch(row[2])]


def test_there_are_rows() -> None:
    """Guards against a pattern that no longer finds the table."""
    assert len(rows()) >= 10


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[1]} {row[2]}")
def test_a_row_is_stored_by_a_clean_commit(row: list[str]) -> None:
    """Guards against a score that nobody can find again, or that uncommitted code printed."""
    ends = (float(row[2]), *(float(end) for end in row[3].split("-")))
    names, count = re.split(r"[ ,]+", row[1].casefold()), int(row[4].replace(",", ""))
    commits = {
        commit
        for name, score, commit in stored()
        if name.casefold() in names
        and score["n"] == count
        and all(abs(score[key] - end) < NEAR for key, end in zip(("value", "low", "high"), ends, strict=True))
    }
    assert any(commit and not commit.endswith("-dirty") for commit in commits), (row[1], commits)
