"""CLIP ViT-B/32 with random weights and its words, and captions of Flickr8k, for benchmarks of training."""

import os
from pathlib import Path
from typing import Any

import torch
import transformers

from chiasm.core.config import override
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.data.tokenizers.clip_bpe import BPE_FILE, read_clip_words
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.folder import FolderImageConfig, FolderTextConfig
from chiasm.pipeline.interop.layouts import tokenizer_files
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig, TrainConfig

DATA = Path(os.environ.get("CHIASM_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
"""Holds flickr8k and clip_bpe."""
RESULTS = Path(__file__).resolve().parent / "results"
MOST_TOKENS = 77
SEED = 0


def write_clip(folder: Path, size_px: int = 224, layers: int = 12) -> transformers.CLIPModel:
    """Write a CLIP ViT-B/32 of the published widths, with CLIP's own words; returns it."""
    transformers.utils.logging.disable_progress_bar()
    folder.mkdir(exist_ok=True)
    for name, content in tokenizer_files(read_clip_words(DATA / "clip_bpe" / BPE_FILE, MOST_TOKENS)).items():
        (folder / name).write_bytes(content)
    torch.manual_seed(SEED)
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = transformers.CLIPConfig(
        text_config={**ends, "num_hidden_layers": layers},
        vision_config={"image_size": size_px, "num_hidden_layers": layers},
    )
    model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": size_px}, "crop_size": {"height": size_px, "width": size_px}}
    transformers.CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return model


def clip_run(folder: Path, overrides: tuple[str, ...] = (), **train: Any) -> RunConfig:
    """Contrast of images and captions with the towers of such a folder, all of it trained in float32."""
    model = ModelConfig(
        embedding_dim=512,
        image=FolderImageConfig(name=str(folder), projection="linear"),
        text=FolderTextConfig(name=str(folder), projection="linear", max_tokens=MOST_TOKENS),
    )
    settings = {"steps": 1000, "lr": 1e-5, "precision": "fp32", **train}
    data = FilesConfig(path=str(DATA / "flickr8k"))
    tasks = {"retrieval": RetrievalConfig()}
    config = RunConfig(recipe="clip_towers", data=data, model=model, tasks=tasks, train=TrainConfig(**settings))
    return override(config, list(overrides))


def captions_of_flickr8k(count: int) -> list[str]:
    """English captions of the training split: the first of each photo, then the second, as many as asked for."""
    data = open_dataset(FilesConfig(path=str(DATA / "flickr8k")), "train", SEED)
    said = [[one.text for one in data.example(row).captions if one.language in ("", "en")] for row in range(len(data))]
    found = [texts[turn] for turn in range(5) for texts in said if turn < len(texts)]
    assert len(found) >= count, f"{len(found)} captions"
    return found[:count]
