"""The image tokenizer: codes and images, the three parts of its training, and what a step collects."""

import copy

import pytest
import torch
from torch import Tensor

from chiasm.core.config import from_dict, override, to_dict
from chiasm.core.errors import InputError
from chiasm.models.codebooks import QUANTIZERS
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.image_codes import CodedTokens, ImageCodes, ImageCodesConfig, pixels_of
from chiasm.models.stepwise import finish_step

SHAPE = EncoderShape(dim=16, heads=2)


def tower(kind: str = "vector", continuous_steps: int = 3, **keys: int) -> ImageCodes:
    torch.manual_seed(0)
    sizes = {
        "size_px": 16,
        "width_px": 24,
        "stride_px": 4,
        "width": 32,
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        **keys,
    }
    quantizer = QUANTIZERS[kind]()
    if quantizer.reads_pixels:
        sizes["encoder_blocks"] = 0
    found = ImageCodesConfig(**sizes, continuous_steps=continuous_steps, quantizer=quantizer).build(SHAPE)
    assert isinstance(found, ImageCodes)
    return found


def pictures(count: int = 12, seed: int = 0) -> Tensor:
    """Smooth images in [-1, 1], of which principal components keep most."""
    coarse = torch.rand(count, 3, 3, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(16, 24), mode="bilinear") * 2 - 1


def trained(kind: str, steps: int) -> ImageCodes:
    """A tower after steps without an optimiser: what changes is what `finish_step` changes."""
    found = tower(kind).train()
    for step in range(steps):
        found(pictures(seed=step))
        finish_step(found, found)
    return found.eval()


def error(found: ImageCodes, image: Tensor, values: Tensor) -> float:
    return float((pixels_of(found.decode(values)) - (image + 1) / 2).square().mean().detach())


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_codes_and_images_belong_together(kind: str) -> None:
    """Guards against ids that come back otherwise from cached tokens, or a decoder that sees other vectors than ids."""
    found = trained(kind, 4)
    tokens = found(pictures())
    assert isinstance(tokens, CodedTokens) and found.cells == (4, 6) and tokens.values.shape == (12, 24, found.dim)
    assert found.grid == (4, 6 * len(found.part_codes))
    ids = found.ids(pictures())
    assert torch.equal(tokens.ids, ids) and int(ids.max()) < found.codes
    cached = tokens.values.half()
    assert torch.equal(found.ids_of(cached.float()), ids) and torch.equal(found.ids_of(cached.bfloat16()), ids)
    image = found.pixels(ids)
    assert image.shape == (12, 3, 16, 24) and float(image.min()) >= 0 and float(image.max()) <= 1
    assert torch.equal(image, pixels_of(found.decode(tokens.values)))


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_the_first_step_starts_a_linear_autoencoder(kind: str) -> None:
    """Guards against components in another order of pixels than the convolutions read and write them."""
    before, after = tower(kind).train(), tower(kind).train()
    after(pictures())
    finish_step(after, after)
    image = pictures(seed=5)
    errors = [error(one, image, one(image).values) for one in (before, after)]
    # Rounded numbers are bounded by a hyperbolic tangent, which is not linear.
    assert errors[1] < (0.012 if kind == "fsq" else 0.003) < 0.03 < errors[0]


def test_the_codes_start_when_the_continuous_steps_end() -> None:
    """Guards against codes that start late or twice, or from vectors of random weights."""
    found = tower().train()
    for step in range(3):
        tokens = found(pictures(seed=step))
        assert not found.has_started and not tokens.penalty.any()
        assert not torch.equal(tokens.values.flatten(0, 1), found.quantizer.vectors(tokens.ids.flatten()))
        finish_step(found, found)
    assert found.has_started
    tokens = found(pictures(seed=2))
    assert torch.equal(tokens.values.flatten(0, 1), found.quantizer.vectors(tokens.ids.flatten()))
    assert error(found, pictures(seed=2), tokens.values) < 0.01
    assert len(tokens.ids.unique()) > 20


def test_a_step_in_parts_is_a_step_of_the_whole() -> None:
    """Guards against moving averages of one part of an accumulated step, and vectors that stay for the next step."""
    whole, parts = tower().train(), tower().train()
    for step in range(6):
        image = pictures(seed=step)
        whole(image)
        for part in image.split(4):
            parts(part)
        finish_step(whole, whole)
        finish_step(parts, parts)
    assert not parts._seen and int(parts.steps) == 6
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.double(), parts.state_dict()[name].double(), atol=1e-4), name


def test_the_copy_that_computes_collects_for_the_weights_that_are_kept() -> None:
    """Guards against a codebook that changes in a bf16 copy alone and is lost with the next rounding."""
    kept = tower().train()
    computing = copy.deepcopy(kept).to(torch.bfloat16)
    for step in range(5):
        computing(pictures(seed=step).bfloat16())
        finish_step(kept, computing)
        computing.load_state_dict(kept.state_dict())
    assert int(computing.steps) == int(kept.steps) == 5 and kept.quantizer.size.sum() > 0
    assert kept.quantizer.book.dtype == torch.float32
    assert error(kept.eval(), pictures(), kept(pictures()).values) < 0.01


def test_only_training_changes_the_tower() -> None:
    """Guards against evaluation that collects, and a frozen tower whose codes move."""
    found = trained("vector", 4)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    found(pictures())
    finish_step(found, found)
    frozen = found.requires_grad_(False).train()
    frozen(pictures())
    finish_step(frozen, frozen)
    assert not found._seen
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())


def test_a_step_without_images_does_not_count() -> None:
    """Guards against a start that such a step leaves out for good, in a run of several tasks."""
    found, other = tower().train(), tower().train()
    for step in range(5):
        for one in (found, other):
            one(pictures(seed=step))
            finish_step(one, one)
        finish_step(found, found)
    assert int(found.steps) == 5
    for name, value in found.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_images_of_one_colour_are_no_error(kind: str) -> None:
    """Guards against components without variance, and k-means without a second vector."""
    found = tower(kind, encoder_blocks=0).train()
    for _ in range(5):
        found(torch.full((2, 3, 16, 24), 0.5))
        finish_step(found, found)
    assert all(bool(value.isfinite().all()) for value in found.state_dict().values())
    ids = found.eval().ids(torch.full((2, 3, 16, 24), 0.5)).view(-1, len(found.part_codes))
    assert len(ids.unique(dim=0)) == 1


def test_the_config_is_read_and_refuses_what_does_not_fit() -> None:
    """Guards against keys of another quantiser, and images that a grid of codes does not cover."""
    typed = ["image.kind=image_codes", "image.quantizer.kind=fsq", "image.quantizer.levels=4,4", "image.stride_px=4"]
    config = override(ModelConfig(), typed)
    assert from_dict(ModelConfig, to_dict(config)) == config
    image = config.image
    assert isinstance(image, ImageCodesConfig) and image.grid_of(0) == (12, 12)
    assert image.build(SHAPE).codes == 16
    with pytest.raises(InputError, match="means something for"):
        override(config, ["image.quantizer.decay=0.9"])
    for wrong in ({"stride_px": 3}, {"stride_px": 32}, {"size_px": 44}, {"continuous_steps": 1}, {"width": 0}):
        with pytest.raises(InputError, match=r"model\.image\."):
            ImageCodesConfig(**wrong).check()
