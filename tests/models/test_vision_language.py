"""How far a learned temperature may go."""

import math

import pytest
import torch

from chiasm.models.vision_language import Parts, VisionLanguageModel
from chiasm.recipes.table import find_recipe


@pytest.mark.parametrize(("contrast", "most"), [("softmax", 100.0), ("sigmoid", 117.0)])
def test_a_published_temperature_stays(contrast: str, most: float) -> None:
    """Guards against a SigLIP model, whose scale is about 117, that fine-tuning quietly makes another one."""
    model = VisionLanguageModel(find_recipe("clip", tiny=True).model, Parts(vocabulary=40, contrast=contrast))
    assert model.logit_scale is not None
    with torch.no_grad():
        model.logit_scale.fill_(math.log(117.0))
    model.clamp_logit_scale()
    assert model.logit_scale.exp().item() == pytest.approx(most, rel=1e-5)
