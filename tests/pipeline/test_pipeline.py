"""A run folder gives back the model that was saved, or says why it does not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch

from chiasm.core.config import override, to_dict
from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes
from chiasm.core.random import seed_torch
from chiasm.core.run_folder import FORMAT, MANIFEST
from chiasm.core.types import IMAGE, Example
from chiasm.models.encoders import efficientnet_lite, minilm
from chiasm.pipeline import pipeline as pipeline_module
from chiasm.pipeline.codec import make_codec
from chiasm.pipeline.config import pipeline_config
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering
from chiasm.train.config import RunConfig

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, pipeline: Pipeline, examples: list[Example]) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    pipeline.save(run, examples[0], {"notes.txt": b"extra"}, keep=["metrics.jsonl"])
    return run


def vouch(folder: Path) -> None:
    """Make the manifest fit the files again: what follows must be found by the loader itself."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": sha256_bytes(content), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    change(tensors)
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(tensors))


def test_a_loaded_model_gives_the_same_answers(folder: Path, pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against anything that is not saved: weights, vocabularies, preprocessing, evaluation mode."""
    loaded = Pipeline.load(folder, CPU)
    assert loaded.config == pipeline_config(to_dict(pipeline.config), "config.json")
    assert loaded.codec.answers == pipeline.codec.answers
    assert not loaded.model.training
    for example in examples[:6]:
        words = {"text": example.captions[1].text, "question": example.questions[0].text}
        expected = pipeline.answers_of(example.inputs["image"], words)
        assert set(expected) >= {"similarity", "answer", "answer_confidence", "caption", "caption_confidence"}
        assert loaded.answers_of(example.inputs["image"], words) == expected
    assert loaded.image_fingerprint() == pipeline.image_fingerprint()
    assert loaded.text_fingerprint() == pipeline.text_fingerprint()
    assert loaded.embedding_fingerprint() == pipeline.embedding_fingerprint()


def test_a_second_save_writes_the_same_bytes(folder: Path, examples: list[Example]) -> None:
    """Guards against times or orders in the files: a copy of a model must be recognisable as one."""
    loaded = Pipeline.load(folder, CPU)
    again, again_config = loaded.files(examples[0]), loaded.config
    named = set(json.loads((folder / MANIFEST).read_text())["files"])
    assert set(again) == named - {"notes.txt", "metrics.jsonl"}
    for name, content in again.items():
        if name == "config.json":  # one that was loaded knows nothing of training
            assert pipeline_config(json.loads((folder / name).read_bytes()), name) == again_config
            assert json.loads(content) == to_dict(again_config)
        elif name.endswith(".json"):
            assert json.loads(content) == json.loads((folder / name).read_bytes())
        else:
            assert content == (folder / name).read_bytes()


def test_every_file_is_vouched_for(folder: Path) -> None:
    """Guards against a file that can be changed unnoticed."""
    named = set(json.loads((folder / MANIFEST).read_text())["files"])
    assert {path.name for path in folder.iterdir()} == named | {MANIFEST}
    for name in named:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=name):
            Pipeline.load(folder, CPU)
        (folder / name).write_bytes(content)
    Pipeline.load(folder, CPU)


def test_another_version_is_refused(folder: Path) -> None:
    """Guards against guessing at a folder that another version wrote."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": FORMAT + 1}))
    with pytest.raises(InputError, match=f"format version {FORMAT + 1}"):
        Pipeline.load(folder, CPU)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("fusion.norm.weight"),
        lambda tensors: tensors.update({"fusion.norm.extra": torch.zeros(2)}),
        lambda tensors: tensors.update({"fusion.norm.weight": torch.zeros(17)}),
    ],
    ids=["missing", "left over", "misshapen"],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Guards against a weight that keeps its random start because its name or shape does not fit."""
    change_tensors(folder, change)
    vouch(folder)
    with pytest.raises(InputError, match=r"'fusion\.norm\.\w+' does not fit"):
        Pipeline.load(folder, CPU)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("image_encoder.project.weight", "stored example"),
        ("text_encoder.embedding.weight", "stored example"),
        ("image_projection.layers.0.weight", "similarity"),
        ("text_projection.layers.0.weight", "similarity"),
        ("fusion.blocks.1.cross_attention.out.weight", "answer"),
        ("heads.vqa.2.bias", "answer"),
        ("heads.captioning.to_words.bias", "caption"),
        ("heads.captioning.blocks.0.self_attention.out.weight", "caption"),
    ],
)
def test_a_changed_weight_changes_the_stored_example(folder: Path, name: str, said: str) -> None:
    """Guards against a model that loads and answers differently: each head is covered by the stored answers."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
        tensors[name] = tensors[name] + 2 * noise

    change_tensors(folder, change)
    vouch(folder)
    with pytest.raises(InputError, match=said) as caught:
        Pipeline.load(folder, CPU)
    assert "stored example" in caught.value.given


