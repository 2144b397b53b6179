"""What networks around a language model share: the inner model is taken out without a copy, and checked."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import llava_folder

import chiasm
from chiasm.core.errors import InputError
from chiasm.models.networks.language import causal_model


@pytest.mark.parametrize("words", ["llama", "qwen2"])
def test_the_inner_language_model_shares_its_weights(words: str, tmp_path: Path) -> None:
    """Guards against a second copy, whose changes the network would not have, and against random weights."""
    network = llava_folder(tmp_path, words)
    inner = causal_model(network)
    theirs = {value.data_ptr() for value in network.state_dict().values()}
    assert all(value.data_ptr() in theirs for value in inner.state_dict().values())
    ids = torch.arange(6)[None]
    torch.testing.assert_close(inner(input_ids=ids).logits, network(input_ids=ids).logits)


def test_every_weight_has_its_name_of_transformers(tmp_path: Path) -> None:
    """Guards the way back: names and numbers are those of the network that was read."""
    network = llava_folder(tmp_path)
    found = chiasm.load(tmp_path).pipeline.model.hugging_face_tensors()
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_another_text_tower_is_refused(tmp_path: Path) -> None:
    """Guards against a network whose language model would be built anew."""
    from dataclasses import replace

    from chiasm.models.encoders.folder import FolderTextConfig
    from chiasm.models.networks import build_model

    llava_folder(tmp_path)
    pipeline = chiasm.load(tmp_path).pipeline
    config = replace(pipeline.config.model, text=FolderTextConfig(name=str(tmp_path)))
    with pytest.raises(InputError, match=r"model\.text\.kind=language_model"):
        build_model(config, pipeline.model.parts)
