"""Whole runs of a small language model that sees: resumed in its second stage, learning, and blind where images lie."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small import traces
from test_resume import interrupt, stop_at

from chiasm.core.errors import Interrupted
from chiasm.data.generated import scene_dataset
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.models.packing import read_weights
from chiasm.recipes.table import find_recipe
from chiasm.tasks import conversation_rehearsal
from chiasm.tasks.conversation import ConversationConfig
from chiasm.train.config import RunConfig
from chiasm.train.finish import Finished
from chiasm.train.own_examples import FILE
from chiasm.train.stages import run_stages
from language_folders import write_folder

pytest.importorskip("transformers", reason="needs the extra [llm]")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("language") / "llama")


def seeing(language: Path, frozen: bool = True, **settings: Any) -> RunConfig:
    """Both stages of the recipe on scenes, with small towers."""
    recipe, demo = find_recipe("llava", tiny=True), find_recipe("demo", tiny=True)
    text = LanguageModelConfig(
        name=str(language), max_tokens=400, frozen=frozen, lora_rank=4 if frozen else 0, precision="fp32"
    )
    model = replace(demo.model, dim=16, image=ConvConfig(channels=(8, 16, 16), size_px=24), text=text)
    task = ConversationConfig(captions_per_picture=1, questions_per_picture=2, pope_images=0, writes=False)
    stage = replace(recipe.stages["align"], tasks={"conversation": task})
    few = replace(stage.train, trainable=("heads.*", "image_encoder.*"), steps=2, batch_size=8, precision="fp32")
    return replace(
        recipe,
        model=model,
        data=ScenesConfig(train_pictures=settings.pop("pictures", 24), eval_pictures=48, questions_per_picture=2),
        tasks={"conversation": task},
        stages={"align": replace(stage, train=few)},
        train=replace(
            recipe.train, precision="fp32", **{"steps": 6, "batch_size": 8, "checkpoint_every": 2, **settings}
        ),
        test_split="val",
    )


def trained(config: RunConfig, folder: Path, resume: bool = False) -> Finished:
    found = run_stages(config, folder, resume, Console(file=io.StringIO(), width=400))
    assert found is not None
    return found


def test_a_run_stopped_in_its_second_stage_ends_as_the_whole_one(language: Path, tmp_path: Path) -> None:
    """Low-rank changes, projector, optimiser and place in the epoch come back bit for bit."""
    config = seeing(language)
    trained(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch, interrupt)  # the first stage has two steps
        with pytest.raises(Interrupted, match="saved at step 3"):
            trained(config, tmp_path / "stopped")
    trained(config, tmp_path / "stopped", resume=True)
    assert traces(tmp_path / "stopped") == traces(tmp_path / "whole")


def test_conversations_are_rehearsed_and_the_run_goes_on_with_the_same_ones(
    language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights seldom end a text, so the bound on that is lifted."""
    monkeypatch.setattr(conversation_rehearsal, "LEAST_SHARE", 0.0)
    config = seeing(language, pictures=8)
    task = replace(config.tasks["conversation"], rehearsed=3)
    config = replace(config, tasks={"conversation": task}, stages={})
    trained(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch, interrupt)
        with pytest.raises(Interrupted, match="saved at step 3"):
            trained(config, tmp_path / "stopped")
    monkeypatch.setattr(conversation_rehearsal, "rehearsed", None)
    trained(config, tmp_path / "stopped", resume=True)
    assert traces(tmp_path / "stopped") == traces(tmp_path / "whole")
    rows = [json.loads(line)["messages"] for line in (tmp_path / "whole" / FILE).read_text().splitlines()]
    assert [[turn["role"] for turn in row] for row in rows] == [["user", "assistant"]] * 3


def test_the_image_tower_of_a_run_with_other_words_serves_a_language_model(language: Path, tmp_path: Path) -> None:
    """Its words are not taken: a language model brings its own."""
    config = seeing(language)
    demo = find_recipe("demo", tiny=True)
    trained(replace(demo, model=replace(demo.model, dim=16, image=config.model.image)), tmp_path / "demo")
    image = replace(config.model.image, frozen=True, grid=True)
    config = replace(config, init_from=str(tmp_path / "demo"), model=replace(config.model, image=image), stages={})
    trained(config, tmp_path / "talks")
    before, after = (read_weights(tmp_path / name)[0] for name in ("demo", "talks"))
    names = [name for name in before if name.startswith("image_encoder.")]
    assert names
    assert all(torch.equal(before[name], after[name]) for name in names)


def gap(found: Finished) -> float:
    """How much likelier the references are with their own images than with those of others."""
    name = "reply_token_probability"
    return found.measured.outcome.scores[name].value - found.measured.blind["shuffled"].scores[name].value


@pytest.mark.long
def test_it_learns_to_see_and_a_run_on_images_without_content_shows_no_gap(
    language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The null control of the blind score: where images tell nothing, nothing is gained from them."""
    config = seeing(language, frozen=False, pictures=400, steps=1000, batch_size=16, lr=2e-3, validate_every=500)
    sees = trained(config, tmp_path / "sees")
    noise = np.random.default_rng(0).integers(0, 256, (64, 24, 24, 3), dtype=np.uint8)
    drawn = iter(range(1 << 30))
    monkeypatch.setattr(scene_dataset, "render", lambda *_, **__: noise[next(drawn) % 64])
    blind = trained(config, tmp_path / "blind")
    assert gap(sees) > 0.05, gap(sees)
    assert abs(gap(blind)) < 0.01, gap(blind)
