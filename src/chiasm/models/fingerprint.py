"""What a module's weights are, in sixteen characters: caches and run folders name a tower by it."""

import hashlib

import torch
from torch import nn


def weights_hash(module: nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 of names and bytes of all tensors, buffers included, in order."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
