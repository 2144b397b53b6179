"""Training a published network on own data: what the config becomes, that it learns, and that the run goes on."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

pytest.importorskip("transformers", reason="needs the extra [hf]")
from hf_folders import save_pixels
from vlm_folders import logits_of, pictures, reply_of
from whole_networks import WHOLE

import chiasm
from chiasm.core.errors import InputError
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.recipes.table import find_recipe
from chiasm.tasks.conversation import ConversationConfig
from chiasm.train.config import RunConfig
from chiasm.train.from_network import in_network
from chiasm.train.stages import run_stages


def adapting(folder: Path, **train: Any) -> RunConfig:
    """The recipe on scenes, from a network."""
    recipe = find_recipe("llava", tiny=True)
    task = ConversationConfig(captions_per_picture=1, questions_per_picture=2, pope_images=0, writes=False)
    settings: dict[str, Any] = {"precision": "fp32", "steps": 8, "batch_size": 8, "lr": 1e-2, **train}
    return replace(
        recipe,
        init_from=str(folder),
        data=ScenesConfig(train_pictures=24, eval_pictures=8, questions_per_picture=2),
        tasks={"conversation": task},
        train=replace(recipe.train, **settings),
        test_split="val",
    )


def trained(config: RunConfig, out: Path) -> list[float]:
    """The losses of its steps."""
    run_stages(config, out, False, Console(file=io.StringIO(), width=400))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize(
    "name",
    [
        "PaliGemma",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("llava", "Idefics3", "Qwen2_5_VL", "Blip2")),
    ],
)
def test_a_network_learns_and_without_its_changes_is_the_published_one(name: str, tmp_path: Path) -> None:
    """Guards gradients through images and prompts, the run folder, and frozen weights that stay bit for bit."""
    WHOLE[name].write(tmp_path / "net")
    losses = trained(adapting(tmp_path / "net"), tmp_path / "run")
    assert losses[-1] < losses[0] - 0.05
    model = chiasm.load(tmp_path / "run")
    base = chiasm.load(tmp_path / "net")
    published, ours = base.pipeline.model.state_dict(), model.pipeline.model.state_dict()
    towers = [name for name in published if name.startswith(("image_encoder.", "text_encoder."))]
    assert towers and all(torch.equal(ours[name], published[name]) for name in towers)
    expected = logits_of(base, [], "what")
    assert not torch.allclose(logits_of(model, [], "what"), expected, atol=1e-3)
    with model.pipeline.model.language.without_adapters():
        torch.testing.assert_close(logits_of(model, [], "what"), expected, atol=1e-5, rtol=1e-4)


def test_a_run_of_a_network_is_a_start_too(tmp_path: Path) -> None:
    """Guards low-rank changes and tokenizer, which come from the run; after no step the answers are its own."""
    WHOLE["PaliGemma"].write(tmp_path / "net")
    trained(adapting(tmp_path / "net", steps=2), tmp_path / "run")
    (tmp_path / "net").rename(tmp_path / "gone")
    trained(adapting(tmp_path / "run", steps=1, lr=1e-9), tmp_path / "next")
    models = [chiasm.load(tmp_path / name) for name in ("run", "next")]
    first, second = (logits_of(one, pictures((40, 60)), "what") for one in models)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    assert reply_of(models[0], pictures((40, 60)), "what", 8) == reply_of(models[1], pictures((40, 60)), "what", 8)
    with pytest.raises(InputError, match="low-rank changes of rank 16"):
        in_network(adapting(tmp_path / "run", adapt="lora", lora_rank=4))


def test_the_config_is_the_networks(tmp_path: Path) -> None:
    """Guards a stage that would train a projector anew, and low-rank changes of the recipe that would be lost."""
    WHOLE["PaliGemma"].write(tmp_path / "net")
    config = adapting(tmp_path / "net")
    found = in_network(config)
    assert not found.stages and not found.init_from and found.model.network == str(tmp_path / "net")
    assert found.model.text.lora_rank == config.model.text.lora_rank == 16  # type: ignore[attr-defined]
    assert found.model.image.frozen and in_network(found) == found
    assert in_network(replace(config, init_from="")) == replace(config, init_from="")


def test_what_cannot_be_adapted_says_what_to_do(tmp_path: Path) -> None:
    """Guards a folder of another kind, and a recipe without a language model."""
    WHOLE["Qwen2VL"].write(tmp_path / "net")
    demo = replace(find_recipe("demo", tiny=True), init_from=str(tmp_path / "net"))
    with pytest.raises(InputError, match="chiasm train llava"):
        in_network(demo)
    tower = tmp_path / "tower"
    save_pixels(tower, "vit")
    (tower / "config.json").write_text('{"model_type": "clip", "architectures": ["CLIPModel"]}')
    (tower / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="--to run"):
        in_network(replace(adapting(tower)))
