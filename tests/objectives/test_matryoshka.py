"""The mean over prefixes is what a loop over them gives, in value and gradient."""

from collections.abc import Mapping

import torch

from chiasm.objectives.contrastive import softmax_contrast
from chiasm.objectives.matryoshka import mean_over_prefixes


def unit(rows: int, seed: int, width: int = 12) -> torch.Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def slow(image: torch.Tensor, text: torch.Tensor, width: int, scale: float) -> torch.Tensor:
    """CLIP's loss of prefixes, pair by pair; whole vectors have unit length already."""
    short = [vectors[:, :width] / vectors[:, :width].norm(dim=1, keepdim=True) for vectors in (image, text)]
    short = [image, text] if width == image.shape[1] else short
    cosines = scale * short[0] @ short[1].T
    rows = [-(row[i] - row.logsumexp(0)) for i, row in enumerate(cosines)]
    columns = [-(row[i] - row.logsumexp(0)) for i, row in enumerate(cosines.T)]
    return (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2


def test_value_and_gradient_are_those_of_a_loop() -> None:
    """Guards against prefixes that keep the length of the whole vector, and against a sum in place of a mean."""
    image, text = unit(6, 0).requires_grad_(), unit(6, 1).requires_grad_()
    group = torch.arange(6)
    scale = torch.tensor(9.0, dtype=torch.float64)

    def contrast(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return softmax_contrast(given["image"], given["text"], scale, group, group)

    found = mean_over_prefixes(contrast, (3, 5, 12), {"image": image, "text": text})["loss"]
    expected = (slow(image, text, 3, 9.0) + slow(image, text, 5, 9.0) + slow(image, text, 12, 9.0)) / 3
    assert torch.allclose(found, expected, rtol=1e-12)
    given = torch.autograd.grad(found, (image, text), retain_graph=True)
    for one, other in zip(given, torch.autograd.grad(expected, (image, text)), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_without_prefixes_it_is_the_objective() -> None:
    """Guards against vectors that are rounded again where nothing was asked for: golden curves would move."""
    image, text = unit(4, 2), unit(4, 3)
    seen = []
    vectors = {"image": image, "text": text}
    terms = mean_over_prefixes(lambda given: seen.append(given) or {"loss": given["image"].sum()}, (), vectors)
    assert len(seen) == 1 and seen[0]["image"] is image and seen[0]["text"] is text
    assert torch.equal(terms["loss"], image.sum())