def test_changed_words_change_the_stored_example(folder: Path) -> None:
    """Guards against answers that are read from another list than the one trained with."""
    answers = json.loads((folder / "answers.json").read_text())
    (folder / "answers.json").write_text(json.dumps(answers[::-1]))
    vouch(folder)
    with pytest.raises(InputError, match="stored example's answer"):
        Pipeline.load(folder, CPU)


def test_numbers_may_move_by_the_stated_tolerance(folder: Path) -> None:
    """Guards against a check so strict that another processor refuses every model, or so loose that it is none."""
    stored = json.loads((folder / "example.json").read_text())
    for moved, is_fine in ((0.004, True), (-0.004, True), (0.006, False), (float("nan"), False)):
        changed = {**stored, "similarity": stored["similarity"] + moved}
        (folder / "example.json").write_text(json.dumps(changed))
        vouch(folder)
        if is_fine:
            Pipeline.load(folder, CPU)
        else:
            with pytest.raises(InputError, match="similarity"):
                Pipeline.load(folder, CPU)


def test_a_model_without_a_stored_example_loads(tmp_path: Path, pipeline: Pipeline) -> None:
    """Guards against a loader that needs what is optional."""
    pipeline.save(tmp_path / "run", None, {})
    assert not (tmp_path / "run" / "example.json").exists()
    Pipeline.load(tmp_path / "run", CPU)


def frozen_side(config: RunConfig, side: str, kind: str) -> RunConfig:
    """The demo's retrieval with one tower of this kind, frozen."""
    changes = ["text.summary_tokens=0", f"{side}.kind={kind}", f"{side}.frozen=true"]
    model = override(config.model, changes)
    return replace(config, model=model, tasks={"retrieval": config.tasks["retrieval"]})


