"""Eight-bit weights for writing: products by a slow loop, when they are made anew, and that nothing else changes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from chiasm.core.device import has_int8
from chiasm.models import int8
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.int8 import MANY_ROWS, STEP, Int8Weights
from chiasm.models.lora import LoraLinear, add_lora, without_lora
from chiasm.models.rounded_weights import rounded
from chiasm.pipeline.pipeline import Pipeline
from tiny_talker import talking_config, write_language_model

WIDTH = 32
needs_vnni = pytest.mark.skipif(not has_int8(), reason="sums of bytes would saturate on this machine")


def network(rank: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two layers, one with a bias; low-rank changes that are not zero."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, 20, bias=False))
    made.to(dtype)
    if rank:
        add_lora(made, ("",), rank, 8.0, is_kept=True)
        for layer in made.modules():
            if isinstance(layer, LoraLinear):
                nn.init.normal_(layer.lora_b, std=0.3)
    return made.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("count", [6, 12])
def test_products(dtype: torch.dtype, rank: int, count: int) -> None:
    """Those of the rounded matrix with its low-rank change; of few tokens, alone bitwise as in a batch."""
    made = network(rank, dtype)
    x = torch.randn(count, 4, WIDTH).to(dtype)
    first = made[0]
    matrix = first.weight.double()
    if isinstance(first, LoraLinear):
        matrix = matrix + first.scale * (first.lora_b.double() @ first.lora_a.double())
    values, scale = rounded(matrix)
    expected = x.double() @ (values.double() * scale.double()[:, None]).T + first.bias.double()
    with Int8Weights(made).used():
        found = first(x)
        alone = torch.stack([first(one[None])[0] for one in x])
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
    is_few = count * 4 < MANY_ROWS
    assert torch.equal(alone, found) if is_few else torch.allclose(alone, found, rtol=2e-2, atol=1e-2)


@needs_vnni
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_words_are_exact_and_alone_as_in_a_batch(
    dtype: torch.dtype, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a lost half of an input, a wrong step, a row of zeros, and another rounding of many tokens."""
    monkeypatch.setattr(int8, "MANY_OUTPUTS", 48)
    made = nn.Sequential(nn.Linear(WIDTH, 48, bias=has_bias)).to(dtype).requires_grad_(False)
    x = (torch.randn(MANY_ROWS + 8, WIDTH) * torch.logspace(-3, 3, MANY_ROWS + 8)[:, None]).to(dtype)
    x[5] = 0
    values, scale = rounded(made[0].weight)
    expected = x.double() @ (values.double() * scale.double()[:, None]).T
    expected += made[0].bias.double() if has_bias else 0
    with Int8Weights(made).used():
        found = made(x)
        assert torch.equal(found, torch.cat([made(row[None]) for row in x]))
    assert found.dtype == dtype
    error = (found.double() - expected).abs().amax(1) / (x.double().abs().amax(1) + has_bias).clamp_min(1e-9)
    within = 1e-4 if dtype == torch.float32 else 0.03
    assert float(error.max()) < within and torch.equal(found[5], expected[5].to(dtype))


def test_afterwards_the_network_is_its_own() -> None:
    """Bit for bit, also after an error within the block."""
    made, x = network(2), torch.randn(3, WIDTH)
    before = made(x)
    weights = Int8Weights(made)

    def fail_within() -> None:
        with weights.used():
            assert not torch.equal(made(x), before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert torch.equal(made(x), before)


def test_a_width_that_the_kernel_cannot_read_keeps_its_weights() -> None:
    """It would read behind the end."""
    layer = nn.Linear(STEP + 1, 4).requires_grad_(False)
    x = torch.randn(2, STEP + 1)
    before = layer(x)
    with Int8Weights(nn.Sequential(layer)).used():
        assert torch.equal(layer(x), before)


def test_a_change_is_noticed() -> None:
    """A step of an optimiser, loaded weights, and a switch of the low-rank changes."""
    made = network(2)
    weights = Int8Weights(made)
    assert weights.is_current
    with without_lora(made):
        assert not weights.is_current
    assert weights.is_current
    with torch.no_grad():
        made[2].lora_b.add_(1e-3)
    assert not weights.is_current
    weights = Int8Weights(made)
    made.load_state_dict(made.state_dict())
    assert not weights.is_current


def speaking(folder: Path, **keys: str) -> LanguageModel:
    """The language model of a pipeline."""
    pipeline = Pipeline.build(talking_config(folder, **keys), [], torch.device("cpu"))
    language = pipeline.model.language
    assert isinstance(language, LanguageModel)
    return language


def test_a_language_model_writes_with_them(tmp_path: Path) -> None:
    """Where it is kept in bf16, or where it is told to; its likelihoods stay those of its own weights."""
    folder = write_language_model(tmp_path / "tiny")
    ids = torch.arange(12)[None]
    for keys, is_int8 in (
        ({"precision": "bf16"}, True),
        ({"precision": "bf16", "writing_weights": "own"}, False),
        ({"precision": "fp32"}, False),
        ({"precision": "fp32", "writing_weights": "int8"}, True),
    ):
        language = speaking(folder, **keys)
        with torch.no_grad():
            before = language.states(language.embed(ids), None, ids)
            with language.writing():
                within = language.states(language.embed(ids), None, ids)
            after = language.states(language.embed(ids), None, ids)
        assert torch.equal(before, after)
        assert torch.equal(before, within) != is_int8
        assert torch.nn.functional.cosine_similarity(before.float(), within.float(), dim=-1).min() > 0.99
