"""The typed tree that describes one run. A recipe returns it, `--set` changes it, the run folder keeps it."""

from dataclasses import dataclass, field
from typing import Literal

from chiasm.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where examples come from."""

    source: Literal["files", "scenes", "sort_of_clevr"] = "files"
    """Files on disk, or a generator that needs none."""
    path: str = ""
    """Folder or file of the user's data (source "files")."""
    format: str = "auto"
    """Name of a layout, or "auto" to recognise it from the files."""
    images: str = ""
    """Folder that relative image paths start from; "" means the layout's own."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes of the captions and questions to use; a generator draws from them, repeats weigh."""
    train_pictures: int = 0
    """Pictures that a generator makes for training."""
    eval_pictures: int = 500
    """Pictures that a generator makes for each other split."""
    questions_per_picture: int = 12
    """Questions asked about a picture in each training step; more are drawn anew each epoch."""
    symmetries: bool = False
    """Show training pictures of Sort-of-CLEVR mirrored, turned and recoloured in each epoch after the first, with the
    answers that are then true (source "sort_of_clevr"). The published set has no such augmentation."""
    max_rejected: float = 0.01
    """Share of unusable examples, in [0, 1], above which the run stops."""
    workers: int = 0
    """Decoding threads; 0 decodes in the training thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTowerConfig:
    """The image encoder."""

    kind: Literal["conv", "efficientnet_lite0"] = "conv"
    size_px: int = 48
    """Side of the square that pictures are resized to."""
    channels: tuple[int, ...] = (32, 64, 128, 128)
    """Output channels of the stem's stride-2 convolutions (kind "conv")."""
    layers: int = 1
    """Transformer blocks over the image tokens (kind "conv")."""
    frozen: bool = False
    """Keep the pre-trained weights and encode each picture once; the outputs are cached by content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTowerConfig:
    """The text encoder."""

    kind: Literal["transformer", "minilm"] = "transformer"
    layers: int = 1
    max_tokens: int = 48
    """Longest text in tokens, special tokens included; longer texts are cut and counted."""
    vocabulary: int = 4000
    """Largest vocabulary that the tokenizer may learn from the data (kind "transformer")."""
    summary_tokens: int = 0
    """Learned tokens that gather a question for fusion; 0 lets every word take part."""
    frozen: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and parts of the model; parts that no task uses are not built."""

    dim: int = 128
    """Token width."""
    heads: int = 2
    fusion: Literal["cross_attention"] = "cross_attention"
    fusion_layers: int = 2
    fusion_mlp_ratio: float = 4.0
    decoder_layers: int = 2
    embedding_dim: int = 256
    """Width of the space that pictures and sentences share."""
    projection_hidden: int = 0
    """Hidden width of the projection into that space; 0 means a linear projection."""
    dropout: float = 0.0
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """How much a task counts."""

    weight: float = 1.0
    """Factor of the task's loss in the sum."""
    captions_per_picture: int = 1
    """Captions of a picture that take part in a step, drawn anew each epoch; all of them are positives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The training loop."""

    steps: int = 0
    """Optimiser steps; 0 means `epochs` decides."""
    epochs: float = 0.0
    """Passes over the training examples; used where `steps` is 0."""
    batch_size: int = 256
    """Pictures in an optimiser step, over all processes and accumulation parts."""
    accumulate: int = 1
    """Parts that a batch is cut into to save memory; gradients are summed over them. Contrast is within a part."""
    lr: float = 1e-3
    """Peak learning rate."""
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
    trainable: tuple[str, ...] = ("*",)
    """Shell-style patterns of parameter names that are trained."""


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
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """Check what no single field can: called once, after all overrides."""
        train, data = self.train, self.data
        positive = {
            "train.batch_size": train.batch_size,
            "train.accumulate": train.accumulate,
            "train.lr": train.lr,
            "train.clip_norm": train.clip_norm,
            "train.keep_checkpoints": train.keep_checkpoints,
            "model.dim": self.model.dim,
            "model.heads": self.model.heads,
            "model.image.size_px": self.model.image.size_px,
            "data.questions_per_picture": data.questions_per_picture,
        }
        for key, value in positive.items():
            if value <= 0:
                raise InputError(f"{key} is {value}", "a number above 0", f"--set {key}=...")
        if train.steps <= 0 and train.epochs <= 0:
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
        if not 0 <= train.ema_decay < 1:
            raise InputError(f"train.ema_decay is {train.ema_decay}", "a number in [0, 1)", "0.999 is common")
        if self.model.text.max_tokens < 3:
            raise InputError(
                f"model.text.max_tokens is {self.model.text.max_tokens}",
                "3 or more: start, a word, end",
                "--set model.text.max_tokens=48",
            )
        if not data.languages:
            raise InputError("data.languages is empty", "at least one language", "--set data.languages=en")
        if not self.tasks:
            raise InputError("no task is named", "at least one", "choose a recipe that has tasks")
        if data.source == "files" and not data.path:
            raise InputError(
                "data.path is not set", "a folder or file with pictures and texts", "--set data.path=FOLDER"
            )
