"""Whose vectors an index holds: a model and its preprocessing by their hashes; another one is refused, with the reason.

Two models of one width give vectors that can be compared and mean nothing; no error ever shows it later. A model of
which the text side alone differs makes the very same vectors of images: it has learned to read into the same space.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.pipeline.zero_shot_starter import STARTER
from chiasm.serve.engine import Model

FORMAT = "1"
"""Version of the tables; an index of another version is refused, never guessed at."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is written once, when an index is made.

    Attributes:
        format: `FORMAT`.
        run: the run folder, absolute, or "starter": where the model is looked for; "" where that is not known.
        dim: numbers a vector.
        image: the image tower's weights and preprocessing, and what leads from them into the shared space.
        text: the same of the text side, with its tokenizer, of the model that made the index; any other is taken too.
        precision: number format of the weights.
    """

    format: str
    run: str
    dim: str
    image: str
    text: str
    precision: str

    @classmethod
    def of(cls, model: Model, run: str) -> "Header":
        """The header of an index of this model's vectors."""
        pipeline = model.pipeline
        return cls(
            format=FORMAT,
            run=run if run in ("", STARTER) else str(Path(run).absolute()),
            dim=str(pipeline.config.model.embedding_dim),
            image=pipeline.embedding_fingerprint(),
            text=pipeline.query_fingerprint(),
            precision=str(next(pipeline.model.parameters()).dtype).removeprefix("torch."),
        )

    @classmethod
    def read(cls, rows: Mapping[str, str], where: str) -> "Header":
        """Make a header of the rows of its table; `where` names the index.

        Raises:
            InputError: of another format, or incomplete.
        """
        names = cls.__dataclass_fields__
        if rows.get("format") != FORMAT or not set(names) <= set(rows):
            raise InputError(
                f"{where} has format version {rows.get('format')!r}",
                f"an index of format version {FORMAT}",
                "build it again with this version of chiasm",
            )
        return cls(**{name: rows[name] for name in names})

    def rows(self) -> dict[str, str]:
        """The rows of its table."""
        return asdict(self)

    def check(self, model: "Header", where: str) -> None:
        """Refuse a model that did not make these vectors.

        Raises:
            InputError: says what differs, with the index's and the model's name for it.
        """
        for name, what in (
            ("dim", "width of the vectors"),
            ("image", "image weights or preprocessing"),
            ("precision", "number format"),
        ):
            old, new = getattr(self, name), getattr(model, name)
            if old != new:
                raise InputError(
                    f"{where} was built with another model: {what} {old}, the model given has {new}",
                    "the model that made its vectors" + (f", which was {self.run}" if self.run else ""),
                    "give that model, or make a new index: chiasm index build PHOTOS NEW_INDEX --model RUN",
                )
