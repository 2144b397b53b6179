"""Base of all generators of examples: known splits, supported languages, and a ledger without rejections."""

from collections.abc import Sequence
from dataclasses import dataclass

from chiasm.core.errors import InputError, nearest
from chiasm.data.config import DataConfig
from chiasm.data.dataset import PlainDataset
from chiasm.data.ledger import Ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedConfig(DataConfig):
    """Keys that every generator has."""

    train_pictures: int = 0
    """Number of generated training images."""

    @property
    def is_generated(self) -> bool:
        """True: the examples are generated."""
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class AskingConfig(GeneratedConfig):
    """Keys of generators that can generate any number of questions about an image."""

    eval_pictures: int = 500
    """Number of generated images of each other split."""
    questions_per_picture: int = 12
    """Number of questions about an image; they are new in each epoch."""

    def check(self) -> None:
        """Check `questions_per_picture`, and the keys of every source.

        Raises:
            InputError: names the key.
        """
        DataConfig.check(self)
        if self.questions_per_picture <= 0:
            raise InputError(
                f"data.questions_per_picture is {self.questions_per_picture}",
                "a number above 0",
                "--set data.questions_per_picture=...",
            )

    def length(self, split: str) -> int:
        """Number of images of a split."""
        return self.train_pictures if split == "train" else self.eval_pictures


class GeneratedDataset(PlainDataset):
    """Base class of generators: examples are generated on access, and none is ever rejected.

    Args:
        split: one of `splits`.
        config: its languages are checked.
        length: number of examples of the split.
        splits: the generator's splits.
        languages: ISO 639-1 codes of the languages of its captions and questions.

    Raises:
        InputError: the split or a language is unknown.
    """

    is_generated = True

    def __init__(
        self, split: str, config: DataConfig, length: int, splits: Sequence[str], languages: Sequence[str]
    ) -> None:
        unknown = [language for language in config.languages if language not in languages]
        if unknown:
            raise InputError(
                f"data.languages has {unknown[0]!r}, which the generator {config.source!r} does not speak",
                "languages of " + ", ".join(languages),
                "--set data.languages=en",
            )
        if split not in splits:
            raise InputError(
                f"unknown split {split!r}{nearest(split, splits)}", "one of " + ", ".join(splits), "choose one"
            )
        self.split, self.length, self.ledger = split, length, Ledger()
        self.ledger.offer(length)
        self.ledger.use(length)

    def __len__(self) -> int:
        return self.length
