"""The typed tree that describes one run. A recipe returns it, `--set` changes it, the run folder keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chiasm.core.config import OPEN
from chiasm.core.errors import InputError
from chiasm.core.probe_config import ProbeConfig
from chiasm.core.tower_config import ImageTowerConfig, TextTowerConfig

FusionName = Literal[
    "sum",
    "shared_sum",
    "concat_mlp",
    "gated",
    "bilinear",
    "film",
    "cross_attention",
    "co_attention",
    "merged_attention",
    "align_then_fuse",
    "resampler",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherDataConfig:
    """A further set of files that takes part in training, beside the one that `data` names."""

    path: str = ""
    format: str = "auto"
    images: str = ""
    languages: tuple[str, ...] = ("en",)
    split: str = "train"
    """Split, or several joined by "+", that is trained on."""
    weight: float = 1.0
    """Factor of the set's share in the mixture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where examples come from."""

    source: Literal["files", "scenes", "sort_of_clevr", "boxes"] = "files"
    """Files on disk, or a generator that needs none."""
    path: str = ""
    """Folder or file of the user's data (source "files")."""
    format: str = "auto"
    """Name of a layout, or "auto" to recognise it from the files."""
    images: str = ""
    """Folder that relative image paths start from; "" means the layout's own."""
    train_split: str = "train"
    """Split that is trained on; several are joined by "+", such as "train+hidden"."""
    fold: str = ""
    """"2/5" keeps the second of five parts of it, drawn by picture or group, out of training and validation: for
    cross-validation, as the split "held_out" (--set test_split=held_out). "" keeps nothing out."""
    others: dict[str, OtherDataConfig] = field(default_factory=dict, metadata=OPEN)
    """Further sets of files to train on, by a name of one's own: --set data.others.cats.path=CATS adds one."""
    mixture_temperature: float = 1.0
    """T in the share of a set in an epoch, proportional to weight * size^(1 / T): 1 keeps the sizes, infinity takes as
    much of each. An epoch is as many examples as all sets have; each set goes on where its last epoch ended."""
    label_prompts: tuple[str, ...] = ("a photo of a {label}.",)
    """Sentences that stand for a class where pictures have a label and no caption; or a word for several of them:
    photos_en, photos_zh, drawings_en, drawings_zh (`data.prompts`)."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes of the captions and questions to use; a generator draws from them, repeats weigh."""
    train_pictures: int = 0
    """Pictures that a generator makes for training."""
    eval_pictures: int = 500
    """Pictures that a generator makes for each other split."""
    questions_per_picture: int = 12
    """Questions asked about a picture in each training step; more are drawn anew each epoch."""
    question_kinds: tuple[str, ...] = ()
    """Kinds of question to use, in every split; () uses all. The report lists the kinds."""
    symmetries: bool = False
    """Show training pictures of Sort-of-CLEVR mirrored, turned and recoloured in each epoch after the first, with the
    answers that are then true (source "sort_of_clevr"). The published set has no such augmentation."""
    on_leak: Literal["refuse", "drop", "keep"] = "refuse"
    """What becomes of a training picture whose bytes, or whose group (a patient), are also in a split that is measured:
    the run is refused; the picture is left out of training; or it is kept, and told of."""
    leak_likeness: float = 0.0
    """Correlation, in [0, 1], of two small grey versions from which on pictures count as copies for `on_leak`: 0.98
    finds other sizes and compressions. 0 compares bytes alone, which costs seconds; this decodes every picture."""
    max_rejected: float = 0.01
    """Share of unusable examples, in [0, 1], above which the run stops. Above 0, three of them never stop it where they
    are at most a fifth."""
    random_crop: float = 1.0
    """Least share, in (0, 1], of a training picture's area that a step sees: a window at another place and of another
    size in each epoch, for towers that are trained on files. 1 shows pictures as they are measured."""
    workers: int = 0
    """Threads that decode and resize pictures. 0 chooses: on a CPU one, since training takes the rest; with a GPU as
    many as there are processors, at most 8. What comes out is the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and parts of the model; parts that no task uses are not built."""

    dim: int = 128
    """Token width."""
    heads: int = 2
    fusion: FusionName = "cross_attention"
    """How pictures and words meet; docs/fusion.md compares the methods."""
    fusion_layers: int = 2
    fusion_mlp_ratio: float = 4.0
    decoder_layers: int = 2
    embedding_dim: int = 256
    """Width of the space that pictures and sentences share."""
    modality_dropout: float = 0.0
    """Probability, in [0, 1), that fusion sees a training row without its picture; as often, among the rest, without
    its text."""
    projection_hidden: int = 0
    """Hidden width of the projection into that space; 0 means a linear projection."""
    dropout: float = 0.0
    network: str = ""
    """Folder of a whole network of pictures and words (BLIP, ViLT), local, in place of all the parts named here; the
    towers below then name the same folder, for its preprocessing and its tokenizer."""
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """How much a task counts."""

    weight: float = 1.0
    """Factor of the task's loss in the sum."""
    captions_per_picture: int = 1
    """Captions of a picture that take part in a step, drawn anew each epoch; all of them are positives."""
    objective: str = ""
    """Which loss, where the task has several: retrieval "softmax" (CLIP), "sigmoid" (SigLIP) or "additive"; vqa
    "softmax", "soft" (several answers weighed) or "generate" (written word by word). "" is the first of them."""
    negatives: Literal["hard", "random"] = "hard"
    """Wrong pairs of the task "matching": drawn by similarity, or evenly."""
    mask_share: float = 0.15
    """Share of words that masked language modelling hides (Devlin et al. 2019)."""
    word_patch_weight: float = 0.0
    """Weight of word-patch alignment within the task "matching" (ViLT: 0.1)."""
    hard_negatives: float = 0.0
    """Share, in [0, 1], of captions that the task "retrieval" also shows with an attribute, the count, the relation or
    the order swapped by rule, for pictures not to find (NegCLIP); above 0 `evaluate` adds caption_swap_accuracy."""
    text_teacher: float = 0.0
    """Share, in [0, 1], of the loss of "retrieval" that draws a new text tower to where the run of `init_from` puts the
    same words, or what it puts for the other captions of their picture (Reimers and Gurevych 2020)."""
    distil: float = 0.0
    """Share of the moving average's soft targets (ALBEF: 0.4); needs train.ema_decay above 0."""
    label_smoothing: float = 0.0
    """Share of the target given to all other words or answers."""
    linear_probe: bool = False
    """The head of the task "classification" begins as the linear probe of `chiasm probe`: logistic regression on the
    frozen image tower's vectors, whose strength is chosen on a fifth of training. With train.steps and train.epochs 0
    that is all that is trained."""
    abstain_risk: float = 0.0
    """Share of wrong answers that is tolerated among those given; a threshold for abstaining is fitted to it on
    validation. 0 never abstains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingConfig:
    """How captions and written answers are found, word by word."""

    method: Literal["greedy", "beam", "nucleus"] = "greedy"
    beams: int = 3
    """Sentences kept at once (method "beam")."""
    top_p: float = 0.9
    """Probability that the words drawn from hold together (method "nucleus", Holtzman et al. 2020)."""
    temperature: float = 1.0
    """Divisor of the logits before drawing (method "nucleus")."""
    length_penalty: float = 1.0
    """Exponent of the length that a beam's log-probability is divided by; larger favours longer sentences."""
    min_words: int = 0
    """Tokens before a sentence may end."""
    max_words: int = 0
    """Tokens after which a sentence ends; 0 means the longest text of the text tower."""
    no_repeat_ngram: int = 0
    """Length of the runs of tokens that may not occur twice; 0 allows repetition."""


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
    """Pictures in an optimiser step, over all processes and accumulation parts."""
    least_batches: int = 1
    """Batches a pass has at least: few examples make smaller batches, whose steps are cheaper. Contrast wants large
    batches, and leaves it at 1."""
    accumulate: int = 1
    """Parts that a batch is cut into to save memory; gradients are summed over them. A part counts by its words,
    questions or captions, so that the step is that of the whole batch; contrast and matching stay within a part."""
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
    validate_every: int = 0
    """Steps between validations; 0 means ten in the run."""
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
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Watches that what the model knew before is kept."""
    interpolate: bool = False
    """Last step: weights between those before and after training, the share chosen on validation (WiSE-FT, Wortsman et
    al. 2022). Weights that started anew stay as trained."""
    weighting: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    """How the tasks' losses are put together: by their weights; by learned variances (Kendall et al. 2018); by taking
    from each task's gradient what goes against another's (PCGrad, Yu et al. 2020)."""
    conflict_every: int = 0
    """Steps between looks at the cosine of the tasks' gradients; 0 never looks. A look costs a backward pass a task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """Training that comes before the run's own, on other tasks, and hands its weights on."""

    tasks: dict[str, TaskConfig] = field(default_factory=dict, metadata=OPEN)
    train: TrainConfig = field(default_factory=TrainConfig)
    primary_metric: str = ""
    data: DataConfig | None = None
    """The stage's own data; None takes the run's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run, complete."""

    recipe: str
    """Name of the recipe that made this config."""
    seed: int = 0
    primary_metric: str = ""
    """The metric of validation that picks the best weights; "" means the first task's."""
    test_split: str = "val"
    """Split that the final table is measured on."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict, metadata=OPEN)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    init_from: str = ""
    """Run folder whose tokenizer is taken, and whose weights wherever name and shape agree; or the word starter, in
    whose space the task retrieval then begins, and beside which the run is measured."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Stages before this one, in order; each starts from the one before it."""

    def check(self) -> None:
        """Check what no single field can: called once, after all overrides."""
        train, data = self.train, self.data
        positive = {
            "train.batch_size": train.batch_size,
            "train.accumulate": train.accumulate,
            "train.least_batches": train.least_batches,
            "train.clip_norm": train.clip_norm,
            "train.keep_checkpoints": train.keep_checkpoints,
            "train.process_timeout_s": train.process_timeout_s,
            "train.lora_rank": train.lora_rank,
            "train.lora_alpha": train.lora_alpha,
            "model.dim": self.model.dim,
            "model.heads": self.model.heads,
            "model.image.size_px": self.model.image.size_px,
            "model.image.points": self.model.image.points,
            "data.questions_per_picture": data.questions_per_picture,
        }
        for key, value in positive.items():
            if value <= 0:
                raise InputError(f"{key} is {value}", "a number above 0", f"--set {key}=...")
        if train.lr < 0:
            raise InputError(f"train.lr is {train.lr}", "a number above 0, or 0 to choose it", "--set train.lr=0")
        if train.steps <= 0 and train.epochs <= 0 and not any(task.linear_probe for task in self.tasks.values()):
            raise InputError("train.steps and train.epochs are both 0", "one above 0", "--set train.epochs=10")
        if train.batch_size % train.accumulate:
            raise InputError(
                f"train.batch_size {train.batch_size} is no multiple of train.accumulate {train.accumulate}",
                "equal parts",
                "change one of them",
            )
        if self.model.dim % self.model.heads:
            raise InputError(
                f"model.dim {self.model.dim} is no multiple of model.heads {self.model.heads}",
                "equal heads",
                "change one",
            )
        if not 0 < train.layer_decay <= 1:
            raise InputError(f"train.layer_decay is {train.layer_decay}", "a number in (0, 1]", "1 turns it off")
        if not 0 <= train.ema_decay < 1:
            raise InputError(f"train.ema_decay is {train.ema_decay}", "a number in [0, 1)", "0.999 is common")
        _check_distillation("", self.tasks, train)
        train.probe.check("train.probe")
        for name, stage in self.stages.items():
            _check_distillation(f"stages.{name}.", stage.tasks, stage.train)
            stage.train.probe.check(f"stages.{name}.train.probe")
        if self.model.text.max_tokens < 3:
            raise InputError(
                f"model.text.max_tokens is {self.model.text.max_tokens}",
                "3 or more: start, a word, end",
                "--set model.text.max_tokens=48",
            )
        _check_data(data, self.model)
        if not self.tasks:
            raise InputError("no task is named", "at least one", "choose a recipe that has tasks")


