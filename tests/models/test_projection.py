"""Projections into the shared space, with the classes beside them."""

import numpy as np
import pytest
import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.models.encoders.imagenet import CLASSES
from chiasm.models.projection import BesideClasses, Projection, build_projection, class_heads, set_class_share


class Turned(nn.Module):
    """A fixed map to unit vectors, as the classes are."""

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(pooled.float().flip(1), dim=-1)


def pair() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.image_projection = BesideClasses(Turned(), Projection(6, 5))
    model.text_projection = BesideClasses(Turned(), Projection(6, 5))
    return model


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_cosine_is_the_mixture_of_both(share: float) -> None:
    """In double precision, by hand: share * one cosine + (1 - share) * the other, of unit vectors."""
    model, images, texts = pair(), torch.randn(4, 6), torch.randn(7, 6)
    set_class_share(model, share)
    with torch.no_grad():
        found = (model.image_projection(images) @ model.text_projection(texts).T).double().numpy()
        lengths = model.image_projection(images).norm(dim=-1)
        trained = model.image_projection.trained(images) @ model.text_projection.trained(texts).T
    assert torch.allclose(lengths, torch.ones(4), atol=1e-6)
    one, two = images.double().numpy(), texts.double().numpy()
    cosine = (one @ two.T) / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1))
    np.testing.assert_allclose(found, share * cosine + (1 - share) * trained.double().numpy(), atol=1e-5)


def test_only_the_trained_half_is_trained() -> None:
    """Guards against weights of the classes among the parameters, which AdamW would decay."""
    head = build_projection("classes", 1712, CLASSES + 8, 0, 0.0, "image")
    assert [name.split(".")[0] for name, _ in head.named_parameters()] == ["trained"] * 4
    assert {"share", "classes.offset", "classes.classifier.weight", "classes.classifier.bias"} <= set(head.state_dict())


def test_a_space_without_room_for_the_classes_is_refused() -> None:
    """Guards against a projection of negative width."""
    with pytest.raises(InputError, match="more than 1000"):
        build_projection("classes", 384, CLASSES, 0, 0.0, "text")


def test_one_side_alone_has_no_share() -> None:
    """Guards against a mixed image side beside a text side that was taught its space as a whole."""
    model = pair()
    assert len(class_heads(model)) == 2
    model.text_projection = Projection(6, 11)
    assert class_heads(model) == []
