"""Every verb does what its help says, on a small run and on a user's own files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from command import Shell
from rich.console import Console

from chiasm.api import opening
from chiasm.cli import verbs
from chiasm.core.config import override
from chiasm.core.run_folder import verify_folder
from chiasm.recipes.table import RECIPES, find_recipe
from chiasm.serve import engine
from chiasm.tasks.calibration import Calibration
from chiasm.train.run import run

QUESTION = "how many circles are there?"
METRICS = {f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
METRICS |= {"vqa_accuracy", "caption_truth", "CIDEr", "ROUGE_L"} | {f"Bleu_{n}" for n in range(1, 5)}
UNREAD = {"vqa_accuracy", *(name for name in METRICS if "_R@" in name)}
"""Metrics that need a text as input, which can be taken away."""
VERBS = verbs()


def written(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_measured(found: dict[str, Any], metrics: set[str]) -> None:
    """The published shape of measured numbers, each within its interval."""
    assert {"run", "data", "split", "metrics", "blind", "baseline", "by_kind", "environment"} <= set(found)
    of_confidences = {name for name in found["metrics"] if name.endswith("_ECE") or name.startswith("pick_1_of_")}
    assert set(found["metrics"]) - of_confidences == metrics and "vqa_accuracy_ECE" in of_confidences
    assert set(found["blind"]) == set(found["no_picture"]) == metrics
    assert set(found["no_text"]) == metrics & UNREAD
    assert {"alignment", "modality_gap"} <= set(found["geometry"])
    for part in ("metrics", "blind", "no_picture", "no_text"):
        for name, score in found[part].items():
            assert set(score) == {"value", "low", "high", "n"}
            # Rounding may leave the end of an interval a hair short of a score of 0 or 1.
            assert -1e-9 <= score["low"] <= score["value"] + 1e-9 and score["n"] > 0
            assert score["value"] - 1e-9 <= score["high"]
            assert score["high"] <= 1 + 1e-9 or name == "CIDEr"
    assert found["environment"]["torch"] and found["environment"]["cores"] >= 1


def test_demo(chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a demo that ends without numbers, report or a next step."""
    out, numbers = tmp_path / "run", tmp_path / "new" / "numbers.json"
    said = chiasm("demo", "--tiny", "--out", out, "--json", numbers)
    assert said.code == 0, said.err
    assert "vqa_accuracy" in said.out and f"chiasm ask {out}" in said.out
    for words in ("shuffled", "image", "text", "lower is better", "geometry: alignment"):
        assert words in said.out, words
    assert "training: 6/6" in said.err and "report.html" in said.err
    verify_folder(out, "run")
    assert_measured(written(numbers), METRICS)
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    again = chiasm("demo", "--tiny", "--out", out)
    assert again.code == 2 and "already holds a run" in again.err
    assert chiasm("demo", "--tiny", "--out", out, "--resume").code == 0
    plan = (out / "plan.json").read_bytes()
    assert chiasm("train", "--out", out, "--resume").code == 0 and (out / "plan.json").read_bytes() == plan
    other = chiasm("train", "--out", out, "--resume", "--set", "train.steps=7")
    assert other.code == 2 and "train.steps is 7, but the run" in other.err


