"""What a task is: one file that owns a problem, from its config to its scores.

Evaluation and serving both call `predict`, so a served answer is the evaluated answer. Nothing outside this room, the
recipes and the user's verbs knows a task by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from chiasm.core.distributed import sum_over_processes
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction
from chiasm.data.files import LABEL_GROUP
from chiasm.models.config import ModelConfig
from chiasm.models.heads import HeadSpec
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.calibration import Events
from chiasm.tasks.codec import Codec
from chiasm.tasks.scoring import Context, Outcome, Scorer

Needs = Literal["captions", "questions", "labels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """The keys that every task has; each task's `Config` adds those that mean something for it."""

    weight: float = 1.0
    """Factor of the task's loss in the sum."""

    def check(self, where: str) -> None:
        """Refuse values that no type refuses.

        Args:
            where: the section's name in the config.

        Raises:
            InputError: a value out of its range.
        """

    @property
    def learns_from_average(self) -> bool:
        """Whether the moving average of the weights is the task's teacher, which `train.ema_decay` must then keep."""
        return False

    @property
    def has_text_teacher(self) -> bool:
        """Whether the text tower learns from that of the run of `init_from`."""
        return False

    @property
    def trains_without_steps(self) -> bool:
        """Whether a run of this task is complete without an optimiser step."""
        return False


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of one encoded example; a task reads the fields that it needs.

    Attributes:
        row: which of the encoded rows it is about.
        text: a question, a sentence.
        language: of the answer, ISO 639-1.
        among: labels to choose from.
        prompts: sentences with `{label}`, for labels that are read.
    """

    row: int
    text: str = ""
    language: str = ""
    among: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


def queries_of(texts: Sequence[str], rows: Sequence[int]) -> list[Query]:
    """One query for each text, about row `rows[i]`."""
    return [Query(row, text) for text, row in zip(texts, rows, strict=True)]


@dataclass(frozen=True, slots=True)
class Teacher:
    """The moving average of the model, and the batch's inputs as it encodes them; no gradient reaches either."""

    model: VisionLanguageModel
    encoded: Encoded


C = TypeVar("C", bound=TaskConfig)


