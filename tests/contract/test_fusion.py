"""The fusion contract over every fusion block."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from chiasm.core.types import Tokens
from chiasm.models.checks import check_fusion
from chiasm.models.fusion.cross_attention import CrossAttentionFusion

FUSIONS: dict[str, Callable[[], nn.Module]] = {
    "cross_attention": lambda: CrossAttentionFusion(16, 2, 2),
    "cross_attention, one layer, narrow": lambda: CrossAttentionFusion(16, 1, 4, mlp_ratio=1.5),
}


def tokens(seed: int, lengths: list[int], longest: int) -> Tokens:
    values = torch.randn(len(lengths), longest, 16, generator=torch.Generator().manual_seed(seed))
    is_real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return Tokens(values, is_real, values.mean(1))


def inputs() -> dict[str, Tokens]:
    return {"text": tokens(0, [5, 2, 1], 5), "image": tokens(1, [7, 3, 6], 7)}


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_the_contract_holds(name: str) -> None:
    """Guards every fusion block against the bugs named in `check_fusion`."""
    torch.manual_seed(0)
    check_fusion(FUSIONS[name](), inputs())


class Broken(nn.Module):
    """Adds the picture's mean to every word, with one bug."""

    def __init__(self, bug: str) -> None:
        super().__init__()
        self.bug, self.dim = bug, 16
        self.project = nn.Linear(16, 16)

    def forward(self, tokens: dict[str, Tokens]) -> Tokens:
        text, image = tokens["text"], tokens.get("image")
        x = self.project(text.values)
        if image is not None and self.bug != "image is ignored":
            weight = image.is_real.to(x.dtype)[..., None]
            if self.bug == "image padding counts":
                weight = torch.ones_like(weight)
            x = x + 3 * ((image.values * weight).sum(1) / weight.sum(1))[:, None]
        if self.bug == "image is needed":
            x = x + tokens["image"].pooled[:, None]
        weight = text.is_real.to(x.dtype)[..., None]
        if self.bug == "text padding counts":
            weight = torch.ones_like(weight)
        return Tokens(x, text.is_real, (x * weight).sum(1) / weight.sum(1))


@pytest.mark.parametrize(
    ("bug", "error", "message"),
    [
        ("image is ignored", AssertionError, "image has no influence"),
        ("image padding counts", AssertionError, "padding of image"),
        ("text padding counts", AssertionError, "padding of text"),
        ("image is needed", KeyError, "image"),
    ],
)
def test_the_contract_finds_a_broken_block(bug: str, error: type[Exception], message: str) -> None:
    """The null control: a check that nothing can fail proves nothing."""
    check_fusion(Broken(""), inputs())
    with pytest.raises(error, match=message):
        check_fusion(Broken(bug), inputs())


def test_many_texts_share_a_picture() -> None:
    """Guards against questions that look at another picture: an index equals repeated pictures, also in gradients."""
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(16, 2, 2)
    text, image = tokens(0, [5, 2, 1, 4, 3], 5), tokens(1, [7, 3], 7)
    index = torch.tensor([1, 0, 1, 1, 0])
    found = []
    for arguments in (({"text": text, "image": image}, index), ({"text": text, "image": image.rows(index)},)):
        fused = fusion(*arguments)
        gradients = torch.autograd.grad(fused.pooled.square().sum(), list(fusion.parameters()))
        found.append([fused.values, fused.pooled, *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
