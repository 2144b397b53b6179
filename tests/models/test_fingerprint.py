"""The fingerprint of weights against hashlib over numpy's bytes, for every number format."""

import hashlib

import torch
from torch import nn

from chiasm.models.fingerprint import weights_hash


def test_it_is_the_hash_of_names_and_bytes() -> None:
    """fp32 and int64 as numpy writes them, so that caches of earlier versions stay valid."""
    module = nn.BatchNorm1d(3)
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    assert weights_hash(module) == digest.hexdigest()[:16]


def test_formats_without_a_numpy_type_have_one_and_any_bit_changes_it() -> None:
    module = nn.Linear(2, 2).to(torch.bfloat16)
    before = weights_hash(module)
    with torch.no_grad():
        module.weight.view(torch.int16)[0, 0] ^= 1
    assert len(before) == 16 and weights_hash(module) != before
