"""Open a model folder as a Pipeline: a run of chiasm, or the layout of Hugging Face or open_clip."""

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.run_folder import MANIFEST
from chiasm.data.files import FilesConfig
from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.base import ImageTowerConfig
from chiasm.models.encoders.dual_encoder import FAMILIES, OPEN_CLIP_CONFIG, DualEncoder, read_dual_encoder
from chiasm.models.encoders.folder import FolderImageConfig, FolderTextConfig
from chiasm.models.encoders.hugging_face import preprocessing_of, text_limits
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.models.encoders.network_images import NetworkImageConfig
from chiasm.models.encoders.open_clip import is_open_clip, read_open_clip
from chiasm.models.networks import NETWORKS, is_language_network, keeps_sizes, labels_of, network_of
from chiasm.models.pretrained.hugging_face_folder import checked_folder, model_type, read_architecture
from chiasm.models.projection import PlainProjection
from chiasm.models.vision_language import AssembledVLM, VisionLanguageModel
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.parts import parts_of
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.tokenizers import pretrained_tokenizer
from chiasm.tasks import build_tasks
from chiasm.tasks.codec import Codec
from chiasm.tasks.imported import NETWORK_TASKS, TALKS, dual_encoder_tasks

IMPORTED = "imported"
"""Recipe name of an imported model."""
STORED = "chiasm_example"
"""Beginning of the names of the stored example's files in a folder of another layout."""
LONGEST_TOKENS = 512
"""Longest text of towers that set no bound."""
LONGEST_TALK = 4096
"""As `LONGEST_TOKENS`, of a conversation with its images."""
WRITTEN_WORDS = 20
"""Default maximum length of BLIP captions, as set by its authors and by transformers."""


def open_pipeline(folder: Path, device: torch.device) -> Pipeline:
    """Open a run folder, or a folder in the layout of Hugging Face or open_clip; nothing is downloaded.

    A stored example is computed again wherever there is one.

    Raises:
        MissingExtraError: transformers is needed and not installed.
        InputError: no such folder, a damaged one, an unsupported architecture, or parts of different models.
    """
    if (folder / MANIFEST).exists() or not _is_foreign(folder):
        return Pipeline.load(folder, device)
    if is_open_clip(folder):
        pipeline = dual_pipeline(read_open_clip(folder), folder, device)
    else:
        checked_folder(str(folder), "the model")
        network, kind = network_of(folder), model_type(folder)
        if not network and kind not in FAMILIES:
            raise InputError(
                f"{folder} holds a {kind}",
                "a vision-language model: " + ", ".join([*FAMILIES, *NETWORKS]),
                "a network for images or texts alone can be a tower: --set model.image.kind=hugging_face "
                f"--set model.image.name={folder}",
            )
        if network:
            pipeline = network_pipeline(network, folder, device)
        else:
            pipeline = dual_pipeline(read_dual_encoder(str(folder)), folder, device)
    pipeline.check_example(folder, STORED)
    return pipeline


def _is_foreign(folder: Path) -> bool:
    """True if the folder or its name shows another layout than a run of chiasm."""
    if not folder.is_dir():
        # A name on the hub gets an error of its own; a missing path is reported as a missing run.
        return (
            str(folder).count("/") == 1 and not str(folder).startswith((".", "/", "~")) and not folder.parent.exists()
        )
    return bool(model_type(folder)) or (folder / OPEN_CLIP_CONFIG).is_file()


def network_pipeline(network: str, folder: Path, device: torch.device) -> Pipeline:
    """Build a pipeline from a whole network, with the tasks that it was trained for.

    Args:
        network: class of transformers, a key of `tasks.imported.NETWORK_TASKS`.
        folder: in Hugging Face layout.
        device: where the model goes.
    """
    if is_language_network(network):
        config = talking_config(folder)
        codec = Codec(pretrained_tokenizer(config.model.text), {}, decoding=config.decoding)
        return Pipeline.build(config, [], device, codec)
    architecture = read_architecture(folder)
    height, width = preprocessing_of(str(folder)).size_px
    image = FolderImageConfig(name=str(folder), size_px=height, width_px=0 if width == height else width)
    longest = _longest(folder, text_limits(str(folder)).max_tokens)
    space = int(getattr(architecture, "image_text_hidden_size", 0)) or ModelConfig().embedding_dim
    config = PipelineConfig(
        recipe=IMPORTED,
        model=ModelConfig(
            network=str(folder),
            embedding_dim=space,
            image=image,
            text=FolderTextConfig(name=str(folder), max_tokens=longest),
        ),
        tasks=NETWORK_TASKS[network],
        decoding=usual_decoding(longest),
    )
    stated = labels_of(config.model.network)
    vocabularies = {
        name: stated for task in build_tasks(config.tasks, config.model).values() for name in task.vocabularies
    }
    codec = Codec(pretrained_tokenizer(config.model.text), vocabularies, decoding=config.decoding)
    return Pipeline.build(config, [], device, codec)


