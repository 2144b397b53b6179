"""Assigns examples to steps, and collates the next step's batches in a thread.

The examples of a step are a function of (seed, step, batch size, number of examples). There is no state between
steps, so resuming in the middle of an epoch needs only the number of the step.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

from chiasm.core.distributed import rank, world_size
from chiasm.core.errors import InputError
from chiasm.core.types import Batch, Example
from chiasm.data.cropping import cropped
from chiasm.data.dataset import Dataset, order
from chiasm.data.modalities.image import images_of
from chiasm.pipeline.batching import make_batch
from chiasm.tasks.base import Task
from chiasm.tasks.codec import Codec
from chiasm.train.config import RunConfig
from chiasm.train.length import fitting_batch


class Loader:
    """Batches of a run by step number. An epoch's last, incomplete batch is left out.

    Args:
        dataset: the training examples.
        tasks: name -> task, each of which collates its fields.
        codec: tokenizer and vocabularies.
        run: the config; `train.batch_size` images are shared out over processes and accumulation parts.
    """

    def __init__(self, dataset: Dataset, tasks: Mapping[str, Task[Any]], codec: Codec, run: RunConfig) -> None:
        self.dataset, self.tasks, self.codec, self.run = dataset, tasks, codec, run
        self.resizing = run.model.image.preprocessing().resizing
        self.parts = run.train.accumulate
        share = self.parts * world_size()
        self.batch_size = fitting_batch(run.train, len(dataset), share)
        if self.batch_size < share:
            raise InputError(
                f"a batch of {self.batch_size} images for {world_size()} processes with {self.parts} parts each",
                "at least one image for each part of each process, and as many examples",
                "--set train.batch_size=...",
            )
        self.steps_per_epoch = len(dataset) // self.batch_size
        self._order = lru_cache(maxsize=2)(lambda epoch: order(len(dataset), run.seed, epoch))

    def indices(self, step: int) -> tuple[int, list[int]]:
        """Return the epoch of a step and the numbers of all its examples, over all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        return epoch, self._order(epoch)[start : start + self.batch_size].tolist()

    def batches(self, step: int) -> list[Batch]:
        """Collate this process's share of a step, one batch an accumulation part.

        A part is a stretch of the step's examples, of which each process has a stretch, in the order of their ranks:
        all_gather therefore restores the order of a single process. Shares differ by one image at most.
        """
        epoch, numbers = self.indices(step)
        share = self.parts * world_size()
        places = [part * world_size() + rank() for part in range(self.parts)]
        bounds = [[len(numbers) * (place + more) // share for more in (0, 1)] for place in places]
        return [
            make_batch(
                [self._shown(number, epoch) for number in numbers[start:stop]],
                self.tasks,
                self.codec,
                self.run,
                epoch,
                self.resizing,
            )
            for start, stop in bounds
        ]

    def _shown(self, number: int, epoch: int) -> Example:
        """An example with the random crop of this epoch."""
        example, least_area = self.dataset.example(number, epoch), self.run.data.random_crop
        if least_area == 1:
            return example
        aspect = None if self.resizing.method == "squeeze" else self.resizing.size_px[1] / self.resizing.size_px[0]
        shown = [
            # The first image of an example is drawn as the only one is.
            cropped(image, least_area, aspect, self.run.seed, epoch, example.id, *([place] if place else []))
            for place, image in enumerate(images_of(example))
        ]
        image = shown[0] if len(shown) == 1 else tuple(shown)
        return replace(example, inputs={**example.inputs, "image": image})

    def ahead(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """Yield the batches of steps start..stop-1, each collated in a thread while the step before it trains."""
        with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
            coming = pool.submit(self.batches, start) if start < stop else None
            for step in range(start, stop):
                assert coming is not None
                ready = coming.result()
                if step + 1 < stop:
                    coming = pool.submit(self.batches, step + 1)
                yield ready
