"""Memory of training, predicted from counts before a step is taken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.core.distributed import world_size
from chiasm.core.types import Batch, Stacked
from chiasm.objectives.similarity import PIECE_PAIRS
from chiasm.pipeline.batching import to_model_range
from chiasm.tasks.contrast import ContrastTask
from chiasm.train.parts import Step
from chiasm.train.trainer import Trainer

FEW, FEWER = 4, 2
"""Examples of the two small batches by which activations are counted."""
BACKWARD = 1.25
"""Activations and what the backward pass holds beside them, over the activations that are kept for it."""
COPIES = 7
"""Matrices of a stripe's size that the loss and its gradient hold: similarities, masks, their gradients."""
MOMENTS = 2
"""Of AdamW, for each trained weight."""
STEPS_HELD = 2
"""Batches in memory: that of the step, and the next, which is collated meanwhile."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that training needs in this process, by what they are for; its libraries, half a gigabyte, come on top."""

    weights_bytes: int
    """Weights, gradients, optimiser moments, copies of the best and of the averaged weights, and bf16 copy."""
    batches_bytes: int
    """Images and token ids of the step and of the next; in the computer's memory also where a GPU trains."""
    activations_bytes: int
    """What the forward pass of one part keeps for its backward pass, and what that holds beside it."""
    contrast_bytes: int
    """Embeddings of the whole batch with their gradients, and a stripe of similarities; 0 without a contrast."""
    checkpoint_bytes: int
    """A checkpoint while it is written, which happens between two steps."""

    @property
    def total_bytes(self) -> int:
        """The most at any time."""
        between = max(self.activations_bytes + self.contrast_bytes, self.checkpoint_bytes)
        return self.weights_bytes + self.batches_bytes + between

    def text(self) -> str:
        """One line for the console."""
        parts = {
            "weights and optimiser": self.weights_bytes,
            "batches": self.batches_bytes,
            "activations": self.activations_bytes,
            "contrast": self.contrast_bytes,
        }
        told = ", ".join(f"{what} {_mib(size)}" for what, size in parts.items() if size)
        saved = f"; between steps a checkpoint of {_mib(self.checkpoint_bytes)}"
        return f"memory of a step: {_mib(self.total_bytes)} ({told}{saved}), beside the libraries"


def predict_memory(trainer: Trainer, part_of: Callable[[int], Batch]) -> StepMemory:
    """Count the memory of training by the forward pass of a few examples, without taking a step.

    What a part keeps grows by the same number of bytes with each example, so two small batches tell that of any.

    Args:
        trainer: started; its config names batch and parts.
        part_of: number of examples -> a batch of so many.
    """
    batch_size, parts = trainer.loader.batch_size, trainer.train.accumulate * world_size()
    few = {count: part_of(count) for count in (FEWER, FEW)}
    inputs = {count: _input_bytes(batch) for count, batch in few.items()}
    kept = {count: _kept_bytes(trainer, batch) for count, batch in few.items()}
    low = trainer.execution.dtype.itemsize
    share = low / torch.float32.itemsize
    return StepMemory(
        weights_bytes=_weights_bytes(trainer, low if share < 1 else 0),
        batches_bytes=STEPS_HELD * _line(inputs, batch_size // world_size()),
        activations_bytes=int(BACKWARD * share * _line(kept, -(-batch_size // parts))),
        contrast_bytes=_contrast_bytes(trainer, few[FEW], batch_size),
        checkpoint_bytes=torch.float32.itemsize * _trained(trainer) * (1 + MOMENTS + _kept_copies(trainer)),
    )


def _trained(trainer: Trainer) -> int:
    named = dict(trainer.pipeline.model.named_parameters())
    return sum(named[name].numel() for name in trainer.names)


def _kept_copies(trainer: Trainer) -> int:
    """Copies of the trained weights beside them: the best, the average, those before training."""
    return 1 + (trainer.train.ema_decay > 0) + trainer.train.interpolate


def _weights_bytes(trainer: Trainer, low_bytes: int) -> int:
    """All weights, and for those that are trained gradients, moments and copies; `low_bytes` each in a bf16 copy."""
    trained, wide = _trained(trainer), torch.float32.itemsize
    total = sum(parameter.numel() for parameter in trainer.pipeline.model.parameters())
    return total * (wide + low_bytes) + trained * (wide * (1 + MOMENTS + _kept_copies(trainer)) + low_bytes)


def _line(sizes: Mapping[int, int], count: int) -> int:
    """The straight line through two points, at `count`."""
    (low, least), (high, most) = sizes.items()
    return least + (most - least) * (count - low) // (high - low)


def _input_bytes(batch: Batch) -> int:
    values = [value.values if isinstance(value, Stacked) else value for value in batch.inputs.values()]
    fields = [tensor for task in batch.by_task.values() for tensor in task.values()]
    return sum(tensor.nbytes for tensor in [*values, *fields])


def _kept_bytes(trainer: Trainer, batch: Batch) -> int:
    """Bytes of the tensors that the forward pass of a part keeps for the backward pass, each storage once."""
    model, tasks = trainer.pipeline.model.train(), trainer.pipeline.tasks
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # kept alive, so that no other storage gets its place

    step = Step(tasks, [batch], trainer.pipeline.device, torch.float32, False, True, ("memory",))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = [part(model, None) for part in step.parts()]
    found = sum(kept.values())
    del losses
    return found


@torch.no_grad()
def _contrast_bytes(trainer: Trainer, few: Batch, batch_size: int) -> int:
    """Embeddings of the whole batch with their gradients, and the largest stripe of similarities."""
    found = 0
    model, device = trainer.pipeline.model, trainer.pipeline.device
    for task in (task for task in trainer.pipeline.tasks.values() if isinstance(task, ContrastTask)):
        batch = few.to(device)
        inputs = {name: to_model_range(value, torch.float32) for name, value in batch.inputs.items()}
        vectors = task.embed(model, model.encode(inputs), batch, None).vectors
        rows = {name: len(vector) * batch_size // len(few.ids) for name, vector in vectors.items()}
        embedded = sum(rows[name] * vector.shape[1] for name, vector in vectors.items())
        pairs = min(rows["image"] * rows["text"], max(PIECE_PAIRS, rows["image"], rows["text"]))
        found += torch.float32.itemsize * (2 * embedded + COPIES * pairs)
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
