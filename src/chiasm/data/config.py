"""Configuration of data sources: the section `data` of a run's config."""

from dataclasses import dataclass, field
from typing import Literal

from chiasm.core.config import OPEN
from chiasm.core.errors import InputError


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
    """Keys that every source of examples has; its own stand beside its dataset (`data.opening.SOURCES`)."""

    source: str = ""
    """The source's name; it decides which further keys there are."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes of the captions and questions to use; a generator draws from them, repeats weigh."""
    question_kinds: tuple[str, ...] = ()
    """Kinds of question to use, in every split; () uses all. The report lists the kinds."""
    label_prompts: tuple[str, ...] = ("a photo of a {label}.",)
    """Sentences that stand for a class where images have a label and no caption; or a word for several of them:
    photos_en, photos_zh, drawings_en, drawings_zh (`data.prompts`)."""
    others: dict[str, OtherDataConfig] = field(default_factory=dict, metadata=OPEN)
    """Further sets of files to train on, by a name of one's own: --set data.others.cats.path=CATS adds one."""
    mixture_temperature: float = 1.0
    """T in the share of a set in an epoch, proportional to weight * size^(1 / T): 1 keeps the sizes, infinity takes as
    much of each. An epoch is as many examples as all sets have; each set goes on where its last epoch ended."""
    on_leak: Literal["refuse", "drop", "keep"] = "refuse"
    """What becomes of a training image whose bytes, or whose group (a patient), are also in a split that is measured:
    the run is refused; the image is left out of training; or it is kept, with a warning."""
    leak_likeness: float = 0.0
    """Correlation, in [0, 1], of two small grey versions from which on images count as copies for `on_leak`: 0.98
    finds other sizes and compressions. 0 compares bytes alone, which costs seconds; this decodes every image."""
    max_rejected: float = 0.01
    """Share of unusable examples, in [0, 1], above which the run stops. Above 0, three of them never stop it where they
    are at most a fifth."""
    workers: int = 0
    """Threads that decode and resize images. 0 chooses: on a CPU one, since training takes the rest; with a GPU as
    many as there are processors, at most 8. The result is the same."""

    @property
    def is_generated(self) -> bool:
        """True where a program draws the examples."""
        return False

    @property
    def path(self) -> str:
        """Folder or file of the user's data; "" of a source without files."""
        return ""

    @property
    def train_split(self) -> str:
        """Split that is trained on, as the source names it."""
        return "train"

    @property
    def random_crop(self) -> float:
        """Least share, in (0, 1], of a training image's area that a step sees; 1 shows whole images."""
        return 1.0

    def check(self) -> None:
        """Check what no type can.

        Raises:
            InputError: names the first key whose value is out of its range.
        """
        if not 0 <= self.leak_likeness <= 1:
            raise InputError(f"data.leak_likeness is {self.leak_likeness}", "a number in [0, 1]", "0 turns it off")
        if self.workers < 0:
            raise InputError(f"data.workers is {self.workers}", "0 or more threads", "0 chooses")
        if not self.languages:
            raise InputError("data.languages is empty", "at least one language", "--set data.languages=en")
