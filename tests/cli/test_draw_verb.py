"""`chiasm draw`: a sheet, seeds, remarks, and wrong words."""

import json
from pathlib import Path

import pytest
from command import Shell, assert_refused
from PIL import Image

from drawing_pipeline import REAL, build, scene_examples

CAPTION = "a large red circle top left"


@pytest.fixture(scope="module")
def drawing_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that draws, untrained."""
    folder = tmp_path_factory.mktemp("runs") / "drawing"
    build(REAL).save(folder, scene_examples("test")[0], {})
    return folder


def test_one_image_is_written_as_it_was_drawn(drawing_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a sheet around a single image, and a seed that is not printed."""
    out = tmp_path / "one.png"
    said = chiasm("draw", drawing_run, CAPTION, "--out", out, "--seed", 7)
    assert said.code == 0, said.err
    assert "seed 7" in said.out and str(out) in said.out
    with Image.open(out) as first:
        assert first.size == (24, 24) and first.mode == "RGB"
    chiasm("draw", drawing_run, CAPTION, "--out", tmp_path / "again.png", "--seed", 7)
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()


def test_several_images_are_a_sheet(drawing_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against images of a few pixels on a large sheet, and rows of --json that miss one."""
    out, result = tmp_path / "sheet.png", tmp_path / "a.json"
    words = [
        CAPTION,
        "左上有大的红色圆形",
        "-n",
        3,
        "--guidance",
        2,
        "--top-k",
        50,
        "--temperature",
        0.9,
        "--top-p",
        0.95,
    ]
    said = chiasm("draw", drawing_run, *words, "--out", out, "--json", result)
    assert said.code == 0, said.err
    with Image.open(out) as sheet:
        width, height = sheet.size
    assert height > 400 and width > 1000
    rows = json.loads(result.read_text())["images"]
    assert [(row["caption"], row["seed"]) for row in rows] == [(text, seed) for text in words[:2] for seed in (0, 1, 2)]
    assert all(len(row["codes"]) == 9 and row["grid"] == [3, 3] for row in rows)


def test_an_image_is_completed_and_changed(drawing_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against options that never reach the model."""
    start, mask = drawing_run / "example.png", tmp_path / "mask.png"
    Image.new("L", (24, 24), 255).save(mask)
    kept = tmp_path / "a.json"
    for more, drawn in ((["--keep-rows", 2], 3), ([], 6), (["--mask", mask], 9)):
        said = chiasm(
            "draw", drawing_run, CAPTION, "--start", start, *more, "--out", tmp_path / "o.png", "--json", kept
        )
        assert said.code == 0, said.err
        assert json.loads(kept.read_text())["images"][0]["drawn_tokens"] == drawn


def test_the_best_are_ranked_by_another_run(drawing_run: Path, tiny_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a ranking that needs more than a run folder."""
    words = ["-n", 2, "--best-of", 5, "--rank-by", tiny_run, "--out", tmp_path / "s.png", "--json", tmp_path / "a.json"]
    said = chiasm("draw", drawing_run, CAPTION, *words)
    assert said.code == 0, said.err
    scores = [row["rank_score"] for row in json.loads((tmp_path / "a.json").read_text())["images"]]
    assert len(scores) == 2 and scores[0] >= scores[1] and said.out.count("  ranked ") == 2


def test_what_is_not_read_is_said(drawing_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against half a caption that is drawn in silence."""
    said = chiasm("draw", drawing_run, "a large red elephant top left", "--out", tmp_path / "o.png")
    assert said.code == 0 and "words not in training: elephant" in said.err
    said = chiasm("draw", drawing_run, "a large red circle top left, " * 12, "--out", tmp_path / "o.png")
    assert said.code == 0 and "of which the model reads the first 62" in said.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((CAPTION, "--out", "o.jpg"), ["ends in .png"]),
        ((CAPTION, "--out", "o.png", "-n", "0"), ["0 images of a caption"]),
        ((CAPTION, "--out", "o.png", "--top-p", "2"), ["top_p is 2"]),
        ((CAPTION, "--out", "o.png", "--keep-rows", "1"), ["no image to keep from"]),
        ((CAPTION, "--out", "o.png", "--start", "RUN/example.png", "--keep-rows", "3"), ["3 rows to keep"]),
        ((CAPTION, "--out", "o.png", "--start", "nothing.png"), ["nothing.png"]),
        ((CAPTION, "--out", "o.png", "--best-of", "4"), ["best_of and rank_by"]),
        ((CAPTION, "--out", "o.png", "--best-of", "4", "--rank-by", "RUN"), ["drawing", "retrieval"]),
        (("elephants dream", "--out", "o.png"), ["of whose words training had none"]),
        ((" ", "--out", "o.png"), ["the caption is ' '"]),
    ],
)
def test_wrong_words_are_refused(
    words: tuple[str, ...], parts: list[str], drawing_run: Path, chiasm: Shell, tmp_path: Path
) -> None:
    """Guards against a traceback, and a file that is left behind."""
    typed = [word.replace("RUN", str(drawing_run)).replace("o.png", str(tmp_path / "o.png")) for word in words]
    assert_refused(chiasm("draw", drawing_run, *typed), *parts)
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_draw_is_refused(tiny_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against an error that does not say how a run comes to draw."""
    said = chiasm("draw", tiny_run, CAPTION, "--out", tmp_path / "o.png")
    assert_refused(said, "chiasm draw", "chiasm train dalle --out runs/dalle")
