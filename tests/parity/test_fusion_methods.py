"""Fusion methods against transformers with the same weights, and against their equations written out in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion import FUSIONS
from chiasm.models.fusion.align_then_fuse import AlignThenFuse
from chiasm.models.fusion.base import Fusion, FusionShape
from chiasm.models.fusion.co_attention import CoAttentionFusion
from chiasm.models.fusion.merged_attention import MergedAttentionFusion
from chiasm.models.fusion.resampler import QUERIES, ResamplerFusion
from chiasm.models.fusion.shared_sum import SharedSum
from chiasm.models.transformer import Attention, Block, masked_mean

DIM, HEADS = 12, 3
INDEX = torch.tensor([1, 0, 1])
SHAPE = FusionShape(DIM, 2, HEADS, mlp_ratio=2.0)


def tokens(lengths: list[int], seed: int) -> Tokens:
    values = torch.randn(
        len(lengths), max(lengths), DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    is_real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Tokens(values, is_real, masked_mean(values, is_real))


def inputs() -> dict[str, Tokens]:
    """Three texts about two pictures (`INDEX`)."""
    return {"text": tokens([4, 2, 1], 0), "image": tokens([3, 5], 1)}


def build(name: str, shape: FusionShape = SHAPE) -> Fusion:
    """In float64, with random norms and biases too: with ones and zeros a lost one would not be seen."""
    fusion = FUSIONS[name](shape).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(fusion.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.4)
    return fusion


def attention(layer: Attention, query: Tensor, context: Tensor) -> Tensor:
    """One query [d] looks at context tokens [k, d], head by head."""
    width, (key, value) = DIM // HEADS, layer.key_value(context).split(DIM, dim=-1)
    asked, mixed = layer.query(query), []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = torch.stack([asked[part] @ one[part] for one in key]) / math.sqrt(width)
        weights = scores.exp() / scores.exp().sum()
        mixed.append(sum(weight * one[part] for weight, one in zip(weights, value, strict=True)))
    return layer.out(torch.cat(mixed))


def self_attention_and_mlp(block: Block, x: Tensor) -> Tensor:
    normed = block.self_norm(x)
    x = x + torch.stack([attention(block.self_attention, one, normed) for one in normed])
    return x + block.mlp(block.mlp_norm(x))


def rows() -> list[tuple[Tensor, Tensor]]:
    """Each row's real words and real picture tokens."""
    given = inputs()
    text, image = given["text"], given["image"].rows(INDEX)
    return [
        (text.values[row][text.is_real[row]], image.values[row][image.is_real[row]]) for row in range(len(text.values))
    ]