def talking_config(folder: Path) -> PipelineConfig:
    """The config of a run that a language model which sees amounts to; what can be cached is frozen.

    Args:
        folder: in Hugging Face layout; its weights are not read.
    """
    image: ImageTowerConfig
    if keeps_sizes(network_of(folder)):
        image = NetworkImageConfig(name=str(folder))
    else:
        height, width = preprocessing_of(str(folder)).size_px
        square = 0 if width == height else width
        image = FolderImageConfig(name=str(folder), size_px=height, width_px=square, frozen=True, grid=True)
    architecture = read_architecture(folder)
    words = architecture.get_text_config()
    longest = _longest(folder, int(getattr(words, "max_position_embeddings", 0) or LONGEST_TALK), LONGEST_TALK)
    # Weights of four bytes stay so; others are computed with as the machine computes fastest.
    precision: Literal["fp32", "auto"] = "fp32" if str(architecture.dtype).endswith("float32") else "auto"
    text = LanguageModelConfig(name=str(folder), max_tokens=longest, frozen=True, precision=precision)
    return PipelineConfig(recipe=IMPORTED, model=ModelConfig(network=str(folder), image=image, text=text), tasks=TALKS)


def dual_pipeline(dual: DualEncoder, folder: Path, device: torch.device) -> Pipeline:
    """Build a retrieval pipeline from two towers and their projections.

    Args:
        dual: read from `folder`.
        folder: its tokenizer is taken.
        device: where the model goes.
    """
    config = dual_config(dual, folder)
    codec = Codec(pretrained_tokenizer(config.model.text))
    model = AssembledVLM(config.model, parts_of(config, codec), (dual.image, dual.text))
    _join(model, dual)
    return Pipeline(config, model, codec, device)


def dual_config(dual: DualEncoder, folder: Path) -> PipelineConfig:
    """The config of a run that a dual encoder amounts to."""
    assert dual.image.spec.preprocessing is not None, "an image tower states its preprocessing"
    height, width = dual.image.spec.preprocessing.size_px
    own = dual.text.max_tokens
    longest = own if dual.text.sees_padding else _longest(folder, own)  # SigLIP has one fixed length
    projection: Literal["linear", "none"] = "none" if dual.projections is None else "linear"
    image = FolderImageConfig(
        name=str(folder), projection=projection, size_px=height, width_px=0 if width == height else width
    )
    text = FolderTextConfig(name=str(folder), projection=projection, max_tokens=longest)
    languages = ("zh",) if dual.family == "chinese_clip" else ("en",)
    return PipelineConfig(
        recipe=IMPORTED,
        data=FilesConfig(languages=languages),
        model=ModelConfig(embedding_dim=dual.embedding_dim, image=image, text=text),
        tasks=dual_encoder_tasks("softmax" if dual.logit_bias is None else "sigmoid"),
    )


def usual_decoding(max_tokens: int) -> DecodingConfig:
    """Default decoding of an imported model with texts of `max_tokens`; the other layouts do not store it."""
    return DecodingConfig(max_words=min(WRITTEN_WORDS, max_tokens - 2))


def _longest(folder: Path, of_network: int, most: int = LONGEST_TOKENS) -> int:
    """Longest text in tokens: the limit of the network, or `model_max_length` of the tokenizer if smaller."""
    path = folder / "tokenizer_config.json"
    length = read_json(path, "the tokenizer's config").get("model_max_length") if path.is_file() else None
    stated = int(length) if isinstance(length, int | float) and length > 2 else most
    return min(of_network, stated, most)


@torch.no_grad()
def _join(model: VisionLanguageModel, dual: DualEncoder) -> None:
    """Set the projections, the temperature and the bias."""
    if dual.projections is not None:
        sides = zip((model.image_projection, model.text_projection), dual.projections, strict=True)
        for projection, weight in sides:
            assert isinstance(projection, PlainProjection) and projection.linear is not None
            projection.linear.weight.copy_(weight)
    for parameter, value in ((model.logit_scale, dual.logit_scale), (model.logit_bias, dual.logit_bias)):
        if value is not None:
            assert isinstance(parameter, nn.Parameter), "a contrast has a temperature, and SigLIP's a bias"
            parameter.copy_(value)
