"""The interface of a task: config, head, batch fields, loss, prediction, scorer and calibration, in one file a task.

Evaluation and serving both call `predict`, so a served answer is the evaluated answer. Only this package, `recipes`,
`cli` and the verbs of `serve` name a task.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from chiasm.core.distributed import sum_over_processes
from chiasm.core.errors import InputError
from chiasm.core.log import Progress
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction, Score, Turn
from chiasm.data.files import LABEL_GROUP
from chiasm.models.config import ModelConfig
from chiasm.models.heads import HeadSpec
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.calibration import Events
from chiasm.tasks.codec import Codec
from chiasm.tasks.heat_map import HeatMap
from chiasm.tasks.scoring import Context, Outcome, Scorer

Needs = Literal["captions", "questions", "labels", "conversations", "images"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """Config keys that all tasks share; the `Config` of a task adds its own."""

    weight: float = 1.0
    """Factor of the task's loss in the sum."""

    evaluation_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that evaluation alone reads: `chiasm evaluate --set` may change them in a trained run."""

    def check(self, where: str) -> None:
        """Check ranges that the types do not express.

        Args:
            where: the section's name in the config.

        Raises:
            InputError: a value out of its range.
        """

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the task distils from `train.teacher`, or from the moving average of the weights."""
        return False

    @property
    def has_text_teacher(self) -> bool:
        """Whether the text tower is distilled from the text tower of the run in `init_from`."""
        return False

    @property
    def trains_without_steps(self) -> bool:
        """Whether a run of this task is complete without an optimiser step."""
        return False


@dataclass(frozen=True, slots=True)
class Query:
    """One query about one encoded example; a task uses the fields that it needs.

    Attributes:
        row: index of the encoded example.
        text: a question or sentence.
        language: language of the answer, ISO 639-1.
        among: labels to choose from.
        prompts: templates with `{label}`, for zero-shot classification.
        turns: a conversation that ends with the user's turn.
    """

    row: int
    text: str = ""
    language: str = ""
    among: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()


def queries_of(texts: Sequence[str], rows: Sequence[int]) -> list[Query]:
    """One query for each text, about row `rows[i]`."""
    return [Query(row, text) for text, row in zip(texts, rows, strict=True)]


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that tasks learn from, and the batch's inputs encoded with it, both without gradients."""

    model: VisionLanguageModel
    encoded: Encoded


C = TypeVar("C", bound=TaskConfig)