def _check_data(data: DataConfig, model: ModelConfig) -> None:
    """Shares are shares, and what is shown differently each time is looked at each time."""
    if not 0 <= data.leak_likeness <= 1:
        raise InputError(f"data.leak_likeness is {data.leak_likeness}", "a number in [0, 1]", "0 turns it off")
    if not 0 < data.random_crop <= 1:
        raise InputError(f"data.random_crop is {data.random_crop}", "a share in (0, 1]", "1 turns it off")
    if data.random_crop < 1 and (data.source != "files" or model.image.frozen):
        raise InputError(
            f"data.random_crop {data.random_crop} with "
            + ("model.image.frozen true" if data.source == "files" else f"data.source {data.source!r}"),
            "files, and an image tower that is trained: a frozen one sees every picture once",
            "--set model.image.frozen=false, or --set data.random_crop=1",
        )
    if data.workers < 0:
        raise InputError(f"data.workers is {data.workers}", "0 or more threads", "0 chooses")
    if not data.languages:
        raise InputError("data.languages is empty", "at least one language", "--set data.languages=en")
    if data.source == "files" and not data.path:
        raise InputError("data.path is not set", "a folder or file with pictures and texts", "--data FOLDER")
    if data.source != "files" and data.path:
        raise InputError(
            f"data.path is {data.path!r} with data.source {data.source!r}, which makes pictures of its own",
            "a path with data.source files",
            f"--data {data.path} in the place of --set data.path",
        )


def _check_distillation(where: str, tasks: Mapping[str, TaskConfig], train: TrainConfig) -> None:
    """A task that learns from the moving average needs one; shares are shares."""
    for name, task in tasks.items():
        for key, value in (("hard_negatives", task.hard_negatives), ("text_teacher", task.text_teacher)):
            if not 0 <= value <= 1:
                raise InputError(f"{where}tasks.{name}.{key} is {value}", "a share in [0, 1]", "0 turns it off")
        if not 0 <= task.distil < 1:
            raise InputError(f"{where}tasks.{name}.distil is {task.distil}", "a number in [0, 1)", "ALBEF takes 0.4")
        if task.distil and not train.ema_decay:
            raise InputError(
                f"{where}tasks.{name}.distil is {task.distil} and {where}train.ema_decay 0",
                "a moving average, which is the teacher",
                f"--set {where}train.ema_decay=0.995",
            )
