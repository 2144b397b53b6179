"""Computing in bf16 with fp32 master weights."""

from dataclasses import replace

import pytest
import torch

from chiasm.models.heads import FusedClasses, ImageWriter
from chiasm.models.vision_language import AssembledVLM, Parts, VisionLanguageModel
from chiasm.recipes.table import find_recipe
from chiasm.train.execution.precision import ComputeCopy
from chiasm.train.optimizer import trainable_names


@pytest.fixture
def model() -> VisionLanguageModel:
    demo = find_recipe("demo").model
    image = replace(demo.image, channels=(4, 4), size_px=16)
    torch.manual_seed(0)
    heads = {"vqa": FusedClasses(5, widening=2), "captioning": ImageWriter()}
    parts = Parts(vocabulary=30, contrast="softmax", heads=heads)
    return AssembledVLM(replace(demo, dim=8, embedding_dim=8, image=image), parts)


def test_small_updates_survive_low_precision(model: VisionLanguageModel) -> None:
    """Guards against updates that bfloat16 rounds away: 100 steps of 1e-4 move a weight of 1 by 1e-2 in the master."""
    names = trainable_names(model, ["*"], ["text_encoder."])
    copy = ComputeCopy(model, torch.bfloat16, names)
    computed = dict(copy.model.named_parameters())
    scalars = {name for name, p in computed.items() if p.ndim == 0}
    assert scalars == {"logit_scale"}
    for name, p in computed.items():
        wanted = torch.float32 if name in scalars else torch.bfloat16
        assert p.dtype == wanted, "a temperature in bfloat16 has steps of 1 %"
    assert {name for name, p in computed.items() if p.requires_grad} == set(names)
    bias = model.heads["vqa"][2].bias
    with torch.no_grad():
        bias.fill_(1)
    for _ in range(100):
        computed["heads.vqa.2.bias"].grad = torch.ones_like(computed["heads.vqa.2.bias"])
        copy.gradients_to_master()
        assert bias.grad.dtype == torch.float32 and computed["heads.vqa.2.bias"].grad is None
        with torch.no_grad():
            bias -= 1e-4 * bias.grad
        copy.refresh()
    assert bias.tolist() == pytest.approx([0.99] * 5, abs=1e-5)
    assert computed["heads.vqa.2.bias"].float().tolist() == pytest.approx([0.99] * 5, abs=0.004)
    assert model.text_encoder.embedding.weight.grad is None


def test_in_full_precision_the_model_is_its_own_copy(model: VisionLanguageModel) -> None:
    """Guards against twice the memory, and gradients that are moved away, where nothing needs a copy."""
    copy = ComputeCopy(model, torch.float32, ["logit_scale"])
    assert copy.model is model
    model.logit_scale.grad = torch.tensor(1.0)
    copy.gradients_to_master()
    copy.refresh()
    assert float(model.logit_scale.grad) == 1
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["logit_scale"]
