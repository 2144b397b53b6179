"""What every generator of examples shares: a known split, languages that it speaks, and a ledger without rejections."""

from collections.abc import Sequence

from chiasm.core.errors import InputError, nearest
from chiasm.data.config import DataConfig
from chiasm.data.dataset import PlainDataset
from chiasm.data.ledger import Ledger


class GeneratedDataset(PlainDataset):
    """Base of the generators: examples are drawn when they are asked for, and none can be broken.

    Args:
        split: one of `splits`.
        config: its languages are checked.
        length: number of examples of the split.
        splits: the generator's splits.
        languages: ISO 639-1 codes of the languages that it writes captions and questions in.

    Raises:
        InputError: another split or language.
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
