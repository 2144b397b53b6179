"""Networks with a processor of their own: what is special in one class; the others compared or refused.

`tests/contract/test_networks.py` compares every class with transformers.
"""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import given_to, logits_of, pictures, processor_of, vip_llava_folder
from whole_networks import WHOLE

import chiasm
from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.networks import image_text
from chiasm.pipeline.interop.exporting import export


def test_a_network_of_no_list_opens_where_its_logits_are_reproduced(tmp_path: Path) -> None:
    """Guards the comparison with transformers at opening; VipLLaVA passes it, and a run folder remembers that."""
    torch.manual_seed(0)
    network = vip_llava_folder(tmp_path)
    model, images = chiasm.load(tmp_path), pictures((40, 60))
    given = given_to(processor_of(tmp_path), images, "what is there")
    with torch.no_grad():
        theirs = network(**given).logits[0]
    torch.testing.assert_close(logits_of(model, images, "what is there"), theirs, atol=1e-4, rtol=1e-4)
    assert model.pipeline.model.spec.is_compared


def test_a_network_that_computes_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the comparison itself: other features than transformers' are seen."""
    vip_llava_folder(tmp_path)
    forward = image_text.WholeEyes.forward

    def moved(self: image_text.WholeEyes, image: torch.Tensor) -> Tokens:
        found = forward(self, image)
        return found._replace(values=found.values * found.values.new_tensor([1.01] * (self.dim - 2) + [1.0, 1.0]))

    monkeypatch.setattr(image_text.WholeEyes, "forward", moved)
    with pytest.raises(InputError, match="its logits of an image and words are not those"):
        chiasm.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"), [("Qwen3VL", "DeepStack"), ("Gemma3", "both directions"), ("InstructBlip", "queries")]
)
def test_networks_that_are_known_to_differ_are_refused_unread(kind: str, said: str, tmp_path: Path) -> None:
    """Guards against wrong answers; the error names what is missing."""
    with pytest.raises(InputError, match=said):
        image_text.ImageTextNetwork.check_folder(f"{kind}ForConditionalGeneration", {}, tmp_path)


@pytest.mark.parametrize("name", ["Idefics3", "Qwen2_5_VL"])
def test_a_run_folder_keeps_processor_and_answers(name: str, tmp_path: Path) -> None:
    """Guards against a run that opens only beside the folder that it came from."""
    WHOLE[name].write(tmp_path / "net")
    before = logits_of(chiasm.load(tmp_path / "net"), pictures((40, 60)), "what")
    export(tmp_path / "net", "run", tmp_path / "run", torch.device("cpu"))
    (tmp_path / "net").rename(tmp_path / "gone")
    assert torch.equal(before, logits_of(chiasm.load(tmp_path / "run"), pictures((40, 60)), "what"))
    with pytest.raises(InputError, match="in the layout of LLaVA"):
        export(tmp_path / "run", "hugging_face", tmp_path / "out", torch.device("cpu"))
