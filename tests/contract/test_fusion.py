"""The fusion contract over every fusion method."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.checks import check_fusion
from chiasm.models.config import FusionName, ModelConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.models.fusion import FUSIONS, build_fusion
from chiasm.models.fusion.base import Fusion, FusionInputs, FusionShape, Join, take
from chiasm.models.transformer import masked_mean

TWO, THREE = ("text", "image"), ("text", "image", "radar")
SHAPES = {
    "two modalities": FusionShape(16, 2, 2),
    "one layer, narrow": FusionShape(16, 1, 4, mlp_ratio=1.5),
    "three modalities": FusionShape(16, 2, 2, modalities=THREE),
    "summary tokens": FusionShape(16, 2, 2, summary_tokens=3, modalities=THREE),
}
WORD_METHODS = {"cross_attention", "co_attention", "merged_attention", "align_then_fuse"}


def tokens(seed: int, lengths: list[int], longest: int) -> Tokens:
    values = torch.randn(len(lengths), longest, 16, generator=torch.Generator().manual_seed(seed))
    is_real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return Tokens(values, is_real, masked_mean(values, is_real))


def inputs(shape: FusionShape) -> dict[str, Tokens]:
    text = tokens(0, [3, 3, 3], 3) if shape.summary_tokens else tokens(0, [5, 2, 1], 5)
    given = {"text": text, "image": tokens(1, [7, 3, 6], 7), "radar": tokens(2, [1, 4, 2], 4)}
    return {name: given[name] for name in shape.modalities}


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_the_contract_holds(name: str, shape: str) -> None:
    """Guards every fusion method against the bugs named in `check_fusion`."""
    torch.manual_seed(0)
    check_fusion(FUSIONS[name](SHAPES[shape]), inputs(SHAPES[shape]))


def test_every_word_of_the_config_has_its_method() -> None:
    """Guards against a method that cannot be chosen, or a word without one; the file is called like the word."""
    assert set(FUSIONS) == set(get_args(FusionName))
    assert all(method.__module__ == f"chiasm.models.fusion.{name}" for name, method in FUSIONS.items())


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_the_config_builds_what_it_says(name: str) -> None:
    """Guards against fields of the config that are swapped or lost on the way to the method."""
    text = TransformerTextConfig(summary_tokens=3)
    config = ModelConfig(
        dim=16,
        heads=4,
        fusion=name,
        fusion_layers=3,
        fusion_mlp_ratio=1.5,
        dropout=0.2,
        modality_dropout=0.1,
        text=text,
    )
    fusion = build_fusion(config, THREE)
    assert type(fusion) is FUSIONS[name]
    assert fusion.shape == FusionShape(16, 3, 4, 1.5, 0.2, 3, 0.1, THREE)
    assert fusion.token_dim == 16 and fusion.dim == (48 if name in WORD_METHODS else 16)
    rates = {module.p for module in fusion.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.2}, "each residual branch drops at the config's rate"


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_nonsense_is_refused(name: str) -> None:
    """Guards against a model that trains although its modalities never meet, or that hides all of them."""
    with pytest.raises(InputError, match="modality_dropout"):
        FUSIONS[name](replace(SHAPES["two modalities"], modality_dropout=1.0))
    with pytest.raises(InputError, match="fusion_layers"):
        FUSIONS[name](replace(SHAPES["two modalities"], layers=FUSIONS[name].least_layers - 1))


class Broken(Fusion):
    """Adds the pictures' means to every word, with one bug."""

    keeps_words = True

    def __init__(self, bug: str) -> None:
        super().__init__(FusionShape(16, 1, 1))
        self.bug = bug
        self.keeps_words = bug != "words are refused nothing"
        self.project = nn.Linear(16, 16)
        self.mix = nn.Linear(16, 16)
        self.join = Join(("image",), 16)
        nn.init.eye_(self.project.weight)

    def forward(
        self, tokens: Mapping[str, Tokens], image_index: Tensor | None = None, text_allowed: Tensor | None = None
    ) -> Tokens:
        bug = self.bug
        if bug == "image is needed":
            assert "image" in tokens, "no picture"
        if bug == "index is ignored" and image_index is not None:
            image_index = torch.zeros_like(image_index)
        if bug == "words are refused nothing":
            text_allowed = None
        if bug == "all may be absent" and not tokens:
            tokens = {"text": Tokens(torch.zeros(1, 1, 16), torch.ones(1, 1).bool(), torch.zeros(1, 16))}
        if bug == "nothing is ever hidden":
            was, self.training = self.training, False
            fused = super().forward(tokens, image_index, text_allowed)
            self.training = was
            return fused
        return super().forward(tokens, image_index, text_allowed)

    def fuse(self, given: FusionInputs) -> Tokens:
        text, others, index, text_allowed = given
        values, is_real = self.join(others)
        weight = torch.ones_like(is_real) if self.bug == "image padding counts" else is_real
        picture = take((values * weight[..., None]).sum(1) / weight.sum(1, keepdim=True), index)
        allowed = text.is_real[:, None].expand(-1, text.values.shape[1], -1)
        if text_allowed is not None and self.bug != "text_allowed is ignored":
            allowed = allowed & text_allowed
        if self.bug == "text padding counts":
            allowed = torch.ones_like(allowed)
        mean = (allowed.to(values.dtype) @ self.mix(text.values)) / allowed.sum(-1, keepdim=True).clamp_min(1)
        x = self.project(text.values) + mean
        if self.bug != "image is ignored":
            x = x + 3 * picture[:, None]
        if self.bug == "words are turned round":
            x = torch.where(text.is_real.all(1)[:, None, None], x.flip(1), x)
        return Tokens(x, text.is_real, masked_mean(x, text.is_real))


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("image is ignored", "image has no influence|image gets no gradient"),
        ("image padding counts", "image"),
        ("text padding counts", "text"),
        ("image is needed", "no picture"),
        ("index is ignored", "an index"),
        ("all may be absent", "without any modality is accepted"),
        ("nothing is ever hidden", "modality dropout keeps"),
        ("text_allowed is ignored", "seen from where it may not"),
        ("words are turned round", "text token . moves the value at . most"),
        ("words are refused nothing", "text_allowed is ignored by"),
    ],
)
def test_the_contract_finds_a_broken_method(bug: str, message: str) -> None:
    """The null control: a check that nothing can fail proves nothing."""
    torch.manual_seed(0)
    check_fusion(Broken(""), inputs(SHAPES["two modalities"]))
    with pytest.raises(AssertionError, match=message):
        check_fusion(Broken(bug), inputs(SHAPES["two modalities"]))
