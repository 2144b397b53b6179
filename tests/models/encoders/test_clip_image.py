"""CLIP's image vectors from less work against transformers: value, gradient, and where the whole tower runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="needs the extra [hf]")
from hf_folders import vision_folder

from chiasm.data.opening import open_dataset
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.folder import FolderImageConfig
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import TaskConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tower(folder: Path, **keys: float | bool) -> HuggingFaceImageEncoder:
    made = FolderImageConfig(name=str(folder), **keys).build(EncoderShape(16, 2))
    assert isinstance(made, HuggingFaceImageEncoder)
    return made.train()


@pytest.mark.parametrize("keys", [{}, {"patch_dropout": 0.5}, {"recompute": True}])
def test_vectors_are_those_of_the_whole_tower(keys: dict[str, float | bool], tmp_path: Path) -> None:
    """Guards against another scale of attention, a forgotten residual, and a gradient that misses the patches."""
    vision_folder(tmp_path, "clip_vision")
    found = []
    for of in ("forward", "vectors"):
        made = tower(tmp_path, **keys).double()
        torch.manual_seed(1)
        pooled = made(images()).pooled if of == "forward" else made.vectors(images())
        pooled.sin().sum().backward()
        found.append({name: one.grad for name, one in made.named_parameters() if one.grad is not None})
        found[-1]["pooled"] = pooled.detach()
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["vit", "siglip_vision", "clip_vision"])
def test_other_networks_run_whole(kind: str, tmp_path: Path) -> None:
    """Guards against the class token of a network that pools otherwise, and attention without its dropout."""
    vision_folder(tmp_path, kind)
    made = tower(tmp_path)
    if kind == "clip_vision":
        made.model.config.attention_dropout = 0.5
        for layer in made.model.encoder.layers:
            layer.self_attn.dropout = 0.5
    torch.manual_seed(1)
    expected = made(images()).pooled
    torch.manual_seed(1)
    assert torch.equal(made.vectors(images()), expected)


def built(tasks: dict[str, TaskConfig], folder: Path) -> Pipeline:
    demo = find_recipe("demo", tiny=True)
    model = replace(demo.model, dim=16, embedding_dim=8, image=FolderImageConfig(name=str(folder)))
    scenes = open_dataset(demo.data, "train", 0)
    examples = [scenes.example(row) for row in range(4)]
    return Pipeline.build(replace(demo, model=model, tasks=tasks), examples, torch.device("cpu"))


def test_tokens_are_there_where_something_reads_them(tmp_path: Path) -> None:
    """Guards against a fusion that gets the class token alone, and an evaluation that rounds otherwise than serving."""
    vision_folder(tmp_path, "clip_vision")
    alone, fused = (
        built(tasks, tmp_path).model
        for tasks in ({"retrieval": RetrievalConfig()}, {"retrieval": RetrievalConfig(), "vqa": VqaConfig()})
    )
    assert alone.train().encode_image(images()).values.shape[1] == 1
    assert fused.train().encode_image(images()).values.shape[1] > 1
    assert alone.eval().encode_image(images()).values.shape[1] > 1
