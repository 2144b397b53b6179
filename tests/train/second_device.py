"""A second device for machines that have none: tensors on it are numbers of the CPU that say they lie elsewhere.

As on a GPU, an operation over tensors of both devices is refused, but for copies, indices and numbers without
dimension. What is created without `device=`, or restored from a file and left there, is found this way.
"""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "second_device"
"""Torch gives modules and tensors a method of this name, so no module may have a part called like it."""
_LEFT_TO_TORCH = ("aten::detach", "aten::alias", "aten::lift", "aten::lift_fresh", "overrideable")
"""Those that share the storage, which is how a tensor's numbers are found, and convolution, which has its own below."""
_ACROSS = (
    "aten.copy_.",
    "aten._copy_from.",
    "aten._to_copy.",
    "aten.index.",
    "aten.index_put_.",
    "aten._index_put_impl",
)
"""What CUDA takes from both devices at once, beside numbers without dimension."""
_values: dict[int, Tensor] = {}
"""Storage of a tensor on the device -> its numbers; a storage belongs to one tensor and to those detached from it."""
_libraries: list[torch.library.Library] = []


class _Module(_DummyBackendModule):  # type: ignore[misc]
    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def second_device() -> torch.device:
    """The device; registered with torch when first asked for."""
    if not _libraries:
        _setup_privateuseone_for_python_backend(NAME, _Module())
        every, aten = torch.library.Library("_", "IMPL", "PrivateUse1"), torch.library.Library("aten", "IMPL")
        every.fallback(_compute)
        for name in _made_of_others():
            operation = _operation(name)
            aten.impl(name, lambda *args, _of=operation, **kwargs: _compute(_of, *args, **kwargs), "PrivateUse1")
        aten.impl("convolution_overrideable", _convolution, "PrivateUse1")
        aten.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
        _libraries.extend([every, aten])
    return torch.device(NAME, 0)


def forget_tensors() -> None:
    """Give back the memory of all tensors on the device; none may be used any more."""
    _values.clear()


def _made_of_others() -> list[str]:
    """Operations that torch would make of others, by strides and resizing, which tensors of this device cannot do."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    kept = [name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeExplicitAutograd")]
    return [name for name in kept if not name.endswith(_LEFT_TO_TORCH)]


def _operation(name: str) -> torch._ops.OpOverload:
    packet, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _convolution(*args: object) -> object:
    return _compute(torch.ops.aten.convolution.default, *args)


def _convolution_backward(gradient: Tensor, image: Tensor, weight: Tensor, *rest: object) -> object:
    return _compute(torch.ops.aten.convolution_backward.default, gradient, image, weight, [len(weight)], *rest)


def _there(values: Tensor) -> Tensor:
    made: Tensor = torch._C._acc.create_empty_tensor(values.shape, values.dtype)
    _values[made.untyped_storage()._cdata] = values
    return made


def _here(tensor: Tensor) -> Tensor:
    if tensor.device.type != NAME:
        return tensor
    found = _values[tensor.untyped_storage()._cdata]
    return found if found.shape == tensor.shape else found.reshape(tensor.shape)


def _compute(operation: torch._ops.OpOverload, *args: object, **kwargs: object) -> object:
    """Run an operation on the CPU; what comes out lies on the device, unless it was asked for elsewhere."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_it = [tensor for tensor in tensors if tensor.device.type == NAME]
    others = [tensor for tensor in tensors if tensor.device.type != NAME]
    is_fused_step = "_fused_" in str(operation)
    if on_it and not str(operation).startswith(_ACROSS):
        strays = [tensor for tensor in others if tensor.ndim or is_fused_step]
        if strays:
            raise RuntimeError(f"{operation}: expected all tensors on {NAME}, found {strays[0].shape} on the CPU")
    target = kwargs.get("device")
    if target is not None:
        kwargs = {**kwargs, "device": "cpu"}
    if operation is torch.ops.aten._copy_from.default:
        source, goal = args[:2]
        _here(goal).copy_(_here(source))  # type: ignore[arg-type]
        return goal
    if operation is torch.ops.aten.view.default:  # of numbers that are not contiguous, which the device's tensors are
        operation = torch.ops.aten.reshape.default
    if is_fused_step:  # walks through memory, and relies on gradients that lie as their parameters do
        for tensor in on_it:
            _values[tensor.untyped_storage()._cdata] = _here(tensor).contiguous()
    near_args, near_kwargs = pytree.tree_map_only(Tensor, _here, (args, kwargs))
    found = operation(*near_args, **near_kwargs)
    if target is not None and torch.device(target).type != NAME:  # type: ignore[arg-type]
        return found
    same = {id(_here(tensor)): tensor for tensor in tensors}
    return pytree.tree_map_only(Tensor, lambda value: same[id(value)] if id(value) in same else _there(value), found)
