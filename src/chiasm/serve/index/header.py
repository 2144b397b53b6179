"""The header of an index: hashes of the model and preprocessing that made its vectors. Another model is refused.

Vectors of two models of equal width can be compared without an error, and the result means nothing. A model that
differs in its text side alone is accepted, because it makes the same image vectors in the same space.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.pipeline.zero_shot_starter import STARTER
from chiasm.serve.engine import Model
from chiasm.serve.index.kinds import FLOAT32

FORMAT = "1"
"""Version of the tables; an index of another version is refused."""


@dataclass(frozen=True, slots=True)
class Header:
    """Facts that are written once, when an index is made.

    Attributes:
        format: `FORMAT`.
        run: absolute path of the model's run folder, or "starter"; "" where it is unknown.
        dim: width of a vector.
        image: hash of the image tower's weights, its preprocessing and its projection into the shared space.
        text: hash of the text tower's weights, tokenizer and projection; a model with another one is accepted.
        precision: number format of the weights; then, after commas, the parts that computed the vectors in another one,
            such as "float32, image int8".
        vectors: how the index keeps its vectors (`index.kinds`); an index without this row keeps float32.
    """

    format: str
    run: str
    dim: str
    image: str
    text: str
    precision: str
    vectors: str = FLOAT32

    @classmethod
    def of(cls, model: Model, run: str, vectors: str = FLOAT32) -> "Header":
        """The header of an index of this model's vectors, kept as `vectors` says."""
        pipeline = model.pipeline
        own, formats = str(next(pipeline.model.parameters()).dtype), pipeline.execution.of_embeddings
        own = own.removeprefix("torch.")
        return cls(
            format=FORMAT,
            run=run if run in ("", STARTER) else str(Path(run).absolute()),
            dim=str(pipeline.config.model.embedding_dim),
            image=pipeline.embedding_fingerprint(),
            text=pipeline.query_fingerprint(),
            precision=", ".join([own, *(f"{name} {form}" for name, form in formats.items())]),
            vectors=vectors,
        )

    def compute_alike(self, model: Model) -> None:
        """Let a model compute its images' vectors in the formats of this index, where the machine can.

        Vectors of another format are not mixed in: `check` refuses a model that computes in another one after this.
        """
        named = [part.rpartition(" ") for part in self.precision.split(", ")[1:]]
        model.pipeline.execution.embed_as({name: form for name, _, form in named})  # type: ignore[misc]

    @classmethod
    def read(cls, rows: Mapping[str, str], where: str) -> "Header":
        """Read a header from the rows of its table; `where` names the index in messages.

        Raises:
            InputError: the format is another one, or a row is missing.
        """
        rows, names = {"vectors": FLOAT32, **rows}, cls.__dataclass_fields__
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
            InputError: names what differs, with the hashes of the index and of the model.
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
