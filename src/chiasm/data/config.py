"""Where examples come from, as a run's config says it."""

from dataclasses import dataclass, field
from typing import Literal

from chiasm.core.config import OPEN


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
