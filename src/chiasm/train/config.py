"""Typed config of one run: returned by a recipe, changed by `--set`, stored in the run folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chiasm.core.config import by_kind, by_name, check_positive, from_dict
from chiasm.core.errors import InputError
from chiasm.data.config import DataConfig
from chiasm.data.opening import source_configs
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks import task_configs, task_type
from chiasm.tasks.base import TaskConfig

RENAMED = {"probe": "retention"}
"""Keys of `train` in run folders of format 1, and their names now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionConfig:
    """Held-out files of the old domain, measured before the first step, at each validation and after training."""

    path: str = ""
    """Folder or file of the old domain; "" measures nothing."""
    format: str = "auto"
    images: str = ""
    """Folder that relative image paths start from; "" means the layout's own."""
    languages: tuple[str, ...] = ("en",)
    label_prompts: tuple[str, ...] = ("a photo of a {label}.",)
    """Sentences that stand for a class where images have a label and no caption."""
    split: str = "val"
    metric: str = ""
    """What must be kept, larger being better; "" means text_to_image_R@10 where there are captions, else acc1."""
    examples: int = 500
    """Images that are measured, drawn once and the same in every run; 0 takes all."""
    max_drop: float = 0.05
    """Share of the first value, in [0, 1), that may be lost: 0.05 keeps at least 95 %."""
    on_drop: Literal["warn", "stop"] = "warn"
    """Action after a larger drop: "warn" prints a warning; "stop" ends training and restores the best weights."""

    def check(self, where: str) -> None:
        """Check what the types do not; `where` is the section's name in the config.

        Raises:
            InputError: a share or a count outside its range.
        """
        if not 0 <= self.max_drop < 1:
            raise InputError(f"{where}.max_drop is {self.max_drop}", "a number in [0, 1)", "0.05 keeps 95 %")
        if self.examples < 0 or self.examples == 1:
            raise InputError(
                f"{where}.examples is {self.examples}", "2 or more, or 0 for all", f"--set {where}.examples=500"
            )
        if not self.path and self.on_drop == "stop":
            raise InputError(
                f"{where}.on_drop is 'stop', and {where}.path is not set",
                "a folder or file of the old domain",
                f"--set {where}.path=FOLDER",
            )

    def floor(self, before: float) -> float:
        """Smallest value that passes, given the value `before` training."""
        return (1 - self.max_drop) * before


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The training loop."""

    steps: int = 0
    """Optimiser steps; 0 means `epochs` decides."""
    epochs: float = 0.0
    """Passes over the training examples; used where `steps` is 0."""
    least_steps: int = 0
    """Steps at least, where `epochs` decides: few examples are passed over more often, and validation keeps the best
    weights. 0 sets no floor."""
    batch_size: int = 256
    """Images in an optimiser step, over all processes and accumulation parts."""
    least_batches: int = 1
    """Batches a pass has at least: few examples make smaller batches, whose steps are cheaper. Contrast wants large
    batches, and leaves it at 1."""
    accumulate: int = 1
    """Parts that a batch is cut into to save memory; gradients are summed over them. A part counts by its words,
    questions or captions, so that the step is that of the whole batch; matching stays within a part."""
    exact_contrast: bool = True
    """With `accumulate` above 1, contrast the images and texts of all parts: value and gradient of the whole batch for
    one more forward pass of the towers (GradCache, Gao et al. 2021). False contrasts within each part."""
    unmasked_share: float = 0.1
    """Last share of the steps, in [0, 1], in which `model.image.patch_dropout` is off."""
    lr: float = 1e-3
    """Peak learning rate; 0 chooses one by the number of trained parameters, whether they are pre-trained, the batch
    and the steps (the rule stands in `train/rates.py`)."""
    warmup_steps: int = -1
    """Steps of linear warm-up; -1 means 5 % of the run, at most 500."""
    weight_decay: float = 0.05
    """AdamW decay of matrices; norms, biases, embeddings of position and the temperature have none."""
    beta2: float = 0.98
    clip_norm: float = 1.0
    """Largest gradient norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward and backward pass; "auto" measures this machine. Weights stay fp32 masters."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights that is evaluated and saved; 0 turns it off."""
    teacher: str = ""
    """Run folder of a model that tasks with `distil` learn from, in place of the moving average of the weights. It has
    the run's tokenizer, image size and answers."""
    validate_every: int = 0
    """Steps between validations; 0 means ten in the run."""
    validate_examples: int = 0
    """Examples of the validation split that validations during training measure, evenly spread; 0 takes all. The final
    measurement of the run takes all in any case; that of a stage before it takes these."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 means at every validation."""
    keep_checkpoints: int = 2
    patience: int = 0
    """Validations without a better primary metric before stopping early; 0 never stops."""
    limit_s: float = 0.0
    """Seconds that training may take; a run that would take longer gets fewer steps, by its measured speed, and its
    learning rate still comes down to zero. 0 means no limit."""
    process_timeout_s: float = 600.0
    """Seconds after which a process gives up that waits within a step for the other processes of the run."""
    shards: bool = False
    """Divide weights, gradients and optimiser state among the processes of the run (FSDP2) in place of keeping them
    whole in each (DDP): more communication for less memory. Without effect in one process."""
    trainable: tuple[str, ...] = ("*",)
    """Shell-style patterns of parameter names that are trained."""
    adapt: Literal["", "full", "projection", "locked_image", "locked_text", "lora"] = ""
    """How pre-trained towers are adapted: "full" trains them; "projection" freezes both; "locked_image" freezes the
    image tower (LiT, Zhai et al. 2022), "locked_text" the other; "lora" trains low-rank changes of their linear layers
    (Hu et al. 2022), merged when saved. "" leaves model.image.frozen and model.text.frozen as they are."""
    lora_rank: int = 8
    lora_alpha: float = 16.0
    """The low-rank change is scaled by lora_alpha / lora_rank."""
    layer_decay: float = 1.0
    """Factor, in (0, 1], on the learning rate of a tower's layer for each layer above it (0.65 to 0.9 are common)."""
    unfreeze_every: int = 0
    """Steps after which one more layer of the towers, from the top, starts to train (ULMFiT); 0 trains all at once."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    """Measures accuracy on the old domain while the model trains on new data."""
    interpolate: bool = False
    """Last step: weights between those before and after training, the share chosen on validation (WiSE-FT, Wortsman et
    al. 2022). Weights that started anew stay as trained."""
    weighting: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    """How the tasks' losses are put together: by their weights; by learned variances (Kendall et al. 2018); by taking
    from each task's gradient what goes against another's (PCGrad, Yu et al. 2020)."""
    conflict_every: int = 0
    """Steps between measurements of the cosine of the tasks' gradients, each a backward pass a task; 0: never."""

    def check(self, where: str) -> None:
        """Check what the types do not; `where` is the section's name in the config.

        Raises:
            InputError: a number outside its range, or a batch that cannot be cut into equal parts.
        """
        positive = (
            *("batch_size", "accumulate", "least_batches", "clip_norm", "keep_checkpoints", "process_timeout_s"),
            *("lora_rank", "lora_alpha"),
        )
        check_positive({f"{where}.{name}": getattr(self, name) for name in positive})
        if self.validate_examples < 0 or self.validate_examples == 1:
            raise InputError(
                f"{where}.validate_examples is {self.validate_examples}",
                "2 or more, or 0 for all",
                f"--set {where}.validate_examples=256",
            )
        if self.lr < 0:
            raise InputError(f"{where}.lr is {self.lr}", "a number above 0, or 0 to choose it", f"--set {where}.lr=0")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"{where}.batch_size {self.batch_size} is no multiple of {where}.accumulate {self.accumulate}",
                "equal parts",
                "change one of them",
            )
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"{where}.layer_decay is {self.layer_decay}", "a number in (0, 1]", "1 turns it off")
        if not 0 <= self.unmasked_share <= 1:
            raise InputError(
                f"{where}.unmasked_share is {self.unmasked_share}",
                "a share in [0, 1]",
                f"--set {where}.unmasked_share=0.1",
            )
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"{where}.ema_decay is {self.ema_decay}", "a number in [0, 1)", "0.999 is common")
        self.retention.check(f"{where}.retention")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """A training stage before the run's own; the next stage starts from its weights.

    `--set tasks.NAME.KEY=VALUE` holds for the task NAME of each stage too, unless the recipe gives the stage another
    value, or `stages.STAGE.tasks.NAME.KEY` is set.
    """

    tasks: Mapping[str, TaskConfig] = field(default_factory=dict, metadata=by_name(task_configs))
    train: TrainConfig = field(default_factory=TrainConfig)
    primary_metric: str = ""
    data: DataConfig | None = field(default=None, metadata=by_kind(source_configs, "source"))
    """The stage's own data; None takes the run's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(PipelineConfig):
    """Complete config of one run: the pipeline and its training."""

    train: TrainConfig = field(default_factory=TrainConfig)
    init_from: str = ""
    """Run folder whose weights are taken wherever name and shape agree, and whose tokenizer where the text tower reads
    one of that kind; or the word starter, in whose space the task retrieval then begins, and beside which the run is
    measured."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Stages before this one, in order; each starts from the one before it."""

    def check(self) -> None:
        """Check each section, and what spans sections: called once, after all overrides.

        Raises:
            InputError: an invalid value; names its key.
        """
        self.train.check("train")
        self.model.check("model")
        self.data.check()
        has_steps = self.train.steps > 0 or self.train.epochs > 0
        if not has_steps and not any(task.trains_without_steps for task in self.tasks.values()):
            raise InputError("train.steps and train.epochs are both 0", "one above 0", "--set train.epochs=10")
        _check_tasks("", self.tasks, self.train)
        for name, stage in self.stages.items():
            _check_tasks(f"stages.{name}.", stage.tasks, stage.train)
            stage.train.retention.check(f"stages.{name}.train.retention")
        if self.data.random_crop < 1 and self.model.image.frozen:
            raise InputError(
                f"data.random_crop {self.data.random_crop} with model.image.frozen true",
                "a trained image tower: a frozen one encodes every image once",
                "--set model.image.frozen=false, or --set data.random_crop=1",
            )
        if not self.tasks:
            raise InputError("no task is named", "at least one", "choose a recipe that has tasks")


