"""Captioning loss: cross-entropy of each next word (teacher forcing)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.distributed import mean_over_terms

ROWS_AT_ONCE = 256
"""Words whose logits exist at one time in `next_word_of_states`: 50 MB with 49,152 words."""


def next_word(
    logits: Float[Tensor, "*words v"],
    target: Int[Tensor, "*words"],
    is_real: Bool[Tensor, "*words"] | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Mean cross-entropy over the real words of the batch, of all processes.

    Args:
        logits: at position i, scores for the word that follows words 0..i; computed in float32 (float64 for float64).
        target: the word that follows, already shifted by one.
        is_real: True where `target` is a word and not padding; None: all that are passed are words.
        label_smoothing: share of the target that is spread evenly over the vocabulary, in [0, 1) (Szegedy et al.
            2016, "Rethinking the Inception Architecture", section 7).

    Returns:
        {"loss": scalar}, in nats a word; zero with a zero gradient where no word is real.
    """
    if is_real is None:
        is_real = torch.ones_like(target, dtype=torch.bool)
    wide = logits[is_real].to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(wide, target[is_real], reduction="sum", label_smoothing=label_smoothing)
    return {"loss": mean_over_terms(total, is_real.sum())}


def next_word_of_states(
    states: Float[Tensor, "r d"],
    layer: nn.Linear,
    target: Int[Tensor, " r"],
    scale: float = 1.0,
    cap: float | None = None,
) -> dict[str, Tensor]:
    """`next_word` of the logits that an output layer makes of states, without keeping the logits.

    Logits of `ROWS_AT_ONCE` words, their softmax and its gradient with respect to the states are computed in one pass
    over the vocabulary, so that memory does not grow with words times vocabulary (as Wijmans et al. 2025, "Cut Your
    Losses in Large-Vocabulary Language Models", section 4, whose kernel goes further). Gradients of gradients are not
    defined.

    Args:
        states: of the positions before the words.
        layer: weight [v, d] and bias [v] or none; products are computed in the format of autocast, softmax in float32.
        target: the words.
        scale: factor of the logits.
        cap: logits are cap * tanh(logits / cap) after scaling (Gemma); None leaves them.

    Returns:
        {"loss": scalar}, in nats a word, over the words of all processes.
    """
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    total = _SummedLoss.apply(states.to(dtype), layer.weight.to(dtype), bias, target, scale, cap)
    return {"loss": mean_over_terms(total, len(target))}


class _SummedLoss(torch.autograd.Function):
    """Summed cross-entropy; the gradient with respect to states, weight and bias is computed with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: float,
        cap: float | None,
    ) -> Tensor:
        wide = torch.promote_types(states.dtype, torch.float32)
        total = states.new_zeros((), dtype=wide)
        # Sums over many words are kept wide; each state's gradient is written once.
        gradients = [
            torch.zeros_like(tensor, dtype=wide if number else None) if tensor is not None and needed else None
            for number, (tensor, needed) in enumerate(
                zip((states, weight, bias), ctx.needs_input_grad[:3], strict=True)
            )
        ]
        of_states, of_weight, of_bias = gradients
        for start in range(0, len(states), ROWS_AT_ONCE):
            part, words = states[start : start + ROWS_AT_ONCE], target[start : start + ROWS_AT_ONCE, None]
            logits = F.linear(part, weight, bias).to(wide)
            if scale != 1:
                logits = logits * scale
            bent = None
            if cap is not None:
                bent = torch.tanh(logits / cap)
                logits = bent * cap
            logs = logits.log_softmax(-1)
            total -= logs.gather(1, words).sum()
            if not any(ctx.needs_input_grad[:3]):
                continue
            slope = logs.exp_()
            slope.scatter_add_(1, words, torch.full_like(words, -1, dtype=wide))
            if bent is not None:
                slope *= 1 - bent.square()
            if scale != 1:
                slope *= scale
            narrow = slope.to(states.dtype)
            if of_states is not None:
                of_states[start : start + ROWS_AT_ONCE] = narrow @ weight
            if of_weight is not None:
                of_weight += narrow.T @ part
            if of_bias is not None:
                of_bias += slope.sum(0)
        ctx.gradients = [None if one is None else one.to(states.dtype) for one in gradients]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if one is None else one * outer.to(one.dtype) for one in ctx.gradients]
        return (*found, None, None, None)
