"""What a pipeline asks of towers that come from a folder: their pixels, their words, their files in a run folder."""

from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes
from chiasm.data.resizing import Resizing
from chiasm.data.tokenizers.clip_bpe import BPE_FILE, read_clip_words
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer, read_pretrained_tokenizer
from chiasm.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from chiasm.models.encoders.dual_encoder import OPEN_CLIP_CONFIG
from chiasm.models.encoders.hugging_face import (
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    preprocessing_of,
    text_sizes,
)
from chiasm.models.encoders.open_clip import is_open_clip, open_clip_text_sizes, read_open_clip_preprocessing
from chiasm.models.networks.base import WholeNetwork
from chiasm.models.pretrained.hugging_face_folder import NETWORK_FILE, SPEC_FILES, Preprocessing
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.config import PipelineConfig

DESCRIBING = ("preprocessor_config.json", OPEN_CLIP_CONFIG, SPEC_FILES["image"], NETWORK_FILE, "config.json")
"""Files that decide the preprocessing."""
KIND: Literal["hugging_face"] = "hugging_face"


def _preprocessing(name: str) -> Preprocessing:
    """What a folder says now: read again when a file of it has changed."""
    files = (Path(name) / one for one in DESCRIBING)
    return _read_preprocessing(name, tuple(path.stat().st_mtime_ns for path in files if path.is_file()))


@lru_cache(maxsize=16)
def _read_preprocessing(name: str, changed_ns: tuple[int, ...]) -> Preprocessing:
    folder = Path(name)
    return read_open_clip_preprocessing(folder) if is_open_clip(folder) else preprocessing_of(name)


def resizing_as_trained(tower: ImageTowerConfig) -> Resizing:
    """What the folder's preprocessing does to a picture; where pictures keep their shapes, on a canvas with a mask."""
    how = _preprocessing(tower.name)
    size_px = (how.size_px[0], how.size_px[1])
    if how.size_divisor:
        return Resizing(
            "within",
            size_px,
            how.resize_px,
            resample=how.resample,
            longest_px=how.longest_px,
            divisor=how.size_divisor,
        )
    return Resizing("shortest", size_px, how.resize_px, how.crop_px, how.resample)


def preprocessing_hash(tower: ImageTowerConfig) -> str:
    """Names the preprocessing, for caches."""
    return sha256_bytes(str(sorted(asdict(_preprocessing(tower.name)).items())).encode())[:8]


def check_pretrained(config: PipelineConfig) -> None:
    """Refuse what a pre-trained text tower cannot do, and towers of a whole network that are frozen.

    Raises:
        InputError: it lends its words to no decoder, and makes no summary; a network has no tower that stands alone.
    """
    text = config.model.text
    if config.model.network and (config.model.image.frozen or text.frozen):
        side = "image" if config.model.image.frozen else "text"
        raise InputError(
            f"model.{side}.frozen with model.network {config.model.network}",
            "a whole network, in which words and picture meet before anything could be cached",
            f"--set model.{side}.frozen=false; train.trainable says which weights are trained",
        )
    if text.from_scratch or config.model.network:
        return
    if text.summary_tokens:
        raise InputError(
            f"model.text.summary_tokens {text.summary_tokens} with model.text.kind {text.kind!r}",
            "0: the network makes no summary",
            "--set model.text.summary_tokens=0",
        )


def folder_tokenizer(text: TextTowerConfig) -> PretrainedTokenizer:
    """The tokenizer of the folder that `text.name` says, cut at `text.max_tokens`.

    Raises:
        InputError: the network cannot read texts of that length, or has fewer words than its tokenizer.
    """
    folder = Path(text.name)
    longest, words, pads_to_max = (
        (*open_clip_text_sizes(folder), False) if is_open_clip(folder) else text_sizes(text.name)
    )
    is_wrong = text.max_tokens != longest if pads_to_max else text.max_tokens > longest
    if is_wrong:
        allowed = f"{longest}, on which the network was trained" if pads_to_max else f"at most {longest}"
        raise InputError(
            f"model.text.max_tokens is {text.max_tokens} for {text.name}",
            allowed,
            f"--set model.text.max_tokens={longest}",
        )
    found = folder_words(folder, text.max_tokens, pads_to_max)
    if found.vocabulary > words:
        raise InputError(
            f"{text.name}: the tokenizer has {found.vocabulary} tokens, the network {words}",
            "a tokenizer and weights of one model",
            "take both from the same place",
        )
    return found


def folder_words(folder: Path, max_tokens: int, pads_to_max: bool) -> PretrainedTokenizer:
    """The tokenizer of a folder; in open_clip's layout perhaps CLIP's own list of merges.

    Raises:
        InputError: see `read_pretrained_tokenizer`.
    """
    if is_open_clip(folder) and not (folder / "tokenizer.json").is_file() and (folder / BPE_FILE).is_file():
        return read_clip_words(folder / BPE_FILE, max_tokens)
    return read_pretrained_tokenizer(folder, max_tokens, pads_to_max)


def tower_files(model: VisionLanguageModel) -> dict[str, bytes]:
    """What describes the towers that came from folders, by the name of its file in a run folder."""
    network = {NETWORK_FILE: model.spec.to_json()} if isinstance(model, WholeNetwork) else {}
    sides = zip(SPEC_FILES.values(), (model.image_encoder, model.text_encoder), strict=True)
    return network | {
        name: tower.spec.to_json()
        for name, tower in sides
        if isinstance(tower, HuggingFaceImageEncoder | HuggingFaceTextEncoder)
    }


def resolve_paths(config: PipelineConfig, folder: Path) -> PipelineConfig:
    """Return the config with the paths of its pre-trained towers set to the run folder, which holds their files."""
    model: ModelConfig = config.model
    if model.image.kind == KIND:
        model = replace(model, image=replace(model.image, name=str(folder)))
    if model.text.kind == KIND:
        model = replace(model, text=replace(model.text, name=str(folder)))
    if model.network:
        model = replace(model, network=str(folder))
    return replace(config, model=model)