class Task(ABC, Generic[C]):
    """Base class of a task. It is stateless: weights are in the model, vocabularies and calibration in the codec.

    Args:
        config: the task's own keys, of its class `Config`.
        model: config of the model.

    Attributes:
        name: key in configs and files.
        primary_metric: the metric that picks the best weights where the run names none.
        Config: class of the task's config.
        objectives: values of the key `objective`, the usual one first; () where the task has no such key.
        needs: part of an example that the task is trained and evaluated on; `data.label_prompts` turn labels into
            captions.
        reads_text: whether a query contains a text.
        vocabularies: name of each vocabulary of the task -> name prefix of the head's tensors with one row per entry.
        head_in_format_1: name prefix of the head's tensors in run folders of format 1 -> prefix after `heads.TASK.`.
        inputs: names of the inputs that the task uses.
        no_shares: metrics of the task that are no shares in [0, 1], and are printed as numbers.
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
    no_shares: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: C, model: ModelConfig) -> None:
        self.config, self.model = config, model

    # --- data -------------------------------------------------------------------------------------------------

    def is_fed(self, example: Example) -> bool:
        """Whether an example has what the task `needs`."""
        words = example.captions or example.questions or example.turns or example.label
        given = {
            "captions": example.captions,
            "questions": example.questions,
            "labels": example.label,
            "conversations": words,
            "images": example.inputs.get(IMAGE),
        }
        return bool(given[self.needs])

    def is_measurable(self, example: Example) -> bool:
        """Whether the primary metric is defined on an example; captions made from a label do not count."""
        return self.is_fed(example) and not (self.needs == "captions" and example.group.startswith(LABEL_GROUP))

    def check(self) -> None:
        """Check before training that the task supports the model.

        Raises:
            InputError: names the config key that does not fit.
        """

    def vocabulary(self, examples: Sequence[Example], stated: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Build each of `vocabularies` from training examples.

        Args:
            examples: the training split.
            stated: answers of a pre-trained network, in the order of its output rows; () without one.

        Raises:
            InputError: the examples contain no entry.
        """
        return {}

    @property
    def objective(self) -> str:
        """The config's `objective`, or the first of `objectives`; "" for a task without this key."""
        return getattr(self.config, "objective", "") or next(iter(self.objectives), "")

    @property
    def contrast(self) -> str:
        """Contrastive objective of the shared embedding space; "" for a task without one."""
        return ""

    def head(self, codec: Codec) -> HeadSpec | None:
        """Specification of `model.heads[self.name]`; None for a task without a head."""
        return None

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """Texts that a frozen text tower encodes for training and evaluation; may contain duplicates."""
        return [caption.text for example in examples for caption in example.captions]

    def check_examples(self, model: VisionLanguageModel, codec: Codec, examples: Iterable[Example]) -> None:
        """Check examples before the first step, such as the length of their texts.

        Raises:
            InputError: names file and row of the first example that the task cannot be trained on.
        """

    @property
    def makes_conversations(self) -> bool:
        """Whether the model writes training examples itself (`own_conversations`)."""
        return False

    def own_conversations(
        self, model: VisionLanguageModel, codec: Codec, seed: int, progress: Progress
    ) -> Sequence[Sequence[Turn]]:
        """Conversations without images that the model writes before the first step, to be trained on beside the data.

        Args:
            model: as training starts from it, in evaluation mode.
            codec: tokenizer and vocabularies.
            seed: of the run; what is written depends on it.
            progress: called with (done, total, what).
        """
        return ()

    # --- training ---------------------------------------------------------------------------------------------

    @abstractmethod
    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """Return this task's training fields for the examples of a batch, in their order."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Number of loss terms in a batch (words, questions or captions); 0 for a batch without data of the task.

        It weights the parts of a step (`train.accumulate`). A task that samples its terms, such as masked words,
        returns the size of the set that it samples from.
        """

    def loss(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None = None
    ) -> dict[str, Tensor]:
        """Return the named loss terms, with the total under "loss".

        If no process has data of the task in its batch, the loss is 0 with zero gradients.

        Args:
            model: the model in training.
            encoded: the batch's inputs by name, encoded once for all tasks.
            batch: the batch of this process.
            teacher: given if a task of the run distils.
        """
        if not sum_over_processes([self.count(batch)])[0]:
            return {"loss": _no_loss(model, encoded)}
        return self._terms(model, encoded, batch, teacher)

    @abstractmethod
    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """`loss` if at least one process has data of the task.

        As `core.distributed` requires, all processes make the same calls; those without data pass empty tensors through
        the same modules. Means are over the terms of all processes.
        """

    def head_to_fit(self, model: VisionLanguageModel) -> nn.Linear | None:
        """Linear head to fit on pooled features before the first optimiser step; None for most tasks."""
        return None

    def alarm(self, model: VisionLanguageModel, scores: Mapping[str, Score]) -> str:
        """What a validation during training shows to be wrong, and what to do; "" where nothing is.

        Args:
            model: in evaluation mode.
            scores: of the validation.
        """
        return ""

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

    def heat_maps(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, asked: Sequence[Any]
    ) -> list[HeatMap | None]:
        """Attention map over the image for each query, or for each prediction of a task that describes images.

        None where the task has no attention over the image's places.
        """
        return [None] * len(asked)

    @abstractmethod
    def scorer(self, context: Context) -> Scorer | None:
        """Scorer of the task for one view of a split; None if the task is undefined in that view."""

    def calibrate(self, outcome: Outcome) -> Events | None:
        """The events whose probability is the task's confidence; calibration is fitted on them.

        Args:
            outcome: uncalibrated outcome of the task on the validation split, view "seen" (`Context.is_calibrating`).

        Returns:
            None if the task has no confidence, or the split no such events.
        """
        return None

    @abstractmethod
    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """Outputs for the stored example of a run folder; opening the folder compares them with the saved ones.

        Args:
            model: in evaluation mode.
            codec: tokenizer, vocabularies and calibration.
            encoded: the example's inputs, one row.
            words: "text" (a caption) and "question", if the example has them.
            language: language of generated text.

        Returns:
            Output name -> text or number; {} if the example has no input for the task.
        """


def _no_loss(model: VisionLanguageModel, encoded: Encoded) -> Tensor:
    """Zero with a zero gradient, also for a batch without inputs or with a tower that gets no gradient."""
    for tokens in (tokens for tokens in encoded.values() if tokens.pooled.requires_grad):
        return tokens.pooled.float().sum() * 0
    trained = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    return trained.float().sum() * 0


def check_inputs(task: Task[Any]) -> None:
    """Check that the model has an encoder for every input that a task uses.

    Raises:
        InputError: names the missing key `model.inputs.NAME`.
    """
    for name in task.inputs:
        if name != IMAGE and name not in task.model.inputs:
            raise InputError(
                f"the task {task.name} without model.inputs.{name}",
                "an encoder for each input of the task: " + ", ".join(task.inputs),
                f"--set model.inputs.{name}.kind=KIND, or remove the task",
            )


def check_share(where: str, key: str, value: float, is_below_one: bool = False, hint: str = "0 turns it off") -> None:
    """Check that a share lies in [0, 1], or in [0, 1).

    Raises:
        InputError: names the key.
    """
    if not (0 <= value < 1 if is_below_one else 0 <= value <= 1):
        allowed = "a number in [0, 1)" if is_below_one else "a share in [0, 1]"
        raise InputError(f"{where}.{key} is {value}", allowed, hint)
