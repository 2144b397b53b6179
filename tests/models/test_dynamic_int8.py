"""Weights and inputs of eight bits: products by slow integers, alone as in a batch, and MLPs by their parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.device import has_int8
from chiasm.models.dynamic_int8 import Int8Network, Int8Product, int8_weights
from chiasm.models.lora import LoraLinear, add_lora
from chiasm.models.rounded_weights import rounded
from chiasm.models.transformer import Block

needs_vnni = pytest.mark.skipif(not has_int8(), reason="sums of bytes would saturate on this machine")
WIDTH, OUT = 80, 48


def slow_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Integers of 64 bits: each row of both in multiples of its largest number / 127."""
    rows = []
    integers, scale = rounded(weight)
    for row in x.double():
        step = float(row.abs().max()) / 127 or 1.0
        inputs = torch.tensor([int(float(one) / step + 128.5) - 128 for one in row])
        rows.append((integers.long() @ inputs).double() * scale.double() * step + bias.double())
    return torch.stack(rows)


@needs_vnni
def test_products_by_slow_integers() -> None:
    """Guards against a wrong offset of the unsigned bytes, a wrong scale, and a row of zeros that divides by zero."""
    torch.manual_seed(0)
    weight, bias, x = (
        torch.randn(OUT, WIDTH),
        torch.randn(OUT),
        torch.randn(9, WIDTH) * torch.logspace(-3, 3, 9)[:, None],
    )
    x[4] = 0
    product = Int8Product(weight, bias)
    found, expected = product.times(product.round(x)), slow_product(x, weight, bias)
    # An input that lies in the middle of two integers may become either.
    error = (found.double() - expected).abs().amax(1) / (1e-3 + x.double().abs().amax(1))
    assert torch.allclose(found[4], bias) and float(error.max()) < 0.05
    assert float((found.double() - expected).abs().median()) < 1e-4


@needs_vnni
def test_integers_of_a_compressed_run_come_back() -> None:
    """Guards against weights that are rounded twice: multiples of a scale are those very integers."""
    integers = torch.randint(-127, 128, (OUT, WIDTH))
    integers[:, 0] = 127
    steps = torch.rand(OUT, 1) + 0.01
    assert torch.equal(rounded(integers * steps)[0].long(), integers)


@needs_vnni
@pytest.mark.parametrize("threads", [1, 2])
def test_alone_is_bitwise_as_in_a_batch(threads: int) -> None:
    """Guards against scales of a whole batch: a token's numbers depend on no other token, whatever the count."""
    torch.manual_seed(0)
    block = Block(96, 4).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            eight = Int8Network(block.mlp)
            eight.put_in()
            x = torch.randn(70, 96)
            whole = block.mlp(x)
            for count in (1, 2, 3, 5, 7, 33):
                assert torch.equal(block.mlp(x[:count]), whole[:count]), count
    finally:
        torch.set_num_threads(before)


class QuickGELUActivation(nn.Module):
    """As transformers names CLIP's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """An MLP with the names of transformers' towers of images."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(96, 192), activation, nn.Linear(192, 96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


@needs_vnni
@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU(approximate="tanh"), QuickGELUActivation(), nn.ReLU()])
def test_mlps_by_their_layers(activation: nn.Module) -> None:
    """Guards against a wrong constant of an activation within the products, and against one that is not known here."""
    torch.manual_seed(0)
    mlp = Mlp(activation).eval()
    x = torch.randn(5, 6, 96)
    with torch.no_grad():
        plain = mlp(x)
        eight = Int8Network(mlp)
        eight.put_in()
        found = mlp(x)
        eight.take_out()
        assert torch.equal(mlp(x), plain)
    assert found.shape == plain.shape and not torch.equal(found, plain)
    assert float(F.cosine_similarity(found.flatten(0, 1), plain.flatten(0, 1)).min()) > 0.9995


@needs_vnni
def test_a_changed_input_is_rounded_again() -> None:
    """Guards against bytes of a tensor that was overwritten: queries, keys and values share those of one input."""
    layers = nn.ModuleList([nn.Linear(64, 32), nn.Linear(64, 32)])
    eight = Int8Network(layers)
    eight.put_in()
    x = torch.randn(3, 64)
    with torch.no_grad():
        layers[0](x)
        x.mul_(-2)
        assert torch.equal(layers[1](x), layers[1](x.clone()))


@needs_vnni
def test_patches_and_low_rank_changes() -> None:
    """Guards against a window that is cut in another order, and a low-rank change that is left out."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.Flatten(2), nn.Linear(4, 4), nn.Linear(64, 16))
    add_lora(made, ("3",), 2, 8.0, is_kept=True)
    for layer in made.modules():
        if isinstance(layer, LoraLinear):
            nn.init.normal_(layer.lora_b, std=0.3)
    image, x = torch.randn(2, 3, 19, 16), torch.randn(5, 64)
    with torch.no_grad():
        plain = made[0](image), made[3](x)
        assert int8_weights(made) == made[0].weight.numel() + made[3].weight.numel()
        Int8Network(made).put_in()
        for now, before in zip((made[0](image), made[3](x)), plain, strict=True):
            assert now.shape == before.shape
            assert float(F.cosine_similarity(now.flatten(1), before.flatten(1)).min()) > 0.999
