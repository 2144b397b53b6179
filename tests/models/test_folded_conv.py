"""Convolutions that are folded once: against the plain way, alone as in a batch, folded anew when weights change."""

import copy

import pytest
import torch
import torch.nn.functional as F

from chiasm.models.encoders import efficientnet_lite
from chiasm.models.encoders.efficientnet_lite import ConvNorm, EfficientNetLite, pad_same
from chiasm.models.folded_conv import FoldedConv, is_fused

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN")


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 8), (5, 1, 8), (3, 2, 1), (5, 2, 8)])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 9), (7, 5), (2, 3)])
def test_same_as_a_padded_convolution(kernel: int, stride: int, groups: int, size: tuple[int, int]) -> None:
    """Guards against an image that is shifted by a pixel at a stride, and weights packed for another size."""
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 8 // groups, kernel, kernel), torch.randn(8)
    made = FoldedConv(weight, bias, stride, groups, activate=True)
    for rows in (3, 1, 5):
        x = torch.randn(rows, 8, *size).contiguous(memory_format=torch.channels_last)
        padded = pad_same(x, kernel, stride).double()
        expected = F.conv2d(padded, weight.double(), bias.double(), stride, groups=groups).clamp(0, 6)
        with torch.no_grad():
            found = made(x)
        assert found.shape == expected.shape and torch.allclose(found.double(), expected, atol=1e-5)


def test_a_tower_is_the_same_alone_and_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against features that differ from those that a run was trained on, or with the rest of the batch."""
    torch.manual_seed(0)
    tower = EfficientNetLite().eval()
    image = torch.rand(5, 3, 70, 65) * 2 - 1
    with torch.no_grad():
        now = tower(image)
        assert all(torch.equal(tower(image[:count]).pooled, now.pooled[:count]) for count in (2, 3, 4))
        assert torch.equal(copy.deepcopy(tower)(image).pooled, now.pooled)
        monkeypatch.setattr(efficientnet_lite, "is_fused", lambda x: False)
        before = tower(image)
    for one, other in ((now.values, before.values), (now.pooled, before.pooled)):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_folded_again_when_a_weight_changes() -> None:
    """Guards against a tower that answers with the weights of before a training step, or of another run."""
    torch.manual_seed(0)
    layer = ConvNorm(4, 4, 3)
    x = torch.randn(2, 4, 6, 6)
    for change in (
        lambda: layer.conv.mul_(-1),
        lambda: layer.running_var.mul_(2),
        lambda: layer.load_state_dict({name: tensor + 1 for name, tensor in layer.state_dict().items()}),
    ):
        with torch.no_grad():
            before = layer(x)
            assert is_fused(x)
            change()
            now = layer(x)
        assert not is_fused(x) and not torch.equal(now, before)
        assert torch.allclose(now, layer(x), atol=1e-5)  # with gradients it is computed the plain way