@pytest.mark.parametrize(
    ("side", "kind", "module", "loader"),
    [
        ("image", "efficientnet_lite0", efficientnet_lite, "load_efficientnet_lite"),
        ("text", "minilm", minilm, "load_minilm"),
    ],
)
def test_a_packaged_frozen_tower_must_be_the_one_trained_on(
    side: str,
    kind: str,
    module: ModuleType,
    loader: str,
    tmp_path: Path,
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against heads on another tower: its weights are not in the folder, but its fingerprint is."""
    made = Pipeline.build(frozen_side(config, side, kind), [], CPU)
    assert not any(name.startswith(f"{side}_encoder.") for name in made.saved_names())
    assert any(name.startswith(f"{side}_projection.") for name in made.saved_names())
    made.save(tmp_path / "run", None, {})
    Pipeline.load(tmp_path / "run", CPU)

    installed = getattr(module, loader)

    def another(*variant: str, **settings: bool) -> torch.nn.Module:
        tower = installed(*variant, **settings)
        with torch.no_grad():
            next(tower.parameters()).flatten()[0] += 1e-3
        return tower

    monkeypatch.setattr(module, loader, another)
    with pytest.raises(InputError, match=f"was trained on the {side} tower"):
        Pipeline.load(tmp_path / "run", CPU)


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_frozen_tower_that_no_package_brings_is_saved(
    side: str, tmp_path: Path, config: RunConfig, examples: list[Example]
) -> None:
    """Guards against a run folder that cannot be loaded elsewhere: only packaged weights may be left out."""
    kind = getattr(config.model, side).kind
    made = Pipeline.build(frozen_side(config, side, kind), examples, CPU)
    assert any(name.startswith(f"{side}_encoder.") for name in made.saved_names())
    made.save(tmp_path / "run", examples[0], {})
    seed_torch("weights", config.seed + 1)
    back = Pipeline.load(tmp_path / "run", CPU)
    assert back.image_fingerprint() == made.image_fingerprint() and back.text_fingerprint() == made.text_fingerprint()


def test_pieces_and_mixed_sizes_change_nothing(
    pipeline: Pipeline, picture_files: Callable[[int], list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a lost last piece, and a picture that depends on which others are encoded with it."""
    images = [example.inputs["image"] for example in picture_files(5)]
    whole = pipeline.encode_images(images)
    monkeypatch.setattr(pipeline_module, "ENCODE_BATCH", 2)
    pieces = pipeline.encode_images(images)
    torch.testing.assert_close(tuple(pieces), tuple(whole), rtol=1e-5, atol=1e-5)
    for row, image in enumerate(images):
        torch.testing.assert_close(pipeline.encode_images([image]).pooled[0], whole.pooled[row], rtol=1e-5, atol=1e-5)


def test_a_fingerprint_follows_weights_and_preprocessing(pipeline: Pipeline) -> None:
    """Guards against cached vectors of another tower: one changed number is another name."""
    before = (pipeline.image_fingerprint(), pipeline.text_fingerprint(), pipeline.embedding_fingerprint())
    with torch.no_grad():
        pipeline.model.image_projection.layers[0].bias[0] += 1e-3
    assert pipeline.image_fingerprint() == before[0] and pipeline.embedding_fingerprint() != before[2]
    with torch.no_grad():
        pipeline.model.image_encoder.norm.bias[0] += 1e-3
        pipeline.model.text_encoder.norm.bias[0] += 1e-3
    assert pipeline.image_fingerprint() != before[0] and pipeline.text_fingerprint() != before[1]


def test_weights_come_from_the_seed(config: RunConfig, examples: list[Example]) -> None:
    """Guards against a run that cannot be repeated, and seeds that make no difference."""
    one, two, other = (
        Pipeline.build(replace(config, seed=seed), examples, CPU).image_fingerprint() for seed in (0, 0, 1)
    )
    assert one == two != other


def test_a_task_that_was_not_trained_is_refused(config: RunConfig, examples: list[Example]) -> None:
    """Guards against answers from a head that does not exist; only the heads that are asked for are built."""
    only = replace(config, tasks={"retrieval": config.tasks["retrieval"]})
    made = Pipeline.build(only, examples, CPU)
    assert made.model.fusion is None and not len(made.model.heads) and made.codec.answers == ()
    assert isinstance(made.task(Retrieval), Retrieval)
    for kind in (VisualQuestionAnswering, Captioning):
        with pytest.raises(InputError, match="not trained for") as caught:
            made.task(kind)
        assert "retrieval" in caught.value.allowed


def test_questions_are_needed_to_learn_answers(config: RunConfig, examples: list[Example]) -> None:
    """Guards against an answer head of size zero, which would silently not be built."""
    with pytest.raises(InputError, match="no training example has a question"):
        make_codec(config, [replace(example, questions=()) for example in examples])


def test_embeddings_are_unit_vectors(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a similarity that is no cosine."""
    task = pipeline.task(Retrieval)
    image = task.embed_images(
        pipeline.model, {IMAGE: pipeline.encode_images([e.inputs["image"] for e in examples[:4]])}
    )
    text = task.embed_texts(pipeline.model, pipeline.codec, ["a red circle", "", "左上有小的红色圆形"])
    assert image.shape == (4, 8) and text.shape == (3, 8) and image.dtype == text.dtype == np.float32
    for rows in (image, text):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)


def test_every_answer_can_be_written(config: RunConfig, examples: list[Example]) -> None:
    """Guards against "2" that reads [UNK]: a tokenizer that never saw the answers can neither learn nor write them."""
    codec = make_codec(config, examples)
    assert {"0", "1", "2", "yes", "no"} <= set(codec.answers)
    for answer in codec.answers:
        assert codec.tokenizer.decode(codec.tokenizer.ids(answer)[1:]) == answer
