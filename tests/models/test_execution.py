"""Number formats of a model's parts: what a machine can, what a copy in bf16 returns, and that formats can be left."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.device import has_int8
from chiasm.core.types import TextTokens
from chiasm.models.config import ModelConfig
from chiasm.models.execution import Execution, Format, formats_of
from chiasm.models.heads import FusedClasses
from chiasm.models.vision_language import AssembledVLM, Parts


def test_a_machine_without_instructions_has_no_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against sums of bytes that saturate on an old CPU, and bf16 by emulation; a GPU has ways of its own."""
    for known, expected in (
        ({}, ()),
        ({"avx2": True, "avx512_f": True}, ()),
        ({"avx512_vnni": True}, ("int8",)),
        ({"avx_vnni": True, "avx512_bf16": True}, ("int8", "bf16")),
        ({"amx_bf16": True}, ("bf16",)),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert formats_of(torch.device("cpu")) == expected
    assert formats_of(torch.device("cuda")) == ()


class QuickTower(torch.nn.Module):
    """A tower with a quicker way to its vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def vectors(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * 2


def test_the_quicker_way_to_vectors_is_in_the_format_too() -> None:
    """Guards against CLIP's text vectors in fp32 under a plan that says bf16."""
    torch.manual_seed(0)
    model = AssembledVLM(ModelConfig(heads=4), Parts(50, "softmax", {})).eval()
    model.text_encoder = tower = QuickTower()
    x = torch.randn(3, 64)
    with torch.no_grad():
        before = tower.vectors(x)
        made = Execution(model)
        made.use("text", "bf16")
        now = tower.vectors(x)
        expected = (tower.layer.weight.bfloat16() @ x.bfloat16().T).T + tower.layer.bias.bfloat16()
        assert now.dtype == torch.float32 and not torch.equal(now, before)
        torch.testing.assert_close(now, 2 * expected.float(), atol=0.03, rtol=0.02)
        made.use_fp32()
        assert torch.equal(tower.vectors(x), before)


@pytest.mark.parametrize(
    "form", ["bf16", pytest.param("int8", marks=pytest.mark.skipif(not has_int8(), reason="VNNI"))]
)
def test_every_part_is_close_in_a_format_and_itself_again_after_it(form: Format) -> None:
    """Guards against a part that still computes in fp32, outputs in another format, and one that keeps its format."""
    torch.manual_seed(0)
    model = AssembledVLM(ModelConfig(heads=4), Parts(50, "softmax", {"vqa": FusedClasses(5)})).eval()
    image, text = torch.rand(3, 3, 48, 48), TextTokens(torch.randint(0, 50, (3, 16)), torch.ones(3, 16) > 0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            encoded = {"image": model.encode_image(image)}
            fused = model.ask(encoded, text, torch.arange(3), torch.arange(3))
            return [encoded["image"].values, encoded["image"].pooled, model.encode_text(text).pooled, fused.pooled]

    made, before = Execution(model), outputs()
    assert set(made.parts) == {"image", "text", "fusion"} and not made.of_embeddings
    for name, changed in (("image", [0, 1, 3]), ("text", [2, 3]), ("fusion", [3])):
        made.use(name, form)
        now = outputs()
        assert all(one.dtype == torch.float32 for one in now)
        assert [place for place in range(4) if not torch.equal(now[place], before[place])] == changed
        for one, other in zip(now, before, strict=True):
            assert float(F.cosine_similarity(one.flatten(1), other.flatten(1)).min()) > 0.999
        assert made.suffix(name) == f"-{form}" and made.of_embeddings == ({"image": form} if name == "image" else {})
        made.use(name, "fp32")
        assert all(torch.equal(*pair) for pair in zip(outputs(), before, strict=True)) and made.suffix(name) == ""
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


class Tower(nn.Module):
    """A text tower with a shorter way to its pooled vector, as CLIP's has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.layer(text)

    def vectors(self, text: torch.Tensor) -> torch.Tensor:
        return self.layer(text)[:, 0]


@pytest.mark.parametrize(
    "form", ["bf16", pytest.param("int8", marks=pytest.mark.skipif(not has_int8(), reason="VNNI"))]
)
def test_the_shorter_way_is_in_the_format_too(form: Format) -> None:
    """Guards against vectors in fp32 of a tower whose cache key says another format."""
    torch.manual_seed(0)
    model = AssembledVLM(ModelConfig(), Parts(50, "softmax")).eval()
    model.text_encoder = Tower().eval()
    text, made = torch.randn(3, 4, 64), Execution(model)
    with torch.no_grad():
        before = model.text_encoder.vectors(text)
        made.use("text", form)
        now = model.text_encoder.vectors(text)
        assert now.dtype == torch.float32 and not torch.equal(now, before)
        assert torch.equal(now, model.text_encoder(text)[:, 0])
        made.use("text", "fp32")
        assert torch.equal(model.text_encoder.vectors(text), before)