def stored_run_config(values: Mapping[str, Any], where: str) -> RunConfig:
    """The config of a run folder, of this format or the one before; `where` names the source in errors.

    Raises:
        InputError: a key that no format version has, or a value of another type.
    """
    values = _with_new_names(values)
    if isinstance(stages := values.get("stages"), Mapping):
        values = {**values, "stages": {name: _with_new_names(stage) for name, stage in stages.items()}}
    return from_dict(RunConfig, values, where, is_stored=True)


def _with_new_names(section: Any) -> Any:
    """A run's or a stage's values with the keys of `train` under their present names, and the old meaning of none."""
    if not isinstance(section, Mapping) or not isinstance(train := section.get("train"), Mapping):
        return section
    named = {RENAMED.get(key, key): value for key, value in train.items()}
    if named.get("accumulate", 1) != 1:  # before `exact_contrast` there was one way
        named.setdefault("exact_contrast", False)
    return {**section, "train": named}


def weighed_tasks(config: RunConfig) -> tuple[str, ...]:
    """Tasks whose losses are weighed by a learned variance; () unless `train.weighting` is "uncertainty"."""
    return tuple(config.tasks) if config.train.weighting == "uncertainty" else ()


def config_of(pipeline: Pipeline) -> RunConfig:
    """The config of a pipeline that is being trained."""
    assert isinstance(pipeline.config, RunConfig), "a pipeline that is only served has no training to configure"
    return pipeline.config


