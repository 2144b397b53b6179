"""`chiasm.compress` hands on what it was given."""

from pathlib import Path
from typing import Any

import pytest

import chiasm
from chiasm.api import compressing


@pytest.mark.parametrize(("to", "names"), [("int8", ("int8",)), (["bf16", "int8"], ("bf16", "int8"))])
def test_one_variant_or_several(to: Any, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a word that is taken for a list of letters, and against data that are left out."""
    given: dict[str, Any] = {}

    def keep(source: Path, to: Any, out: Path, device: Any, console: Any, **rest: Any) -> str:
        given.update(source=source, to=to, out=out, quiet=console.quiet, **rest)
        return "done"

    monkeypatch.setattr(compressing, "make_smaller", keep)
    assert chiasm.compress("~/run", "small", to, "DATA", "test", max_loss=2, progress=False) == "done"
    assert given == {
        "source": Path("~/run").expanduser(),
        "to": names,
        "out": Path("small"),
        "quiet": True,
        "data": "DATA",
        "split": "test",
        "max_loss": 2,
    }
