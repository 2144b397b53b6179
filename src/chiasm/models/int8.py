"""Linear layers with weights of eight bits for writing on a CPU, where each token waits until all weights were read.

Weights are int8 with a scale for each output (per-channel); inputs keep their format. Inputs of eight bits would be
faster still, but single numbers of a language model's states are as large as all others together (LLM.int8(), Dettmers
et al. 2022, section 3): the perplexity of SmolLM2 on `data.plain_texts` then rises by 13 %, and with eight-bit weights
alone by 0.7 %. Of fewer than `MANY_ROWS` tokens at once each output is bitwise what it is alone; of more it is rounded
otherwise in the last digit of the inputs' format. Low-rank changes are added to the matrix before it is rounded.

Layers of many outputs, which are the words, take an input as two integers of eight bits instead, so that products are
exact: that costs more passes over the inputs and fewer over the weights (`_SplitProduct`).

Axis legend: n tokens, i inputs, o outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from chiasm.core.device import has_int8
from chiasm.models.dynamic_int8 import LEAST, Int8Product
from chiasm.models.lora import LoraLinear
from chiasm.models.rounded_weights import LEVELS, MIDDLE, matrix_of, rounded

MANY_ROWS = 32
"""From so many tokens at once on, the integers, which bf16 holds exactly, are multiplied as numbers of the inputs'
format: the kernel for integers saves reading, and multiplies at a fifth of the speed (docs/log.md)."""
MANY_OUTPUTS = 16_384
"""From so many outputs on, a layer takes its inputs as two integers."""
STEP = 16
"""torch's kernel reads so many inputs at a time, without a check; layers of another width keep their weights."""


class Int8Weights:
    """The weights of a network's linear layers in eight bits, beside its own.

    Args:
        network: its weights are read now.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [one for one in network.modules() if isinstance(one, nn.Linear) and one.in_features % STEP == 0]
        self._states = [_state_of(layer) for layer in layers]
        self._products = [(layer, _product_of(layer)) for layer in layers]

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


class _SplitProduct:
    """The same by exact integers: an input is its number of 127ths of its row's largest one, and of 254ths of these.

    Both halves of all rows are one product, so that the weights are read once; each row is bitwise what it is alone, of
    any number of rows. Inputs have fifteen bits, more than those of bf16.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self._product = Int8Product(matrix_of(layer), None)
        self._bias = layer.bias
        self._middle = torch.full((layer.in_features,), MIDDLE + 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        largest = rows.abs().amax(1, keepdim=True).clamp_min_(LEAST)
        scaled, count = rows * (LEVELS / largest), len(rows)
        bytes_ = torch.empty(2 * count, rows.shape[1], dtype=torch.uint8)
        bytes_[:count] = scaled + self._middle
        left = scaled.sub_(bytes_[:count]).add_(MIDDLE)
        bytes_[count:] = left.mul_(2 * LEVELS).add_(self._middle).clamp_(1, 2 * LEVELS + 1)
        steps = largest.mul_(1 / LEVELS)
        halves = self._product.times((bytes_, torch.cat([steps, steps / (2 * LEVELS)])))
        found = halves[:count].add_(halves[count:]).to(x.dtype).view(*x.shape[:-1], -1)
        return found if self._bias is None else found + self._bias


def _product_of(layer: nn.Linear) -> "_Product | _SplitProduct":
    return _SplitProduct(layer) if layer.out_features >= MANY_OUTPUTS and has_int8() else _Product(layer)


def _state_of(layer: nn.Linear) -> tuple[tuple[int, int], ...]:
    """Place and version of each tensor that `matrix_of` reads: torch counts the changes of each."""
    parts = [layer.weight]
    if isinstance(layer, LoraLinear) and layer.is_on:
        parts += [layer.lora_a, layer.lora_b]
    return tuple((part.data_ptr(), part._version) for part in parts)
