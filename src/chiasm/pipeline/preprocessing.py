"""Constraints of pre-trained encoders on a config, and their files in a run folder."""

from dataclasses import replace
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.models.networks.base import PretrainedVLM
from chiasm.models.pretrained.hugging_face_folder import NETWORK_FILE
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.config import PipelineConfig


def check_pretrained(config: PipelineConfig) -> None:
    """Check that no encoder inside a whole network is frozen, unless it is a language model that sees.

    Raises:
        InputError: the network fuses image and text before an encoder's output could be cached.
    """
    model = config.model
    if model.network and not model.text.is_chat_model and (model.image.frozen or model.text.frozen):
        side = "image" if model.image.frozen else "text"
        raise InputError(
            f"model.{side}.frozen with model.network {model.network}",
            "a whole network, which fuses text and image before any output could be cached",
            f"--set model.{side}.frozen=false; train.trainable says which weights are trained",
        )


def tower_files(model: VisionLanguageModel) -> dict[str, bytes]:
    """Files that describe encoders from folders, by their name in a run folder."""
    network = {NETWORK_FILE: model.spec.to_json()} if isinstance(model, PretrainedVLM) else {}
    config = model.config
    return {
        **network,
        **config.image.describing_files(model.image_encoder),
        **config.text.describing_files(model.text_encoder),
    }


def resolve_paths(config: PipelineConfig, folder: Path) -> PipelineConfig:
    """Return the config with the paths of its pre-trained towers set to the run folder, which holds their files."""
    model = config.model
    model = replace(model, image=model.image.moved_to(folder), text=model.text.moved_to(folder))
    if model.network:
        model = replace(model, network=str(folder))
    return replace(config, model=model)
