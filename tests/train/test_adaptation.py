"""Low-rank changes that merge, towers that stay, and layers that learn at their own rate."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.multilingual_use import MultilingualUSE
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.models.lora import LoraLinear, add_lora, merge_lora
from chiasm.recipes.table import find_recipe
from chiasm.train.adaptation import adaptable, adapted, by_depth, depths, prepare_model, rate_factor, stated_layers
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.optimizer import build_optimizer


def test_a_low_rank_change_starts_at_nothing_and_merges() -> None:
    """Guards against a start away from the pre-trained model, a wrong scale, and a merge that changes answers."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).double()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    changed = LoraLinear(layer, rank=2, alpha=3.0)
    assert torch.equal(changed(x), layer(x))
    with torch.no_grad():
        changed.lora_b.normal_()
    by_hand = x @ (layer.weight + 1.5 * changed.lora_b @ changed.lora_a).T + layer.bias
    torch.testing.assert_close(changed(x), by_hand)
    torch.testing.assert_close(changed.merged()(x), by_hand)
    assert type(changed.merged()) is nn.Linear


def test_only_linear_layers_of_the_named_towers_change() -> None:
    """Guards against a change of heads, names that checkpoints do not know, and a tower that is left out."""
    model = nn.ModuleDict(
        {
            "image_encoder": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))),
            "text_encoder": nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4, bias=False)),
            "head": nn.Linear(4, 2),
        }
    )
    names = set(model.state_dict())
    x = torch.randn(2, 4)
    before = model["text_encoder"][1](x)
    assert add_lora(model, ("image_encoder.", "text_encoder."), rank=2, alpha=4.0) == 3
    added = set(model.state_dict()) - names
    assert added == {
        f"{place}.lora_{side}" for place in ("image_encoder.1", "image_encoder.2.0", "text_encoder.1") for side in "ab"
    }
    train = TrainConfig(adapt="lora")
    kept = adaptable([name for name, _ in model.named_parameters()], train)
    assert set(kept) == added | {"head.weight", "head.bias"}
    merge_lora(model)
    assert set(model.state_dict()) == names and torch.equal(model["text_encoder"][1](x), before)


NAMES = [
    "image_encoder.stem.weight",
    "image_encoder.blocks.0.weight",
    "image_encoder.blocks.1.weight",
    "image_encoder.norm.weight",
    "text_encoder.model.embeddings.word.weight",
    "text_encoder.model.encoder.layer.0.attention.weight",
    "text_encoder.model.encoder.layer.11.attention.weight",
    "logit_scale",
]


def test_depths_count_layers_from_the_top() -> None:
    """Guards against a stem that learns as fast as the top, and against heads that are slowed down."""
    assert list(depths(NAMES, {}).values()) == [3, 2, 1, 0, 13, 12, 1, 0]
    assert dict(by_depth(NAMES, TrainConfig(), {})) == {0: NAMES}
    grouped = by_depth(NAMES, TrainConfig(layer_decay=0.5), {})
    assert sorted(name for names in grouped.values() for name in names) == sorted(NAMES) and set(grouped) == {
        0, 1, 2, 3, 12, 13
    }  # fmt: skip


def test_a_tower_says_which_layers_lie_side_by_side() -> None:
    """Guards against numbers that are no heights: its n-grams are parallel, `deep` lies above them."""
    model = nn.Module()
    model.text_encoder = MultilingualUSE(4)
    names = [name for name, _ in model.named_parameters()]
    found = depths(names, stated_layers(model))
    assert set(found) == set(names) and set(found.values()) == set(range(1, 8))
    assert found["text_encoder.words.weight"] == 7 and found["text_encoder.deep.3.weight"] == 1
    assert {depth for name, depth in found.items() if ".grams." in name} == {6}
    assert found["text_encoder.shortcuts.1.weight"] == found["text_encoder.deep.2.weight"] == 2
    half = build_optimizer(model, names, TrainConfig(layer_decay=0.5))
    assert {group["depth"] for group in half.param_groups} == set(range(1, 8))


def test_rates_fall_with_depth_and_layers_wake_from_the_top() -> None:
    """Guards against a decay in the wrong direction, and against layers that never wake."""
    decaying = TrainConfig(layer_decay=0.5)
    assert [rate_factor(depth, 0, decaying) for depth in (0, 1, 3)] == [1, 0.5, 0.125]
    gradual = TrainConfig(unfreeze_every=10)
    awake = [[rate_factor(depth, step, gradual) for depth in (0, 1, 2)] for step in (0, 9, 10, 20)]
    assert awake == [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("word", "image", "text"),
    [
        ("", True, True),
        ("full", False, False),
        ("projection", True, True),
        ("locked_image", True, False),
        ("locked_text", False, True),
        ("lora", True, False),
    ],
)
def test_one_word_says_which_tower_is_frozen(word: str, image: bool, text: bool) -> None:
    """Guards against a word that freezes the wrong tower; EfficientNet has no linear layer for "lora" to change."""
    config = find_recipe("flickr8k_retrieval")
    model = adapted(replace(config, train=replace(config.train, adapt=word))).model
    assert (model.image.frozen, model.text.frozen) == (image, text)


def test_lora_without_a_linear_layer_is_refused() -> None:
    """Guards against a run that trains the heads alone and calls it lora."""
    config = RunConfig(recipe="x", train=TrainConfig(adapt="lora"))
    model = replace(config.model, image=ConvConfig(frozen=True), text=TransformerTextConfig(frozen=True))
    with pytest.raises(InputError, match="no tower has a linear layer"):
        prepare_model(nn.ModuleDict({"image_encoder": nn.Linear(2, 2)}), replace(config, model=model))
