"""An image tokenizer that several processes train has the codes, values and losses that one process has."""

import copy

import pytest
import torch
from several_processes import together
from torch import Tensor

from chiasm.core.shared_draws import seed_step
from chiasm.models.codebooks import QUANTIZERS
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.image_codes import EPSILON, CodedTokens, ImageCodes, ImageCodesConfig
from chiasm.models.stepwise import finish_step
from chiasm.objectives.pixel_loss import background_weights, logit_laplace, reconstruction_loss

STEPS = 6


def pictures(step: int) -> Tensor:
    coarse = torch.rand(6, 3, 3, 3, generator=torch.Generator().manual_seed(step))
    return torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear") * 2 - 1


def train(tower: ImageCodes, rows: list[slice]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Steps without an optimiser, of these rows of each batch; the state and the losses."""
    losses = []
    for step in range(STEPS):
        seed_step("split", step)
        image = pictures(step)[rows[step % len(rows)]]
        tokens = tower(image)
        assert isinstance(tokens, CodedTokens)
        pixels = (image + 1) / 2
        location, log_scale = tower.decode(tokens.values).chunk(2, dim=1)
        each = logit_laplace(location, log_scale, pixels, EPSILON)
        loss = reconstruction_loss(each, background_weights(pixels, 0.5), tokens.penalty)["loss"]
        loss.backward()
        losses.append(loss.detach())
        finish_step(tower, tower)
    return {name: value.detach().clone() for name, value in tower.state_dict().items()}, losses


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_processes_with_unequal_shares_and_none_train_the_same_codes(kind: str) -> None:
    """Guards against moving averages of one process, draws that depend on the split, and a hang without images."""
    torch.manual_seed(0)
    config = ImageCodesConfig(size_px=16, stride_px=4, width=48, continuous_steps=3, quantizer=QUANTIZERS[kind]())
    tower = config.build(EncoderShape(dim=16, heads=2)).train()
    assert isinstance(tower, ImageCodes)
    expected, losses = train(copy.deepcopy(tower), [slice(0, 6)])
    shares = [[slice(0, 0), slice(0, 3)], [slice(0, 4), slice(3, 3)], [slice(4, 6), slice(3, 6)]]
    for state, found in together(3, lambda rank: train(copy.deepcopy(tower), shares[rank])):
        torch.testing.assert_close(found, losses, rtol=1e-3, atol=1e-4)
        for name, value in state.items():
            assert torch.allclose(value.double(), expected[name].double(), rtol=1e-3, atol=1e-3), name
