"""Weights as integers of eight bits with a scale for each output, and the matrix of a layer that is rounded.

Axis legend: i inputs, o outputs.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from chiasm.models.lora import LoraLinear

LEVELS = 127
"""Largest integer of a weight."""
MIDDLE = 128
"""The unsigned byte that stands for an input of zero, where inputs have signs."""


def rounded(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, " o"]]:
    """Each row as integers in [-127, 127] and the number that they are multiples of, float32; a row of zeros has 1."""
    weight = weight.float()
    largest = weight.abs().amax(1)
    scale = torch.where(largest > 0, largest / LEVELS, 1.0)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def matrix_of(layer: nn.Linear) -> Tensor:
    """The matrix, float32, with a low-rank change that is switched on."""
    weight = layer.weight.detach().float()
    if isinstance(layer, LoraLinear) and layer.is_on:
        weight = weight + layer.scale * (layer.lora_b @ layer.lora_a).detach().float()
    return weight
