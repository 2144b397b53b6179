"""What a modality is: how the values of one kind of input are referred to, checked, decoded, stacked and shown."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.resizing import Resizing


class Modality(ABC):
    """One kind of input.

    An example names an input and gives a reference, several as a tuple, or none: absent is a value (`references_of`).
    A reference is decoded when a batch needs it, and prepared as the encoder states (`models.encoders.base`).

    Attributes:
        name: key of the table `MODALITIES`.
    """

    name: ClassVar[str]

    @abstractmethod
    def refer(self, path: Path) -> Any:
        """A reference to a file. Nothing is read yet.

        Raises:
            InputError: the path cannot be one of this modality.
        """

    @abstractmethod
    def decode(self, reference: Any) -> np.ndarray:
        """Read and check a value.

        Raises:
            ImageError, InputError: the value is damaged or out of its range.
        """

    @abstractmethod
    def prepare(self, decoded: np.ndarray, resizing: Resizing) -> np.ndarray:
        """What `decode` gave -> an array of the one shape that the encoder takes.

        Args:
            decoded: of any size.
            resizing: what the encoder asks for; a modality whose values have one size ignores it.
        """

    @abstractmethod
    def show(self, reference: Any) -> np.ndarray:
        """A value for people: RGB, uint8 [h, w, 3]."""

    def stack(self, prepared: Sequence[np.ndarray]) -> Tensor:
        """Prepared values of one shape -> tensor [k, ...]."""
        return torch.from_numpy(np.stack(prepared))


def references_of(value: Any) -> tuple[Any, ...]:
    """The references of an example's input: (), one or several; None is absent."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