def test_train_without_a_recipe_needs_a_run_to_go_on_with(chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a run begun by mistake, and a word that is not listened to."""
    for words in ((), ("--resume",), ("--out", tmp_path / "a"), ("--resume", "--tiny", "--out", tmp_path / "a")):
        said = chiasm("train", *words)
        assert said.code == 2 and "no recipe" in said.err and "chiasm recipes" in said.err
    said = chiasm("train", "--resume", "--out", tmp_path / "nothing")
    assert said.code == 2 and "holds no run that could go on" in said.err
    assert not list(tmp_path.iterdir())


def test_recipes(chiasm: Shell) -> None:
    """Guards against a recipe that cannot be found."""
    said = chiasm("recipes")
    assert said.code == 0
    lines = said.out.splitlines()
    for name in RECIPES:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert len(line.split()) > 4


def test_show(chiasm: Shell, tmp_path: Path) -> None:
    """Guards against keys that cannot be typed back, and an estimate made of nothing."""
    changes = ["--set", "train.batch_size=8", "--set", "train.steps=7", "--set", "model.image.channels=8,16"]
    said = chiasm("show", "demo", "--tiny", *changes, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert {"train.batch_size = 8", "train.steps = 7", "model.image.channels = 8,16"} <= set(said.out.splitlines())
    assert "parameters:" in said.out and "minutes here, by a little of each part" in said.out
    found = written(tmp_path / "a.json")
    assert found["config"]["model"]["image"]["channels"] == [8, 16]
    assert found["estimate"]["steps"] == 7 and found["estimate"]["step_s"] > 0
    assert 0 < found["estimate"]["trained_parameters"] <= found["estimate"]["parameters"]
    keys = [line.partition(" = ")[::2] for line in said.out.splitlines() if " = " in line]
    typed = [part for key, value in keys if key != "recipe" for part in ("--set", f"{key}={value}")]
    same = chiasm("show", "demo", "--tiny", *typed, "--json", tmp_path / "b.json")
    assert same.code == 0, same.err
    assert written(tmp_path / "b.json")["config"] == found["config"]
    unset = chiasm("show", "flickr8k_retrieval")
    assert unset.code == 0 and "With --data PATH" in unset.out


def test_train_on_own_files(chiasm: Shell, own_files: Path, tmp_path: Path) -> None:
    """Guards against a run that ends at one broken picture, or goes on without telling which it left out."""
    out = tmp_path / "run"
    words = ["--set", "data.source=files", "--set", f"data.path={own_files}", "--set", "data.max_rejected=0.05"]
    words += ["--set", "test_split=val", "--set", "train.steps=4", "--set", "data.languages=en"]
    said = chiasm("train", "demo", "--tiny", *words, "--out", out, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert "32 offered = 31 used + 1 rejected (truncated 1)" in said.err
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert lines[-1] == {
        "kind": "summary", "offered": 32, "used": 31, "rejected": 1, "codes": {"truncated": 1},
        "notes": {"empty_caption": 1},
    }  # fmt: skip
    (rejected,) = [line for line in lines if line["kind"] == "rejected"]
    assert rejected["file"] == str(own_files / "table.csv") and rejected["row"] == 5
    assert rejected["code"] == "truncated" and "scene03.png" in rejected["text"]
    numbers = written(tmp_path / "a.json")
    assert_measured(numbers, METRICS - {"caption_truth"} | {"caption_near"})
    assert numbers["split"] == "val" and numbers["metrics"]["vqa_accuracy"]["n"] == 8
    measured = chiasm("evaluate", out, "--data", own_files, "--split", "val", "--json", tmp_path / "b.json")
    assert measured.code == 0, measured.err
    again = written(tmp_path / "b.json")
    assert again["metrics"] == numbers["metrics"] and again["blind"] == numbers["blind"]


def test_evaluate(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against numbers of another split, another count, or another shape than is published."""
    said = chiasm("evaluate", tiny_run, "--split", "test", "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    found = written(tmp_path / "a.json")
    assert_measured(found, METRICS)
    stored = written(tiny_run / "results.json")
    assert found["metrics"] == stored["metrics"] and found["blind"] == stored["blind"]
    assert found["run"] == str(tiny_run) and found["split"] == "test"
    other = chiasm("evaluate", tiny_run, "--set", "data.eval_pictures=10", "--json", tmp_path / "b.json")
    assert other.code == 0, other.err
    assert written(tmp_path / "b.json")["metrics"]["image_to_text_R@1"]["n"] == 10
    assert written(tmp_path / "b.json")["split"] == "val"
    assert "against" not in found


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of other weights and another seed, whose own split is therefore another one."""
    folder = tmp_path_factory.mktemp("other") / "run"
    config = override(find_recipe("demo", tiny=True), ["seed=5", "train.steps=3"])
    run(config, folder, False, Console(file=io.StringIO()))
    return folder


def test_evaluate_against(chiasm: Shell, tiny_run: Path, other_run: Path, tmp_path: Path) -> None:
    """Guards against a difference of the wrong sign, and against two runs each measured on data of its own."""
    words = ["--split", "test", "--set", "data.eval_pictures=24"]
    said = chiasm("evaluate", tiny_run, *words, "--against", other_run, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert f"{tiny_run} less {other_run}" in said.out
    first = written(tmp_path / "a.json")
    assert first["against"]["run"] == str(other_run)
    differences = first["against"]["differences"]
    assert {"vqa_accuracy", "text_to_image_R@1", "Bleu_4", "CIDEr"} <= set(differences)
    other = chiasm("evaluate", other_run, *words, "--set", "seed=0", "--json", tmp_path / "b.json")
    assert other.code == 0, other.err
    second = written(tmp_path / "b.json")["metrics"]
    for name, one in differences.items():
        assert set(one) == {"difference", "low", "high", "p_value", "n"}
        assert one["difference"] == pytest.approx(first["metrics"][name]["value"] - second[name]["value"], abs=1e-9)
        assert one["low"] - 1e-9 <= one["difference"] <= one["high"] + 1e-9 and 0 < one["p_value"] <= 1
        assert one["n"] == first["metrics"][name]["n"]
    assert any(abs(one["difference"]) > 0.01 for one in differences.values())


def test_ask(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a printed answer that is not the model's first one."""
    said = chiasm("ask", tiny_run, tiny_run / "example.png", QUESTION, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    found = written(tmp_path / "a.json")
    beside = {"abstains", "domain", "abstain_reasons"}
    assert set(found) == {"answer", "confidence", "answers", *beside} and len(found["answers"]) == 3
    assert found["abstains"] is False and "not sure" not in said.out
    assert found["answers"][0] == {"answer": found["answer"], "probability": found["confidence"]}
    first = said.out.splitlines()[0].split()
    assert first == [f"{found['confidence']:.1%}", *found["answer"].split()]


def test_ask_what_is_not_known(chiasm: Shell, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a guess that is printed like an answer, where the model was told when to be silent."""
    loaded = engine.load(tiny_run)
    loaded.pipeline.codec.calibration["vqa"] = Calibration(abstain_below=1.0)
    monkeypatch.setattr(opening, "open_model", lambda *given: loaded)
    said = chiasm("ask", tiny_run, tiny_run / "example.png", QUESTION, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert said.out.startswith("not sure: ") and len(said.out.splitlines()) == 4
    assert written(tmp_path / "a.json")["abstains"] is True


def test_caption_with_other_decoding(chiasm: Shell, tiny_run: Path) -> None:
    """Guards against `--set decoding.` that is read and then forgotten: a bound on the words must bound them."""
    picture = tiny_run / "example.png"
    free = chiasm("caption", tiny_run, picture)
    bound = chiasm("caption", tiny_run, picture, "--set", "decoding.method=beam", "--set", "decoding.max_words=1")
    assert free.code == bound.code == 0, bound.err
    assert len(bound.out.split()) <= 2 and len(bound.out) < len(free.out)


def test_evaluate_with_other_decoding(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against an evaluation that writes captions as the run did, whatever was set."""
    for name, words in (("a", []), ("b", ["--set", "decoding.max_words=1"])):
        file = tmp_path / f"{name}.json"
        said = chiasm("evaluate", tiny_run, "--set", "data.eval_pictures=8", *words, "--json", file)
        assert said.code == 0, said.err
    free, bound = (written(tmp_path / f"{name}.json")["metrics"] for name in "ab")
    assert free["vqa_accuracy"] == bound["vqa_accuracy"] and free["ROUGE_L"] != bound["ROUGE_L"]


def test_caption(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a language option that changes nothing."""
    picture = tiny_run / "example.png"
    said = {}
    for language in ("en", "zh"):
        one = chiasm("caption", tiny_run, picture, "--language", language, "--json", tmp_path / "a.json")
        assert one.code == 0, one.err
        (row,) = written(tmp_path / "a.json")
        assert row["image"] == str(picture) and 0 <= row["confidence"] <= 1 and row["caption"] in one.out
        said[language] = row["confidence"]
    assert said["en"] != said["zh"]
    two = chiasm("caption", tiny_run, picture, picture)
    assert two.code == 0 and two.out.count(str(picture)) == 2


def test_match(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against the worst match first."""
    texts = ["a red circle", "two blue squares", "一个红色的圆"]
    said = chiasm("match", tiny_run, tiny_run / "example.png", *texts, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    found = written(tmp_path / "a.json")
    values = [row["similarity"] for row in found]
    assert values == sorted(values, reverse=True) and all(-1 <= value <= 1 for value in values)
    assert {row["text"] for row in found} == set(texts)
    assert [line.split(maxsplit=1)[1] for line in said.out.splitlines()] == [row["text"] for row in found]


def test_embed(chiasm: Shell, tiny_run: Path, own_files: Path, tmp_path: Path) -> None:
    """Guards against vectors whose pictures nobody can tell, and silence about what was left out."""
    out = tmp_path / "v.safetensors"
    said = chiasm("embed", tiny_run, own_files, "--out", out, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    assert "1 rejected" in said.err and "scene03.png" in said.err
    with safetensors.safe_open(out, framework="np") as file:
        vectors, paths = file.get_tensor("vectors"), json.loads(file.metadata()["paths"])
    assert vectors.dtype == np.float32 and vectors.shape == (39, 256) and len(paths) == 39
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert written(tmp_path / "a.json") == {"count": 39, "dim": 256, "file": str(out)}


def test_search(chiasm: Shell, tiny_run: Path, own_files: Path, tmp_path: Path) -> None:
    """Guards against another order than by similarity, and a count that is not kept."""
    picture = own_files / "scene07.png"
    by_picture = chiasm("search", tiny_run, own_files, picture, "-n", "3", "--json", tmp_path / "a.json")
    assert by_picture.code == 0, by_picture.err
    found = written(tmp_path / "a.json")
    assert found["searched"] == 39 and len(found["results"]) == 3 and found["query"] == str(picture)
    assert found["results"][0]["path"] == str(picture)
    names = [Path(row["path"]).name for row in found["results"]]
    assert [line.split()[1] for line in by_picture.out.splitlines()] == names
    by_words = chiasm("search", tiny_run, own_files, "a red circle", "--json", tmp_path / "b.json")
    assert by_words.code == 0 and len(written(tmp_path / "b.json")["results"]) == 10
    assert len(by_words.out.splitlines()) == 10


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_has_an_example(verb: str, chiasm: Shell) -> None:
    """Guards against help that leaves the reader to guess, and examples of another verb."""
    said = chiasm(*verb.split(), "--help")
    assert said.code == 0 and f"Example: chiasm {verb}" in said.out
    for parameter in VERBS[verb].params:
        assert parameter.name == "help" or parameter.help, f"{verb} {parameter.name}"


def test_show_of_a_run_tells_how_it_computes(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a run that is read as a folder of photos, and a plan that nobody can see."""
    said = chiasm("show", tiny_run, "--json", tmp_path / "run.json")
    assert "model.execution = auto" in said.out and "execution of image: fp32, fewer than 4 million" in said.out
    assert json.loads((tmp_path / "run.json").read_text())["execution"]["image"]["format"] == "fp32"
    asked = chiasm("show", tiny_run, "--set", "model.execution=fp32").out
    assert "execution of text: fp32, set by model.execution" in asked
    assert chiasm("show", tiny_run, "--set", "model.execution=fp8").code == 2


def test_no_words_show_the_help(chiasm: Shell) -> None:
    """Guards against a person who types `chiasm` and is left alone."""
    said = chiasm("--help")
    assert said.code == 0 and all(f" {verb.split()[0]} " in said.out for verb in VERBS)
    bare = chiasm()
    assert all(f" {verb.split()[0]} " in bare.out + bare.err for verb in VERBS)
