"""The encoded inputs of a split, kept between passes over it: views, calibration and limits share one encoding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.distributed import gather_at_rank0, rank, world_size
from chiasm.core.types import Encoded, Example, Tokens
from chiasm.pipeline.batching import input_values
from chiasm.pipeline.pipeline import Pipeline

CHUNK = 128
"""Examples decoded and encoded at once."""
MOST_BYTES = 2**30
"""Most memory for kept tokens; parts beyond it are encoded again in each pass."""


class EncodedOnce:
    """Encodes parts of a split when they are first asked for, and keeps what fits into memory.

    What is kept is what a pass of its own would compute, to the last bit, as long as the model does not change.

    Args:
        pipeline: in evaluation mode.
        examples: the split.

    Attributes:
        chunk: examples of a part.
    """

    def __init__(self, pipeline: Pipeline, examples: Sequence[Example]) -> None:
        self.pipeline, self.examples, self.chunk = pipeline, examples, CHUNK
        self._parts: dict[int, Encoded] = {}
        self._bytes = 0

    def share(self) -> None:
        """Let each process of the run encode some of the parts, and give them to rank 0; all processes call this.

        Frozen towers' outputs come from the cache, so there is nothing to share. Every process must have the same
        weights.
        """
        if world_size() == 1 or self.pipeline.config.model.image.frozen:
            return
        own, spent = dict[int, Encoded](), 0
        for start in range(rank() * self.chunk, len(self.examples), world_size() * self.chunk):
            found = {name: tokens.each(_on_cpu) for name, tokens in self.part(start).items()}
            spent += sum(tokens.nbytes for tokens in found.values())
            if spent > MOST_BYTES / world_size():
                break
            own[start] = found
        device = self.pipeline.device
        for given in gather_at_rank0(own)[1:]:
            for start, found in given.items():
                self._keep(start, {name: tokens.each(lambda one: one.to(device)) for name, tokens in found.items()})

    def part(self, start: int) -> Encoded:
        """The examples from `start`, a multiple of `chunk`, up to `chunk` of them."""
        known = self._parts.get(start)
        if known is not None:
            return known
        found = self._encode(self.examples[start : start + self.chunk])
        self._keep(start, found)
        return found

    def _keep(self, start: int, found: Encoded) -> None:
        size = sum(tokens.nbytes for tokens in found.values())
        if self._bytes + size <= MOST_BYTES:
            self._parts[start], self._bytes = found, self._bytes + size

    def rows(self, places: Sequence[int]) -> Encoded:
        """The examples at some places, in that order; encoded anew unless all are kept in one shape."""
        of_part: dict[int, list[int]] = {}
        for place in places:
            of_part.setdefault(place // self.chunk * self.chunk, []).append(place)
        parts = [self._parts[start] for start in of_part if start in self._parts]
        if len(parts) < len(of_part) or any(_shapes(part) != _shapes(parts[0]) for part in parts):
            return self._encode([self.examples[place] for place in places])
        row = {place: number for number, place in enumerate(place for some in of_part.values() for place in some)}
        order = torch.tensor([row[place] for place in places])
        found = {}
        for name, first in parts[0].items():
            device = first.values.device
            some = (
                part[name].rows(torch.tensor(of, device=device) - start)
                for part, (start, of) in zip(parts, of_part.items(), strict=True)
            )
            found[name] = Tokens.joined([*some]).rows(order.to(device))
        return found

    def _encode(self, examples: Sequence[Example]) -> Encoded:
        config = self.pipeline.config
        return self.pipeline.encode(input_values(examples, config.model, config.data.workers, self.pipeline.resizing))


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _shapes(part: Encoded) -> dict[str, list[torch.Size | None]]:
    """The shape of every tensor of a part but for its rows."""
    return {name: [None if one is None else one.shape[1:] for one in tokens] for name, tokens in part.items()}
