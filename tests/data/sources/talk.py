"""Shared by the tests of conversations in files: photos, and rows in both layouts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.random import counter_rng

Row = dict[str, Any]


def photos(folder: Path, names: Sequence[str]) -> None:
    """Different pictures under these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(counter_rng("photo", name).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name)


def llava(*said: str, **keys: Any) -> Row:
    """A row of LLaVA's: human and gpt by turns."""
    sides = ("human", "gpt")
    return keys | {"conversations": [{"from": sides[n % 2], "value": text} for n, text in enumerate(said)]}


def messages(*said: Any, **keys: Any) -> Row:
    """A row of messages: user and assistant by turns."""
    sides = ("user", "assistant")
    return keys | {"messages": [{"role": sides[n % 2], "content": text} for n, text in enumerate(said)]}


def write_list(file: Path, rows: Sequence[Any]) -> None:
    """A JSON list."""
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def write_lines(file: Path, rows: Sequence[Any]) -> None:
    """JSON lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
