"""How far a learned temperature may go."""

import math

import pytest
import torch

from chiasm.models.heads import FusedClasses
from chiasm.models.vision_language import AssembledVLM, Parts
from chiasm.recipes.table import find_recipe


@pytest.mark.parametrize(("contrast", "most"), [("softmax", 100.0), ("sigmoid", 117.0)])
def test_a_published_temperature_stays(contrast: str, most: float) -> None:
    """Guards against a SigLIP model, whose scale is about 117, that fine-tuning quietly makes another one."""
    model = AssembledVLM(find_recipe("clip", tiny=True).model, Parts(vocabulary=40, contrast=contrast))
    assert model.logit_scale is not None
    with torch.no_grad():
        model.logit_scale.fill_(math.log(117.0))
    model.clamp_logit_scale()
    assert model.logit_scale.exp().item() == pytest.approx(most, rel=1e-5)


def test_the_order_of_parameters_is_that_of_building() -> None:
    """Guards against an optimiser's state, kept by position, that is restored to other parameters."""
    recipe = find_recipe("clip", tiny=True).model
    model = AssembledVLM(recipe, Parts(vocabulary=40, contrast="sigmoid", heads={"vqa": FusedClasses(5, widening=2)}))
    found = list(dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters()))
    built = ["image_encoder", "text_encoder", "fusion", "image_projection", "text_projection", "heads"]
    assert found == ["logit_scale", "logit_bias", *built]
