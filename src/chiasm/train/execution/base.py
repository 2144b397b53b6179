"""Interface between the training loop and the execution of its steps.

The loop defines what is computed: batches, losses, learning rate, validation and checkpoints. An execution plan
defines how: the number format of forward and backward, the processes and their communication, the placement of weights,
gradients and optimiser state, and the moving average of the weights. The loop holds no tensor of the model and does not
depend on the rank.

Requirements on a plan:

- The plan owns the module that computes. The loop never calls a model of its own; a part of a step receives the module
  to compute with. A plan may pass the model itself or a bf16 copy, and may call the part from the `forward` of a module
  that it has wrapped: that is the entry that DistributedDataParallel and FSDP2 hook into.
- `backward` receives all parts of a step at once, so a plan that reduces gradients during the backward pass may do so
  in the last part alone (`no_sync` of DDP).
- `pipeline.model` holds the whole fp32 weights in rank 0 outside a step: validation, the final measurement and the run
  folder read them there. A plan that shards them gathers them in `averaged`, `restore` and `state`.
- `state` returns whole tensors by the names that the plain model has, whatever the plan. A checkpoint therefore does
  not depend on the plan or the number of processes: one of N processes is read by M, each of which keeps its share.
- Every process calls the same methods in the same order, because each may contain collective operations.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from chiasm.models.vision_language import VisionLanguageModel
from chiasm.train.execution.teacher import TeacherModel

Part = Callable[[VisionLanguageModel, TeacherModel | None], Mapping[str, Tensor]]
"""One accumulation part of a step: (model to compute with, model that is learned from) -> scalar loss of each task.

The second is None where no task has `distil`."""


class Execution(ABC):
    """How steps are computed: first `prepare`, then `backward` and `step` in turn, and `state` at checkpoints."""

    @property
    @abstractmethod
    def is_rank0(self) -> bool:
        """Whether this process is the one that measures, writes and prints."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Number format that a part's floating-point inputs must have."""

    @abstractmethod
    def prepare(self, dtype: torch.dtype, checkpoint: Path | None) -> None:
        """Build optimiser, computing module and moving average; call once, before all else.

        Args:
            dtype: number format of the forward and backward pass; master weights stay fp32.
            checkpoint: verified folder whose weights and optimiser state are taken; None starts from the model's.

        Raises:
            InputError: a tensor of the checkpoint does not fit the model.
        """

    @abstractmethod
    def backward(self, parts: Sequence[Part], number: int) -> tuple[float, dict[str, float]]:
        """Compute the losses of a step's parts and the gradient of their mean, over all processes, clipped.

        Args:
            parts: at least one; each counts 1 / len(parts).
            number: steps done before this one.

        Returns:
            The gradient norm before clipping, and means over parts and processes: `TASK_loss` by task, `loss`, and
            `cosine/A~B` where the tasks' gradients were compared.
        """

    @abstractmethod
    def step(self, number: int, rate: Callable[[int], float]) -> None:
        """Update weights and moving average by the gradients of the last `backward`, and clear the gradients.

        Modules that change without a gradient (`models.stepwise`) change after the weights, before the average.

        Args:
            number: steps done before this one.
            rate: depth of a layer -> its learning rate (`train/adaptation.py` counts depths).
        """

    @abstractmethod
    def state(self, saved: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return what `prepare` needs to go on, on the CPU, by file of a checkpoint; {} in all processes but rank 0.

        Args:
            saved: names of the model's tensors that belong to the run; frozen pre-trained ones do not.
        """

    @abstractmethod
    def averaged(self) -> AbstractContextManager[None]:
        """Within the block `pipeline.model` has the weights of the moving average, where one is kept."""

    @abstractmethod
    def keep(self, name: str, parameters: Sequence[str] = ()) -> None:
        """Keep a copy of the weights that `pipeline.model` has now; it becomes part of `state`.

        Args:
            name: "best" or "before"; a copy of that name is replaced.
            parameters: those to copy; () copies all that are trained.
        """

    @abstractmethod
    def kept(self, name: str) -> Mapping[str, Tensor]:
        """The copy that `keep` made, by parameter name; {} where there is none."""

    @abstractmethod
    def restore(self, name: str) -> None:
        """Set the weights of `pipeline.model` to the kept copy; does nothing where there is none. Ends training."""

    @abstractmethod
    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over processes, position by position."""

    @abstractmethod
    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values in every process: for decisions made from clocks and measurements."""

    @abstractmethod
    def wait(self) -> None:
        """Block until every process has called this, for hours if rank 0 is measuring."""