class Task(ABC, Generic[C]):
    """One problem. A task is stateless: weights are in the model, vocabularies and calibration in the codec.

    Args:
        config: the task's own keys, of its class `Config`.
        model: sizes and kinds of the model's parts.

    Attributes:
        name: in configs and files.
        primary_metric: the metric that picks the best weights where the run names none.
        Config: class of the task's config.
        objectives: values of the key `objective`, the usual one first; () where the task has no such key.
        needs: what of an example the task learns from and is measured on; a label counts as a caption where
            `data.label_prompts` make one of it.
        reads_text: whether a text is part of a query.
        vocabularies: name of each vocabulary that the task reads -> beginning of the names of the tensors of its head
            that have a row for each word.
        head_in_format_1: beginning of the names of the head's tensors in run folders of format 1 -> what stands in its
            place after `heads.TASK.`.
        inputs: names of the inputs that the task reads.
    """

    name: ClassVar[str]
    primary_metric: ClassVar[str]
    Config: ClassVar[type[TaskConfig]] = TaskConfig
    objectives: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[Needs] = "captions"
    reads_text: ClassVar[bool] = True
    vocabularies: ClassVar[Mapping[str, str]] = {}
    head_in_format_1: ClassVar[Mapping[str, str]] = {}
    inputs: ClassVar[tuple[str, ...]] = (IMAGE,)

    def __init__(self, config: C, model: ModelConfig) -> None:
        self.config, self.model = config, model

    # --- data -------------------------------------------------------------------------------------------------

    def is_fed(self, example: Example) -> bool:
        """Whether an example has what the task `needs`."""
        given = {"captions": example.captions, "questions": example.questions, "labels": example.label}
        return bool(given[self.needs])

    def is_measurable(self, example: Example) -> bool:
        """Whether the primary metric can be measured on an example: captions must be written, not made of a label."""
        return self.is_fed(example) and not (self.needs == "captions" and example.group.startswith(LABEL_GROUP))

    def check(self) -> None:
        """Refuse a model that the task cannot work with, before anything is trained.

        Raises:
            InputError: says which key does not fit.
        """

    def vocabulary(self, examples: Sequence[Example], stated: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """The words of each of `vocabularies`, from training examples.

        Args:
            examples: of the training split.
            stated: answers that a pre-trained network was made with, in the order of its rows; () for all others.

        Raises:
            InputError: the examples have none.
        """
        return {}

    @property
    def contrast(self) -> str:
        """Objective of the contrast that gives images and texts a shared space; "" for a task without one."""
        return ""

    def head(self, codec: Codec) -> HeadSpec | None:
        """The head that the model has for the task, as `model.heads[self.name]`; None for a task without one."""
        return None

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """Texts that a frozen text tower reads for the task, in training and evaluation; repeats do no harm."""
        return [caption.text for example in examples for caption in example.captions]

    # --- training ---------------------------------------------------------------------------------------------

    @abstractmethod
    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """Return this task's training fields for the examples of a batch, in their order."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Number of terms of the loss of a batch: words, questions, captions; 0 where it has nothing of the task.

        Parts of a step count by it (`train.accumulate`). A task that draws its terms, such as masked words, returns the
        number of what it draws from.
        """

    def loss(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None = None
    ) -> dict[str, Tensor]:
        """Return named terms with the total under "loss", from inputs encoded once for all tasks.

        Where no process finds anything of the task in its batch, the loss is a zero with a zero gradient.

        Args:
            model: what is trained.
            encoded: the batch's inputs, by name.
            batch: the batch of this process.
            teacher: there where a task of the run distils.
        """
        if not sum_over_processes([self.count(batch)])[0]:
            return {"loss": encoded[self.inputs[0]].pooled.float().sum() * 0}
        return self._terms(model, encoded, batch, teacher)

    @abstractmethod
    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """`loss`, where at least one process has something of the task.

        The contract is that of `core.distributed`: the same calls in every process, also in one with nothing of its
        own, whose empty rows go through the same modules; means over the terms of all processes.
        """

    def head_to_fit(self, model: VisionLanguageModel) -> nn.Linear | None:
        """The linear head that is fitted in closed form on vectors before the first step; None for most tasks."""
        return None

    # --- answers ----------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Answer each query.

        Args:
            model: in evaluation mode.
            codec: tokenizer, vocabularies and calibration.
            encoded: n encoded examples, by input.
            queries: m, each about one of the n rows.

        Returns:
            m predictions.
        """

    @abstractmethod
    def scorer(self, context: Context) -> Scorer | None:
        """What scores the task on one view of a split; None for a view in which the task has nothing to be asked."""

    def calibrate(self, outcome: Outcome) -> Events | None:
        """The events of which the task's confidence is the probability.

        Args:
            outcome: of a pass of this task over validation, seen, without calibration (`Context.is_calibrating`).

        Returns:
            None where the task has no confidence, or the split has no such events.
        """
        return None

    @abstractmethod
    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """Answers about the stored example of a run folder, which are compared when the folder is opened.

        Args:
            model: in evaluation mode.
            codec: tokenizer, vocabularies and calibration.
            encoded: one row.
            words: "text", a caption, and "question", as far as the example has them.
            language: of what is written.

        Returns:
            Name -> text or number; {} where the example has nothing that the task could be asked.
        """


def check_share(where: str, key: str, value: float, is_below_one: bool = False, hint: str = "0 turns it off") -> None:
    """Refuse a share outside [0, 1], or [0, 1).

    Raises:
        InputError: names the key.
    """
    if not (0 <= value < 1 if is_below_one else 0 <= value <= 1):
        allowed = "a number in [0, 1)" if is_below_one else "a share in [0, 1]"
        raise InputError(f"{where}.{key} is {value}", allowed, hint)
