"""Activations computed again: the same gradients from fewer numbers kept, and a clear answer where it cannot be."""

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.encoders.language_model import LanguageModel, LanguageModelConfig
from chiasm.models.pretrained.recomputation import recomputed

pytest.importorskip("transformers", reason="needs the extra [llm]")
from language_folders import network

VOCABULARY = 100


def gradients_and_kept(recompute: bool) -> tuple[list[Tensor], int]:
    """Gradients of all parameters, and the numbers that the forward pass keeps for the backward pass."""
    config = LanguageModelConfig(precision="fp32", frozen=False, recompute=recompute)
    language = LanguageModel(network("llama", VOCABULARY), config).train()
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    kept = 0

    def pack(part: Tensor) -> Tensor:
        nonlocal kept
        kept += 0 if isinstance(part, nn.Parameter) else part.numel()
        return part

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
        states = language.states(language.embed(ids), None, torch.arange(9).expand(2, -1))
        loss = language.words(states).square().mean()
    during_forward = kept
    loss.backward()
    return [one.grad for one in language.parameters() if one.grad is not None], during_forward


def test_gradients_stay_and_fewer_numbers_are_kept() -> None:
    """Against the pass that keeps everything."""
    (plain, all_kept), (again, few) = gradients_and_kept(False), gradients_and_kept(True)
    assert len(plain) == len(again) > 10
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert few < 0.7 * all_kept


def test_what_cannot_be_checkpointed_is_refused() -> None:
    """And nothing is asked of it where it is off."""
    plain = nn.Sequential(nn.Linear(2, 2))
    with recomputed(plain, False):
        pass
    with pytest.raises(InputError, match="recompute with a Sequential"), recomputed(plain, True):
        pass
