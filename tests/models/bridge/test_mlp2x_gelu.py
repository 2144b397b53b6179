"""The projector of LLaVA-1.5 against transformers' own, behind a LayerNorm."""

import pytest
import torch
import torch.nn.functional as F
from projecting import SHAPE, image

from chiasm.models.bridge.mlp2x_gelu import MlpProjectorConfig


@torch.no_grad()
def test_it_is_transformers_projector_on_normalised_tokens() -> None:
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    module, given = MlpProjectorConfig().build(SHAPE), image()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=6, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=8, num_attention_heads=2),
        projector_hidden_act="gelu",
    )
    theirs = LlavaMultiModalProjector(config)
    first, _, second = module.change  # type: ignore[union-attr, misc]
    for mine, other in ((first, theirs.linear_1), (second, theirs.linear_2)):
        other.load_state_dict(mine.state_dict())
    torch.testing.assert_close(module(given).values, theirs(F.layer_norm(given.values, (6,))))
