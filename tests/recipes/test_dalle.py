"""The recipe dalle, tiny: both stages, an unchanged tokenizer, a report with drawings, and resume."""

import io
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

from chiasm.core.run_folder import MANIFEST
from chiasm.data.files import FilesConfig
from chiasm.recipes.table import find_recipe
from chiasm.serve.engine import load
from chiasm.train.stages import run_stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    place = tmp_path_factory.mktemp("dalle") / "run"
    run_stages(find_recipe("dalle", tiny=True), place, False, Console(file=io.StringIO()))
    return place


def tower(place: Path) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load_file(place / "model.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("image_encoder.")}


def test_the_prior_leaves_the_tokenizer_as_it_was_trained(folder: Path) -> None:
    """Guards against codes that change after the images were encoded, and a stage whose weights are lost."""
    codes, prior = tower(folder / "stages" / "codes"), tower(folder)
    assert codes.keys() == prior.keys() and all(torch.equal(codes[name], prior[name]) for name in codes)
    assert int(prior["image_encoder.steps"]) == 4


def test_its_scores_and_report_are_there(folder: Path) -> None:
    """Guards against a run that is measured without a drawing, and drawings that the report leaves out."""
    metrics = json.loads((folder / "results.json").read_text())
    assert {"image_token_probability", "image_token_nats", "whole_image_true", "objects_iou"} <= metrics[
        "metrics"
    ].keys()
    assert metrics["metrics"]["whole_image_true"]["n"] == 8
    assert metrics["blind"]["image_token_nats"]["n"] == metrics["metrics"]["image_token_nats"]["n"] == 64
    page = (folder / "report.html").read_text()
    assert "Drawings" in page and "nearest of 256 training images" in page


def test_the_folder_draws(folder: Path) -> None:
    """Guards against a run folder that opens and cannot be asked."""
    images = load(folder).draw("a small red circle top", 2)
    assert [image.size for image in images] == [(48, 48)] * 2


def test_it_goes_on_in_either_stage(folder: Path) -> None:
    """Guards against codes that start anew, and a prior that goes on with other noise: resumed, nothing differs."""
    before = safetensors.torch.load_file(folder / "model.safetensors")
    for place in (folder / "stages" / "codes", folder):
        (place / MANIFEST).unlink()
        *_, newest = sorted((place / "checkpoints").iterdir())
        shutil.rmtree(newest)
    said = io.StringIO()
    run_stages(find_recipe("dalle", tiny=True), folder, True, Console(file=said))
    assert said.getvalue().count("step-00000002") == 2, said.getvalue()
    after = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_on_files_it_reads_larger_images() -> None:
    """Guards against scenes where files are given."""
    config = find_recipe("dalle", files=True)
    assert isinstance(config.data, FilesConfig) and config.model.image.size_px == 64 and config.test_split == "val"
    assert config.train.adapt == "locked_image" and not config.model.image.frozen and config.model.image.grid