def assert_words(fused: Tokens, expected: list[Tensor]) -> None:
    """Values of the real words, one tensor a row, and their mean."""
    for row, words in enumerate(expected):
        torch.testing.assert_close(fused.values[row, : len(words)], words, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fused.pooled[row], words.mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_co_attention_equals_a_loop(layers: int) -> None:
    """Guards against a side that looks at the other after its update, at padding or at another picture.

    And against swapped directions, and orders of cross- and self-attention.
    """
    fusion = build("co_attention", FusionShape(DIM, layers, HEADS, mlp_ratio=2.0))
    assert isinstance(fusion, CoAttentionFusion)
    expected = []
    for words, picture in rows():
        for number, layer in enumerate(fusion.layers):
            looking, seen = layer.text_norm(words), layer.image_norm(picture)
            words = words + torch.stack([attention(layer.text_cross, one, seen) for one in looking])
            words = self_attention_and_mlp(layer.text_block, words)
            if number < layers - 1:
                picture = picture + torch.stack([attention(layer.image_cross, one, looking) for one in seen])
                picture = self_attention_and_mlp(layer.image_block, picture)
        expected.append(fusion.norm(words))
    assert_words(fusion(inputs(), INDEX), expected)


@pytest.mark.parametrize("name", ["cross_attention", "align_then_fuse"])
def test_cross_attention_equals_a_loop(name: str) -> None:
    """Guards against words that look at padding or at another picture, and against tokens that skip the shared map."""
    fusion, expected = build(name), []
    for words, picture in rows():
        if isinstance(fusion, AlignThenFuse):
            words, picture = fusion.to_shared["text"](words), fusion.to_shared["image"](picture)
        for block in fusion.blocks:
            normed = block.self_norm(words)
            words = words + torch.stack([attention(block.self_attention, one, normed) for one in normed])
            crossing = block.cross_norm(words)
            words = words + torch.stack([attention(block.cross_attention, one, picture) for one in crossing])
            words = words + block.mlp(block.mlp_norm(words))
        expected.append(fusion.norm(words))
    assert_words(fusion(inputs(), INDEX), expected)


def test_alignment_is_that_of_the_fused_tokens() -> None:
    """Guards against a contrast in another space than the one fusion starts from: unit vectors of the tokens' mean."""
    fusion, image = build("align_then_fuse"), inputs()["image"]
    assert isinstance(fusion, AlignThenFuse)
    aligned = fusion.align("image", image.pooled)
    assert aligned.dtype == torch.float32
    mapped = masked_mean(fusion.to_shared["image"](image.values), image.is_real)
    torch.testing.assert_close(aligned, (mapped / mapped.norm(dim=-1, keepdim=True)).float())
    assert not torch.allclose(aligned, fusion.align("text", image.pooled)), "each modality has its own map"


def test_the_shared_sum_is_the_one_that_a_contrast_sees() -> None:
    """Guards against a second sum with maps of its own: what answers is the sum that the contrast makes."""
    fusion, given, seen = build("shared_sum"), inputs(), []
    assert isinstance(fusion, SharedSum)
    fusion.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    fusion.mlps = torch.nn.ModuleList()
    fusion(given, INDEX)
    image, text = (fusion.align(name, given[name].pooled) for name in ("image", "text"))
    expected = torch.nn.functional.normalize(image[INDEX] + text, dim=1)
    torch.testing.assert_close(seen[0] / seen[0].norm(dim=1, keepdim=True), expected.to(seen[0].dtype))


def test_the_resampler_equals_a_loop() -> None:
    """Guards against words that look at the picture themselves, and against queries that do not read the words."""
    fusion = build("resampler")
    assert isinstance(fusion, ResamplerFusion)
    fused = fusion(inputs(), INDEX)
    for row, (words, picture) in enumerate(rows()):
        x = torch.cat([words, fusion.queries])
        for wrapped in fusion.blocks:
            block = wrapped.block
            normed = block.self_norm(x)
            x = x + torch.stack([attention(block.self_attention, one, normed) for one in normed])
            crossing = block.cross_norm(x[len(words) :])
            fetched = torch.stack([attention(block.cross_attention, one, picture) for one in crossing])
            x = torch.cat([x[: len(words)], x[len(words) :] + fetched])
            x = x + block.mlp(block.mlp_norm(x))
        x = fusion.norm(x)
        torch.testing.assert_close(fused.values[row, : len(words)], x[: len(words)], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fused.values[row, -QUERIES:], x[len(words) :], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fused.pooled[row], x[len(words) :].mean(0), rtol=1e-9, atol=1e-9)


def test_merged_attention_equals_vilt() -> None:
    """Guards against a lost type embedding, another order of tokens, post-norm, and attention to padding."""
    vilt = pytest.importorskip("transformers.models.vilt.modeling_vilt", reason="needs the extra [hf]")
    transformers = pytest.importorskip("transformers")
    config = transformers.ViltConfig(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=2 * DIM,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-5,
    )  # fmt: skip
    ours, theirs = build("merged_attention"), vilt.ViltEncoder(config).double().eval()
    assert isinstance(ours, MergedAttentionFusion) and ours.join.types is not None
    for block, layer in zip(ours.blocks, theirs.layer, strict=True):
        key, value = (
            part.chunk(2) for part in (block.self_attention.key_value.weight, block.self_attention.key_value.bias)
        )
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (block.self_norm, layer.layernorm_before), (block.mlp_norm, layer.layernorm_after),
            (block.self_attention.query, layer.attention.attention.query),
            (block.self_attention.out, layer.attention.output.dense),
            (block.mlp[0], layer.intermediate.dense), (block.mlp[2], layer.output.dense),
        ]  # fmt: skip
        for mine, other in pairs:
            other.load_state_dict(mine.state_dict())
        for number, other in enumerate((layer.attention.attention.key, layer.attention.attention.value)):
            other.load_state_dict({"weight": key[number], "bias": value[number]})
    text, image = inputs()["text"], inputs()["image"].rows(INDEX)
    types = ours.join.types.weight
    x = torch.cat([text.values + types[0], image.values + types[1]], dim=1)
    is_real = torch.cat([text.is_real, image.is_real], dim=1)
    hidden = theirs(x, torch.where(is_real, 0.0, float("-inf"))[:, None, None].double()).last_hidden_state
    expected = F.layer_norm(hidden, (DIM,), ours.norm.weight, ours.norm.bias)
    fused = ours(inputs(), INDEX)
    torch.testing.assert_close(fused.values[is_real], expected[is_real], rtol=1e-9, atol=1e-9)
    words = masked_mean(expected[:, :4], text.is_real)
    torch.testing.assert_close(fused.pooled, words, rtol=1e-9, atol=1e-9)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return x @ layer.weight.T + layer.bias


