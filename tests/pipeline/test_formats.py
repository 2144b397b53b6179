"""A run folder that an earlier version wrote opens, answers and measures as it did when it was stored.

tests/pipeline/format_1 was written by the version before tasks had configs of their own: retrieval, answering,
captioning, matching and masked words, trained 30 steps on generated scenes. It is never written anew.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import chiasm
from chiasm.core.config import to_dict
from chiasm.core.run_folder import MANIFEST

FOLDER = Path(__file__).resolve().parent / "format_1"
KEPT = {
    "retrieval": {"weight": 0.5, "hard_negatives": 0.5},
    "vqa": {"abstain_risk": 0.3},
    "captioning": {"label_smoothing": 0.1},
    "matching": {"negatives": "random"},
    "masked_language_modelling": {"mask_share": 0.3},
}
"""Keys that the folder's run had set, each by the task that it means something for."""


def stored(name: str) -> Any:
    """A JSON file of the folder."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> chiasm.Model:
    """The folder's model."""
    assert stored(MANIFEST)["format"] == 1
    return chiasm.load(FOLDER)


def test_answers_are_the_stored_ones(model: chiasm.Model) -> None:
    """Guards against weights that reach another place, and a tokenizer, image or calibration that is read otherwise."""
    example, image = stored("example.json"), FOLDER / "example.png"
    words = example["words"]
    answer, caption = model.ask(image, words["question"]), model.caption(image)
    match = model.match(image, words["text"])
    assert answer.answer == example["answer"] and caption.answer == example["caption"]
    assert answer.confidence == pytest.approx(example["answer_confidence"], abs=1e-5)
    assert caption.evidence["word_probability"] == pytest.approx(example["caption_confidence"], abs=1e-5)
    assert match.similarity == pytest.approx(example["similarity"], abs=1e-5)
    assert match.probability == pytest.approx(example["match"], abs=1e-5)
    assert answer.domain is not None
    assert answer.domain.image_distance == pytest.approx(example["image_distance"], abs=1e-4)


def test_measured_scores_are_the_stored_ones(model: chiasm.Model) -> None:
    """Guards against examples, views, scores or intervals that differ from those of the version that wrote them."""
    results = stored("results.json")
    found = chiasm.evaluate(model, split=results["split"], progress=False).as_dict()
    for section in ("metrics", "blind", "no_picture", "no_text"):
        assert found[section].keys() == results[section].keys()
        for name, score in results[section].items():
            assert found[section][name] == pytest.approx(score, abs=1e-6), (section, name)
    assert found["baseline"] == pytest.approx(results["baseline"], abs=1e-6)
    assert found["geometry"] == pytest.approx(results["geometry"], abs=1e-5)


def test_keys_that_were_set_are_kept(model: chiasm.Model) -> None:
    """Guards against a map of old keys that loses what the run had set, or opens it by defaults."""
    written, config = stored("config.json"), to_dict(model.pipeline.config)
    assert list(config["tasks"]) == list(KEPT) == list(written["tasks"])
    for task, keys in KEPT.items():
        assert {key: config["tasks"][task][key] for key in keys} == keys
        assert {key: written["tasks"][task][key] for key in keys} == keys
    assert config["data"]["languages"] == ["en", "zh"] and config["model"]["dim"] == written["model"]["dim"]


@pytest.mark.parametrize(
    ("section", "key"), [("tasks.vqa", "nothing_of_the_kind"), ("data", "nothing_of_the_kind"), ("", "nothing")]
)
def test_a_key_that_never_was_is_refused(section: str, key: str, tmp_path: Path) -> None:
    """Guards against a map that swallows what it does not know."""
    shutil.copytree(FOLDER, tmp_path / "run")
    config = stored("config.json")
    place = config
    for name in section.split(".") if section else ():
        place = place[name]
    place[key] = 1
    content = json.dumps(config).encode()
    (tmp_path / "run" / "config.json").write_bytes(content)
    _sign(tmp_path / "run", "config.json", content)
    with pytest.raises(chiasm.InputError, match=key):
        chiasm.load(tmp_path / "run")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """Guards against a folder of a later version that is opened as if it were of this one."""
    shutil.copytree(FOLDER, tmp_path / "run")
    manifest = stored(MANIFEST) | {"format": 99}
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(chiasm.InputError, match="99"):
        chiasm.load(tmp_path / "run")


def _sign(folder: Path, name: str, content: bytes) -> None:
    """Let the manifest say that a changed file is whole."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
