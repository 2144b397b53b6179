"""Patch dropout leaves out patches of each image in training, and nothing else."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="needs the extra [hf]")
from hf_folders import vision_folder

from chiasm.core.errors import InputError
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.folder import FolderImageConfig
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder
from chiasm.models.patch_dropout import switch_patch_dropout

SHARE = 0.6
KINDS = {"vit": 1, "dinov2": 1, "clip_vision": 1, "siglip_vision": 0}
"""Architecture -> tokens before its patches."""


def tower(folder: Path, kind: str, **keys: float | bool) -> HuggingFaceImageEncoder:
    if not (folder / "config.json").exists():
        vision_folder(folder, kind)
    made = FolderImageConfig(name=str(folder), **keys).build(EncoderShape(16, 2))
    assert isinstance(made, HuggingFaceImageEncoder)
    return made.train()


def images(made: HuggingFaceImageEncoder, count: int = 5) -> Tensor:
    side = made.preprocessing.size_px
    return torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_sees_some_patches_of_each_image(kind: str, tmp_path: Path) -> None:
    """Guards against patches zeroed but computed, a class token that is dropped, and one draw for all images."""
    made = tower(tmp_path, kind, patch_dropout=SHARE)
    given = images(made).requires_grad_()
    torch.manual_seed(1)
    tokens = made(given)
    px = made.model.config.patch_size
    patches = (given.shape[2] // px) * (given.shape[3] // px)
    kept = round(patches * (1 - SHARE))
    assert tokens.values.shape[1] == KINDS[kind] + kept and tokens.is_real.all()
    tokens.pooled.square().sum().backward()
    assert given.grad is not None
    reached = given.grad.abs().sum(1).unflatten(1, (-1, px)).unflatten(3, (-1, px)).sum((2, 4)).flatten(1) > 0
    assert reached.sum(1).tolist() == [kept] * len(given)
    assert len({tuple(row.tolist()) for row in reached}) > 1, "each image has a draw of its own"


def test_kept_patches_stay_where_they_were(tmp_path: Path) -> None:
    """Guards against positions that are given out again to the patches that are left, and patches drawn twice."""
    made = tower(tmp_path, "clip_vision", patch_dropout=SHARE)
    given = images(made)
    few = made.model.embeddings(given)
    whole = made.eval().model.embeddings(given)
    is_same = (few[:, :, None] == whole[:, None]).all(-1)
    assert (is_same.sum(2) == 1).all() and is_same[:, 0, 0].all()
    places = is_same.long().argmax(2)
    assert (places.diff(dim=1) > 0).all(), "in their order"


def test_evaluation_and_the_unmasked_end_see_whole_images(tmp_path: Path) -> None:
    """Guards against vectors that are random in evaluation, and a switch that reaches the copy of another model."""
    made = tower(tmp_path, "clip_vision", patch_dropout=SHARE)
    plain = tower(tmp_path, "clip_vision").eval()
    given = images(made)
    switched = copy.deepcopy(made)
    switch_patch_dropout(switched, False)
    with torch.no_grad():
        expected = plain(given)
        for whole in (switched, copy.deepcopy(made).eval()):
            torch.testing.assert_close(whole(given), expected)
        assert made(given).values.shape[1] < expected.values.shape[1], "the copy was switched, not this one"
        switch_patch_dropout(switched, True)
        torch.manual_seed(2)
        one = switched(given).pooled
        torch.manual_seed(2)
        assert torch.equal(made(given).pooled, one), "the same seed draws the same patches"
        assert not torch.equal(made(given).pooled, one)
    assert made.state_dict().keys() == plain.state_dict().keys()


def test_grids_and_frozen_towers_are_refused(tmp_path: Path) -> None:
    """Guards against a convolution over tokens that are not there, and a cached image of half its patches."""
    with pytest.raises(InputError, match=r"patch_dropout 0.6 with a convnext"):
        tower(tmp_path, "convnext", patch_dropout=SHARE)
    with pytest.raises(InputError, match="frozen true"):
        FolderImageConfig(name="x", patch_dropout=SHARE, frozen=True).check()
    with pytest.raises(InputError, match=r"patch_dropout is 1"):
        FolderImageConfig(name="x", patch_dropout=1.0).check()


@pytest.mark.parametrize("kind", ["clip_vision", "siglip_vision"])
def test_recomputed_towers_have_the_same_gradients(kind: str, tmp_path: Path) -> None:
    """Guards against other patches in the recomputed pass, and a key that changes nothing."""
    kept, gradients = [], []
    for recompute in (False, True):
        made = tower(tmp_path, kind, patch_dropout=SHARE, recompute=recompute)
        numbers = 0

        def note(tensor: Tensor) -> Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = made(images(made)).pooled.square().sum()
        kept.append(numbers)
        loss.backward()
        gradients.append({name: one.grad for name, one in made.named_parameters() if one.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0])
    assert kept[1] < 0.7 * kept[0]
