"""What a search shows: short paths, a remark where nothing fits, a cut that can be undone, and a contact sheet."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from command import Shell, assert_refused
from PIL import Image

from chiasm.cli.found import LEAST_SHOWN, Found
from chiasm.report.contact_sheet import Thumbnail, contact_page, contact_png
from chiasm.serve.index import Hit, Index
from chiasm.serve.index.strength import Strength

HITS = [Hit(str(n), f"/photos/a/{n}.png", 0.9 - 0.1 * n) for n in range(5)]


def found(unrelated: float, fits: tuple[bool, ...], shows_all: bool = False) -> Found:
    return Found(HITS, Strength(unrelated, fits, 200), shows_all, Path("/photos"), 99)


def test_what_is_shown_and_what_is_said() -> None:
    """Guards against a cut without a word about it, a weak result told as a good one, and a cut that hides all."""
    good = found(0.1, (True, True, False, True, False))
    assert [hit.id for hit, _ in good.shown()] == ["0", "1", "3"]
    assert good.remark() == "" and good.rest().startswith("2 more of the nearest 5")
    weak = found(0.6, (True, False, False, False, False))
    assert [fit for _, fit in weak.shown()] == [False] * LEAST_SHOWN
    assert weak.remark().startswith("weak match: 60 % of 200") and weak.rest().startswith("2 more")
    every = found(0.6, (True, False, False, False, False), shows_all=True)
    assert len(every.shown()) == 5 and every.rest() == ""
    unknown = Found(HITS, None, False, None, 99)
    assert len(unknown.shown()) == 5 and unknown.remark() == unknown.rest() == ""
    assert unknown.short("/photos/a/1.png") == "1.png" and good.short("/photos/a/1.png") == "a/1.png"
    assert good.short("/elsewhere/1.png") == "/elsewhere/1.png"
    assert [row["fits"] for row in good.as_rows()] == [True, True, False, True, False]
    assert "fits" not in unknown.as_rows()[0] and "score" not in unknown.as_rows()[0]


def test_search_prints_short_paths_and_writes_a_sheet(
    chiasm: Shell, tiny_run: Path, own_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a column of absolute paths, a remark that reaches neither terminal, page nor JSON."""
    judged = Strength(0.6, (False, True, False, False), 200)
    monkeypatch.setattr(Index, "strength", lambda self, text, hits, where: judged)
    page, sheet, numbers = tmp_path / "new" / "a.html", tmp_path / "a.png", tmp_path / "a.json"
    words = ("search", tiny_run, own_files, "a red circle", "-n", "4")
    said = chiasm(*words, "--page", page, "--json", numbers)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert len(lines) == 3 and all(line.split()[1].startswith("scene") and line.endswith("(weak)") for line in lines)
    assert "weak match: 60 %" in said.err and "--all shows them" in said.err and str(own_files) in said.err
    told = json.loads(numbers.read_text(encoding="utf-8"))
    assert told["weak"] is True and [row["fits"] for row in told["results"]] == [False, True, False, False]
    assert all(Path(row["path"]).is_absolute() for row in told["results"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 3 and "Weak match: 60 %" in text and "a red circle" in text and "<script" not in text
    names = [Path(row["path"]).name for row in told["results"]]
    assert text.index(names[0]) < text.index(names[1]) < text.index(names[2]) and names[3] not in text
    every = chiasm(*words, "--all", "--page", sheet)
    assert len(every.out.splitlines()) == 4 and "--all" not in every.err
    with Image.open(sheet) as shown:
        assert shown.format == "PNG" and shown.width > 4 * 220
    assert_refused(chiasm(*words, "--page", tmp_path / "a.gif"), "a.gif", ".html")


def test_a_sheet_survives_what_files_and_people_bring() -> None:
    """Guards against tags in a path that become markup, a file that is gone, and letters that the font lacks."""
    pixels = np.full((40, 80, 3), (200, 10, 10), dtype=np.uint8)
    hostile = "<img src=http://evil.example/x>/雪.png"
    sheet = [Thumbnail(pixels, "+0.900", hostile), Thumbnail(None, "+0.100", "gone.png", False)]
    page = contact_page("<script>", "", sheet, "2 pictures.")
    assert page.count("<img") == 1 and "<script" not in page and "&lt;img src=http" in page and "gone.png" in page
    drawn = Image.open(io.BytesIO(contact_png(sheet)))
    colours = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert (colours == (200, 10, 10)).all(axis=1).sum() == 40 * 80
    assert Image.open(io.BytesIO(contact_png([]))).size[0] > 0