def normalise(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def formula(name: str, fusion: Fusion, text: Tensor, image: Tensor) -> Tensor:
    """The method's equation for one text and one picture vector, from the weights in the concatenation's layout."""
    maps = fusion.maps
    joint = torch.cat([text, image])
    if name == "sum":
        return linear(maps["image"], image) + linear(maps["text"], text)
    if name == "bilinear":
        return linear(fusion.out, linear(maps["text"], text).tanh() * linear(maps["image"], image).tanh())
    weight = torch.cat([maps["text"].weight, maps["image"].weight], dim=1)
    bias = maps["text"].bias + maps["image"].bias
    if name == "concat_mlp":
        hidden = weight @ joint + bias
        return linear(fusion.out, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    assert name == "gated"
    gate = 1 / (1 + torch.exp(-(weight[DIM:] @ joint + bias[DIM:])))
    seen = (maps["image"].weight[:DIM] @ image + maps["image"].bias[:DIM]).tanh()
    said = (maps["text"].weight[:DIM] @ text + maps["text"].bias[:DIM]).tanh()
    return gate * seen + (1 - gate) * said


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("name", ["sum", "concat_mlp", "gated", "bilinear"])
def test_pooled_methods_equal_their_equation(name: str, layers: int) -> None:
    """Guards against swapped modalities, a gate on the wrong one, a lost non-linearity and another picture's vector."""
    fusion = build(name, FusionShape(DIM, layers, HEADS, mlp_ratio=2.0))
    given = inputs()
    fused = fusion(given, INDEX)
    for row, picture in enumerate(INDEX.tolist()):
        x = formula(name, fusion, given["text"].pooled[row], given["image"].pooled[picture])
        for mlp in fusion.mlps:
            norm, first, _, second, _ = mlp.layers
            x = x + linear(second, F.gelu(linear(first, normalise(x) * norm.weight + norm.bias)))
        expected = normalise(x) * fusion.norm.weight + fusion.norm.bias
        torch.testing.assert_close(fused.pooled[row], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fused.values[row, 0], expected, rtol=1e-9, atol=1e-9)


def test_film_equals_its_equation() -> None:
    """Guards against swapped gamma and beta, a scale around 0 and not 1, and a maximum over padding."""
    fusion, given = build("film"), inputs()
    fused = fusion(given, INDEX)
    for row, (_, picture) in enumerate(rows()):
        found = []
        for x in picture:
            for block in fusion.blocks:
                hidden = F.gelu(linear(block.first, x))
                modulation = linear(block.condition, given["text"].pooled[row])
                gamma, beta = modulation[:DIM], modulation[DIM:]
                x = hidden + F.gelu((1 + gamma) * normalise(linear(block.second, hidden)) + beta)
            found.append(x)
        highest = torch.stack(found).max(0).values
        expected = normalise(highest) * fusion.norm.weight + fusion.norm.bias
        torch.testing.assert_close(fused.pooled[row], expected, rtol=1e-9, atol=1e-9)
