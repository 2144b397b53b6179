"""A bridge that was built here, written as a LLaVA folder: transformers opens it with the same logits and text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
import transformers
from hf_folders import scrambled, vision_folder
from vlm_folders import llava_folder, logits_of, pictures, save_chat_words, text_config

import chiasm
from chiasm.core.errors import InputError
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.models.bridge.linear import LinearProjectorConfig
from chiasm.models.bridge.mlp2x_gelu import MlpProjectorConfig
from chiasm.models.bridge.projector import ProjectorConfig
from chiasm.models.bridge.resampler import ResamplerConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.folder import FolderImageConfig
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.interop.exporting import export
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation import ConversationConfig

CPU = torch.device("cpu")
TEXTS_ONLY = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ': ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)
PLAIN: dict[str, Any] = {"input_norm": False, "output_norm": False}


def run_folder(place: Path, projector: ProjectorConfig, words: str = "qwen2", eyes: str = "clip") -> Path:
    """A run of the task conversation over folders, its low-rank changes and projector moved."""
    count = save_chat_words(place / "words", (), TEXTS_ONLY)
    torch.manual_seed(0)
    scrambled(transformers.AutoModelForCausalLM.from_config(text_config(words, count))).save_pretrained(place / "words")
    vision_folder(place / "eyes", eyes)
    image: Any = FolderImageConfig(name=str(place / "eyes"), size_px=32, frozen=True, grid=True)
    if eyes == "conv":
        image = ConvConfig(size_px=32)
    text = LanguageModelConfig(name=str(place / "words"), lora_rank=2, precision="fp32", max_tokens=512)
    config = PipelineConfig(
        recipe="test",
        model=ModelConfig(image=image, text=text),
        tasks={"conversation": ConversationConfig(projector=projector)},
    )
    pipeline = Pipeline.build(config, [], CPU)
    with torch.no_grad():
        for name, one in pipeline.model.named_parameters():
            if name.startswith("heads.") or name.endswith(".lora_b"):
                one.add_(torch.randn_like(one) * 0.2)
    scene = SceneDataset("train", ScenesConfig(train_pictures=1, questions_per_picture=1), 0).example(0)
    pipeline.save(place / "run", scene, {})
    return place / "run"


@pytest.mark.parametrize(
    ("projector", "words", "eyes"),
    [
        (MlpProjectorConfig(**PLAIN), "qwen2", "clip"),
        (LinearProjectorConfig(**PLAIN), "llama", "clip"),
    ],
)
def test_transformers_opens_it_with_the_same_logits(
    projector: ProjectorConfig, words: str, eyes: str, tmp_path: Path
) -> None:
    """Guards merged low-rank changes, the further row for the image token, template, and preprocessing."""
    run = run_folder(tmp_path, projector, words, eyes)
    found = export(run, "hugging_face", tmp_path / "llava", CPU)
    assert found.answers["reply"] and found.answers["logits_difference"] < 1e-4
    network = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
    assert network.config.text_config.vocab_size == network.lm_head.weight.shape[0] > network.config.image_token_id
    ours, theirs = (
        logits_of(chiasm.load(place), pictures((40, 60)), "what is it") for place in (run, tmp_path / "llava")
    )
    torch.testing.assert_close(ours, theirs[:, : ours.shape[1]], atol=1e-4, rtol=1e-4)
    assert bool((theirs[:, -1] <= theirs.max(1).values).all())


@pytest.mark.parametrize(
    ("projector", "eyes", "said"),
    [
        (MlpProjectorConfig(), "clip", r"LayerNorm(.|\n)*input_norm=false"),
        (MlpProjectorConfig(input_norm=False), "clip", r"LayerNorm(.|\n)*output_norm=false"),
        (ResamplerConfig(output_norm=False), "clip", "projector Resampler"),
        (MlpProjectorConfig(**PLAIN), "conv", "whose architecture transformers does not have"),
        (MlpProjectorConfig(**PLAIN), "dinov2", "image tower dinov2"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(
    projector: ProjectorConfig, eyes: str, said: str, tmp_path: Path
) -> None:
    """Guards against a folder that opens and answers otherwise; nothing is left behind."""
    run = run_folder(tmp_path, projector, "llama", eyes)
    with pytest.raises(InputError, match=said):
        export(run, "hugging_face", tmp_path / "llava", CPU)
    assert not (tmp_path / "llava").exists()


def test_a_llava_that_was_adapted_is_written_as_one(tmp_path: Path) -> None:
    """Guards the way back of a folder that came in: low-rank changes merged, names as published."""
    llava_folder(tmp_path / "net")
    pipeline = chiasm.load(tmp_path / "net").pipeline
    config = pipeline.config
    adapted = replace(config, model=replace(config.model, text=config.model.text.with_lora(2, 4.0)))
    changed = Pipeline.build(adapted, [], CPU, pipeline.codec)
    with torch.no_grad():
        for name, one in changed.model.named_parameters():
            if name.endswith(".lora_b"):
                one.add_(torch.randn_like(one) * 0.2)
    scene = SceneDataset("train", ScenesConfig(train_pictures=1, questions_per_picture=1), 0).example(0)
    changed.save(tmp_path / "run", scene, {})
    export(tmp_path / "run", "hugging_face", tmp_path / "again", CPU)
    same, other = (logits_of(chiasm.load(tmp_path / place), pictures((40, 60)), "what") for place in ("run", "again"))
    torch.testing.assert_close(same, other, atol=1e-4, rtol=1e-4)
    before = logits_of(chiasm.load(tmp_path / "net"), pictures((40, 60)), "what")
    assert not torch.allclose(before, other, atol=1e-2)