def primary_metric(config: RunConfig) -> str:
    """The metric that picks the weights: the config's, or that of its first task."""
    return config.primary_metric or task_type(next(iter(config.tasks))).primary_metric


def validated_examples(config: RunConfig, examples: int) -> int:
    """How many of a split validations during training measure, `train.validate_examples` at most."""
    return min(config.train.validate_examples or examples, examples)


def _check_tasks(where: str, tasks: Mapping[str, TaskConfig], train: TrainConfig) -> None:
    """Run each task's checks; a task that distils needs a teacher, and a teacher such a task."""
    for name, task in tasks.items():
        task.check(f"{where}tasks.{name}")
        if task.learns_from_teacher and not (train.ema_decay or train.teacher):
            raise InputError(
                f"{where}tasks.{name} learns from a teacher, and {where}train has neither teacher nor ema_decay",
                "a run folder, or a moving average of the weights",
                f"--set {where}train.ema_decay=0.995, or --set {where}train.teacher=RUN",
            )
    if train.teacher and not any(task.learns_from_teacher for task in tasks.values()):
        raise InputError(
            f"{where}train.teacher is set, and no task learns from it",
            "a task with distil above 0: retrieval, masked_language_modelling or vqa",
            f"--set {where}tasks.retrieval.distil=0.5",
        )
