"""Weights of a run folder in fewer bytes: bf16, or integers of eight bits with a scale for each output.

In a packed `model.safetensors` the metadata names the packing. Opening it gives the numbers that were stored, in the
model's own format. "bf16" rounds every floating tensor of four bytes. "int8" rounds the matrices of linear layers,
embeddings and convolutions as `models.rounded_weights.rounded` does; the scales of `NAME.weight` are the tensor
`NAME.weight.int8_scale` (`NAME.conv` and `NAME.conv.int8_scale` of a `FoldableConv`), and all other tensors keep their
format. Rounding is idempotent: a packed model that is saved again has the same integers.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.folded_conv import FoldableConv
from chiasm.models.rounded_weights import rounded

Packing = Literal["", "bf16", "int8"]
"""How weights are stored; "" stores them as the model has them."""
FILE = "model.safetensors"
SCALE = ".int8_scale"
_PACKED_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def matrices_of(model: nn.Module) -> set[str]:
    """Names of the tensors that "int8" rounds: weights whose first dimension are outputs, or the rows of embeddings."""
    found = set[str]()
    for path, module in model.named_modules():
        name = "conv" if isinstance(module, FoldableConv) else "weight"
        is_layer = isinstance(module, (FoldableConv, *_PACKED_LAYERS))
        if is_layer and getattr(module, name).is_floating_point():
            found.add(f"{path}.{name}" if path else name)
    return found


@torch.no_grad()
def round_weights(model: nn.Module, names: Iterable[str], packing: Packing) -> None:
    """Replace the named weights by what a packed folder gives back, in place.

    Args:
        model: its parameters change; layers that share one change together.
        names: of tensors in its `state_dict`.
        packing: which rounding; "" changes nothing.
    """
    state = model.state_dict()
    kept = {name: state[name] for name in names}
    for name, value in _unpacked(packed(kept, model, packing)).items():
        state[name].copy_(value)


def packed(tensors: Mapping[str, Tensor], model: nn.Module, packing: Packing) -> dict[str, Tensor]:
    """The tensors of a folder as they are stored.

    Args:
        tensors: of the model, by name.
        model: says which tensors are matrices.
        packing: how they are stored.
    """
    if packing == "bf16":
        return {name: one.bfloat16() if one.dtype == torch.float32 else one for name, one in tensors.items()}
    if packing != "int8":
        return dict(tensors)
    matrices, found = matrices_of(model), dict[str, Tensor]()
    for name, one in tensors.items():
        if name in matrices and one.numel():
            integers, found[name + SCALE] = rounded(one.flatten(1))
            found[name] = integers.view(one.shape)
        else:
            found[name] = one
    return found


def to_bytes(tensors: Mapping[str, Tensor], model: nn.Module, packing: Packing) -> bytes:
    """`model.safetensors` with these tensors; without packing it has no metadata."""
    metadata: dict[str, str] | None = {"packing": packing} if packing else None
    return safetensors.torch.save(packed(tensors, model, packing), metadata)


def read_weights(folder: Path) -> tuple[dict[str, Tensor], Packing]:
    """The tensors of a folder as the model takes them, and how they were stored.

    Raises:
        InputError: the file names a packing that is not known here, or lacks the scales of integers.
    """
    with safetensors.safe_open(folder / FILE, framework="pt") as file:
        packing = (file.metadata() or {}).get("packing", "")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
    lone = [name for name, one in tensors.items() if one.dtype == torch.int8 and name + SCALE not in tensors]
    if lone:
        raise InputError(
            f"{folder / FILE}: {lone[0]!r} has no scales", "integers with their scales", "restore the file"
        )
    for known in get_args(Packing):
        if packing == known:
            return _unpacked(tensors), known
    raise InputError(
        f"{folder / FILE} stores its weights as {packing!r}",
        "weights as they are, bf16 or int8",
        "open it with the version of chiasm that wrote it",
    )


def _unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Integers times their scales, float32; other tensors unchanged, those of bf16 too, which a model converts."""
    found = {name: one for name, one in tensors.items() if not name.endswith(SCALE)}
    for name in (name for name in tensors if name.endswith(SCALE)):
        integers = found[whole := name.removesuffix(SCALE)]
        found[whole] = (integers.flatten(1).float() * tensors[name][:, None]).view(integers.shape)
    return found
