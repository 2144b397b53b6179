"""Attention with shared heads against torch's fused kernel."""

import pytest
import torch
import torch.nn.functional as F

from chiasm.models.pretrained.attention import grouped_attention


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
def test_values_and_gradients_are_those_of_the_fused_kernel(mask: str) -> None:
    """Six heads share two of keys and values; one query may attend to a single key."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 6, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)]
    ours = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
    theirs = [one.detach().clone().requires_grad_() for one in ours]
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    allowed = causal.expand(2, 1, -1, -1).clone()
    allowed[1, 0, 4, :4] = False
    added = torch.zeros(2, 1, 5, 5).masked_fill(~allowed, torch.finfo(torch.float32).min)
    given = {"none": None, "bool": allowed, "added": added}[mask]
    expected_mask = causal if given is None else given
    found = grouped_attention(*ours, given, 0.5)
    query, key, value = theirs
    wide = (query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1))
    expected = F.scaled_dot_product_attention(*wide, attn_mask=expected_mask, scale=0.5)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_fewer_queries_than_keys_are_the_last_of_a_causal_text() -> None:
    query, key, value = (torch.randn(1, 2, 6, 4) for _ in range(3))
    whole = grouped_attention(query, key, value, None, 0.5)
    last = grouped_attention(query[:, :, 4:], key, value, None, 0.5)
    torch.testing.assert_close(last, whole[:, :, 4:])
