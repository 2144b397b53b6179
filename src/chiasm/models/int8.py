"""Linear layers with weights of eight bits for writing on a CPU, where each token waits until all weights were read.

Weights are int8 with a scale for each output (per-channel); inputs keep their format. Inputs of eight bits would be
faster still, but single numbers of a language model's states are as large as all others together (LLM.int8(), Dettmers
et al. 2022, section 3): the perplexity of SmolLM2 on `data.plain_texts` then rises by 13 %, and with eight-bit weights
alone by 0.7 %. Of fewer than `MANY_ROWS` tokens at once each output is bitwise what it is alone; of more it is rounded
otherwise in the last digit of the inputs' format. Low-rank changes are added to the matrix before it is rounded.

Axis legend: n tokens, i inputs, o outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from chiasm.models.lora import LoraLinear

LEVELS = 127
"""Largest integer of a weight."""
MANY_ROWS = 32
"""From so many tokens at once on, the integers, which bf16 holds exactly, are multiplied as numbers of the inputs'
format: the kernel for integers saves reading, and multiplies at a fifth of the speed (docs/log.md)."""
STEP = 16
"""torch's kernel reads so many inputs at a time, without a check; layers of another width keep their weights."""


def rounded(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, " o"]]:
    """Each row as integers in [-127, 127] and the number that they are multiples of, float32; a row of zeros has 1."""
    weight = weight.float()
    largest = weight.abs().amax(1)
    scale = torch.where(largest > 0, largest / LEVELS, 1.0)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


class Int8Weights:
    """The weights of a network's linear layers in eight bits, beside its own.

    Args:
        network: its weights are read now.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [one for one in network.modules() if isinstance(one, nn.Linear) and one.in_features % STEP == 0]
        self._states = [_state_of(layer) for layer in layers]
        self._products = [(layer, _Product(layer)) for layer in layers]

    @property
    def is_current(self) -> bool:
        """Whether weights, and the low-rank changes that are switched on, are still those that were read."""
        return all(_state_of(layer) == was for (layer, _), was in zip(self._products, self._states, strict=True))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the layers compute with eight-bit weights. The layers' own weights stay as they are."""
        for layer, product in self._products:
            layer.__dict__["forward"] = product  # Assigned by nn.Module it takes ten times as long.
        try:
            yield
        finally:
            for layer, _ in self._products:
                del layer.__dict__["forward"]


class _Product:
    """x [..., i] -> W x + b [..., o], in the number format of x."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.scale = rounded(matrix_of(layer))
        self.bias = layer.bias

    def __call__(self, x: Tensor) -> Tensor:
        rows, scale = x.reshape(-1, x.shape[-1]), self.scale.to(x.dtype)
        if len(rows) < MANY_ROWS:
            found = torch._weight_int8pack_mm(rows, self.weight, scale)
        else:
            found = (rows @ self.weight.to(x.dtype).t()).mul_(scale)
        found = found.view(*x.shape[:-1], -1)
        return found if self.bias is None else found + self.bias


def matrix_of(layer: nn.Linear) -> Tensor:
    """The matrix, float32, with a low-rank change that is switched on."""
    weight = layer.weight.detach().float()
    if isinstance(layer, LoraLinear) and layer.is_on:
        weight = weight + layer.scale * (layer.lora_b @ layer.lora_a).detach().float()
    return weight


def _state_of(layer: nn.Linear) -> tuple[tuple[int, int], ...]:
    """Place and version of each tensor that `matrix_of` reads: torch counts the changes of each."""
    parts = [layer.weight]
    if isinstance(layer, LoraLinear) and layer.is_on:
        parts += [layer.lora_a, layer.lora_b]
    return tuple((part.data_ptr(), part._version) for part in parts)
