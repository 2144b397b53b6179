"""Number formats that the parts of a model compute in: fp32, bf16 weights, or weights and inputs of eight bits.

A part keeps its own weights in every format, so that fingerprints and run folders stay those of the weights, and a
format can be taken back. What is trained has no part in another format.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from chiasm.core.device import has_bf16, has_int8
from chiasm.models.dynamic_int8 import Int8Network, int8_weights
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.vision_language import VisionLanguageModel

Format = Literal["fp32", "bf16", "int8"]
"""fp32 stands for the format that a part's weights are kept in."""
FORMATS: tuple[Format, ...] = ("int8", "bf16")
"""Formats that a part may be computed in beside its own."""
INSTRUCTIONS: dict[Format, str] = {"int8": "VNNI or AMX", "bf16": "AVX512-BF16 or AMX"}
"""What a CPU must have for a format."""


def formats_of(device: torch.device) -> tuple[Format, ...]:
    """The formats of `FORMATS` that a device has instructions for; none on a GPU, which has ways of its own."""
    if device.type != "cpu":
        return ()
    has: dict[Format, bool] = {"int8": has_int8(), "bf16": has_bf16(device)}
    return tuple(form for form in FORMATS if has[form])


class Execution:
    """The format of each part of a model.

    Args:
        model: its parts are looked up now; their weights are read when a format is first used.

    Attributes:
        parts: name ("image", "text", "fusion") -> module. Language models, which write with `models.int8`, image
            tokenizers, whose codes must be exact, encoders of further inputs, and parts without linear layers are left
            out.
        formats: name -> its format.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        config = model.config
        image = None if config.image.has_codes else model.image_encoder
        text = None if isinstance(model.text_encoder, LanguageModel) else model.text_encoder
        named: dict[str, nn.Module | None] = {"image": image, "text": text, "fusion": model.fusion}
        if image is text:  # ViLT: one transformer, which reads both at once
            named = {"fusion": image}
        self._embeds_with = ("image",) if model.image_projection is not None else ("image", "fusion")
        self.parts = {name: part for name, part in named.items() if part is not None and int8_weights(part)}
        self._device = next(model.parameters()).device
        self.formats: dict[str, Format] = dict.fromkeys(self.parts, "fp32")
        self._made: dict[str, Int8Network | _Bf16Copy] = {}

    def use(self, name: str, form: Format) -> None:
        """Compute a part in a format from here on."""
        if self.formats[name] == form:
            return
        if (before := self._made.pop(name, None)) is not None:
            before.take_out()
        if form != "fp32":
            part = self.parts[name]
            made = self._made[name] = Int8Network(part) if form == "int8" else _Bf16Copy(part)
            made.put_in()
        self.formats[name] = form

    def suffix(self, name: str) -> str:
        """What a fingerprint of a part's outputs ends in: "" for fp32, else the format."""
        form = self.formats.get(name, "fp32")
        return "" if form == "fp32" else f"-{form}"

    @property
    def of_embeddings(self) -> dict[str, Format]:
        """Formats other than fp32 of what makes an image's embedding, which ALBEF's fusion block projects."""
        named = ((name, self.formats.get(name, "fp32")) for name in self._embeds_with)
        return {name: form for name, form in named if form != "fp32"}

    def embed_as(self, formats: Mapping[str, Format]) -> None:
        """Make images' embeddings in these formats, as `of_embeddings` names them, where the machine can."""
        possible = formats_of(self._device)
        if all(name in self.parts and form in possible for name, form in formats.items()):
            for name in self.parts.keys() & set(self._embeds_with):
                self.use(name, formats.get(name, "fp32"))

    def use_fp32(self) -> None:
        """Compute every part with its own weights."""
        for name in self.parts:
            self.use(name, "fp32")


class _Bf16Copy:
    """A copy of a network with weights in bf16; numbers that come in are rounded, and go out as fp32."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self._copy = network, copy.deepcopy(network).to(torch.bfloat16)

    def put_in(self) -> None:
        """Compute with the copy from here on."""
        for name in _WAYS:
            if hasattr(self._copy, name):
                self._network.__dict__[name] = partial(self._run, getattr(self._copy, name))

    def take_out(self) -> None:
        """Compute with the network's own weights again."""
        for name in _WAYS:
            self._network.__dict__.pop(name, None)

    def _run(self, way: Callable[..., Any], *given: Any, **named: Any) -> Any:
        short = _converted([given, named], torch.float32, torch.bfloat16)
        return _converted(way(*short[0], **short[1]), torch.bfloat16, torch.float32)


_WAYS = ("forward", "vectors")
"""Methods that compute a network: all of it, and the pooled vector alone, where a tower has a shorter way to it."""


def _converted(value: Any, of: torch.dtype, to: torch.dtype) -> Any:
    """The same nest of sequences and mappings, with every tensor of one format in another."""
    if isinstance(value, Tensor):
        return value.to(to) if value.dtype == of else value
    if isinstance(value, Mapping):
        made = {key: _converted(one, of, to) for key, one in value.items()}
        return made if type(value) is dict else cast(Any, type(value))(**made)
    if isinstance(value, tuple | list):
        each = [_converted(one, of, to) for one in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    return value
