"""Activations of transformers' networks computed again in the backward pass (gradient checkpointing)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chiasm.core.errors import InputError


@contextmanager
def recomputed(network: Any, is_on: bool, key: str = "model.text.recompute") -> Iterator[None]:
    """Within the block, where `is_on`, each block keeps its input alone (Chen et al. 2016, section 3).

    Args:
        network: of transformers.
        is_on: else nothing changes.
        key: config key, for the message.

    Raises:
        InputError: an architecture that transformers cannot checkpoint.
    """
    if not is_on:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"{key} with a {type(network).__name__}",
            "an architecture that transformers can checkpoint",
            f"--set {key}=false",
        )
    # transformers renames this method.
    enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True  # of the layer alone: its dropout keeps its mode
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.training = was
