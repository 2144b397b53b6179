"""An open index: search by text, image or both; filters; re-ranking; updates and checks.

`Index.open` and `Index.build` return one. A search sees what other processes had written when it began.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes, write_bytes
from chiasm.data.image import read_image_bytes
from chiasm.pipeline.zero_shot_starter import STARTER
from chiasm.serve.engine import Model, load
from chiasm.serve.given import ImageInput
from chiasm.serve.index import rerank as reranking
from chiasm.serve.index.build import Encode, Progress, Report, delete, sync
from chiasm.serve.index.check import Finding, check
from chiasm.serve.index.duplicates import Duplicates, find_duplicates
from chiasm.serve.index.header import Header
from chiasm.serve.index.kinds import FLOAT32, as_kind
from chiasm.serve.index.metadata import Described
from chiasm.serve.index.postgres import PostgresStore, is_address
from chiasm.serve.index.sqlite import FILE, SqliteStore
from chiasm.serve.index.store import Store, Value, Vector
from chiasm.serve.index.strength import Strength, reference_vectors, standing_of_names, strength
from chiasm.serve.photos import Encoder, photo_paths

Path_ = str | PathLike[str]
MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: id of the image in this index while its file is unchanged; never reused.
        path: absolute path at indexing time.
        similarity: cosine to the query, in [-1, 1].
        score: with re-ranking, the softmax probability of the image among all re-ranked images, from cosine and fusion
            model together; None without.
        metadata: metadata of the image.
    """

    id: str
    path: str
    similarity: float
    score: float | None = None
    metadata: dict[str, Value] = field(default_factory=dict)


def is_index(place: Path_) -> bool:
    """Whether a path is an index rather than a run: a folder with an index database, or a PostgreSQL address."""
    return is_address(str(place)) or (Path(place) / FILE).is_file()


def open_index(path: Path_, model: Model | None = None, approximate: bool = False) -> "Index":
    """Open an index.

    Args:
        path: folder of the index, or a postgresql:// address.
        model: the model that made its vectors; None opens the run that it was built with.
        approximate: allow searches that may miss a few neighbours and are many times faster on a large index.

    Raises:
        InputError: no index, a damaged one, or vectors of another model.
    """
    store = open_store(path)
    try:
        header = store.header()
        if approximate and store.kind != FLOAT32:
            raise InputError(
                f"--approximate, and {store.where} keeps its vectors as {store.kind}",
                "an index that keeps float32",
                "search without --approximate, or build another index without --vectors",
            )
        opened = model if model is not None else _run_of(header, str(path))
        header.compute_alike(opened)
        header.check(Header.of(opened, header.run), store.where)
    except BaseException:
        store.close()
        raise
    return Index(store, opened, approximate)


def open_store(path: Path_, makes: bool = False) -> Store:
    """Open the tables of an index without its model; with `makes`, missing ones are created."""
    return PostgresStore(str(path), makes) if is_address(str(path)) else SqliteStore(Path(path), makes)


def _run_of(header: Header, where: str) -> Model:
    try:
        if not header.run:
            raise InputError("it was built with an open model, not with a run folder", "", "")
        return load(header.run)
    except InputError as error:
        raise InputError(
            f"the model of {where} cannot be opened: {error.given}",
            f"the run it was built with, in {header.run}",
            "say where it is now with --model RUN",
        ) from error


class Index:
    """Images that can be searched. Close it, or use it in a `with` block. Thread-safe.

    Args:
        store: the open tables.
        model: the model that made their vectors.
        approximate: see `open_index`.
    """

    def __init__(self, store: Store, model: Model, approximate: bool = False) -> None:
        self.store, self.model, self.approximate = store, model, approximate
        self._second = reranking.SecondLook(model)
        self._names: list[Vector | None] = []
        self._of_names: tuple[object, npt.NDArray[np.float64]] | None = None

    open = staticmethod(open_index)

    @classmethod
    def build(
        cls,
        photos: Sequence[Path_] | Path_,
        path: Path_,
        model: Model | Path_,
        metadata: Path_ | None = None,
        progress: Progress = lambda done, total: None,
        vectors: str = "",
    ) -> "Index":
        """Make an index of folders, or synchronise one with them, and return it open; arguments as in `make_index`."""
        index, _ = make_index(path, list(map(Path, _listed(photos))), model, metadata, progress, vectors=vectors)
        return index

    def __len__(self) -> int:
        return self.store.count()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; the model stays open."""
        self.store.close()

    # --- searching ------------------------------------------------------------------------------------------

    def search(
        self,
        query: str | ImageInput | None = None,
        *,
        text: str = "",
        image: ImageInput | None = None,
        count: int = 10,
        where: Mapping[str, Value] | None = None,
        rerank: bool = False,
    ) -> list[Hit]:
        """Find the images that match best.

        Args:
            query: a `str` is used as `text`, anything else as `image`.
            text: query text. With an image too, the query is the sum of both unit vectors.
            image: an image; a `str` is its path.
            count: maximum number of hits, 1 to 10,000.
            where: conditions that an image must all meet: metadata, `path` (or its end), `folder` (any level), or
                `size` in bytes. Values are compared as text, so 2021 equals "2021".
            rerank: re-rank the nearest images with the fusion model, by cosine and fusion score together.

        Returns:
            Best first; by `score` where they were re-ranked, else by `similarity`.

        Raises:
            InputError: no query, a broken image, an unknown key, or a model that cannot re-rank.
        """
        if isinstance(query, str):
            text = text or query
        elif query is not None:
            image = query if image is None else image
        if not 1 <= count <= MAX_COUNT:
            raise InputError(f"count is {count}", f"1 to {MAX_COUNT}", "ask for so many")
        if rerank:
            reranking.reranker(self.model)
            if not text.strip():
                raise InputError("re-ranking without a text", "a text, alone or with an image", "give a text")
        wanted = max(count, reranking.LOOKED_AT) if rerank else count
        hits = self.nearest(self.vector(text, image)[None], wanted, where)[0]
        return self._reranked(text, hits)[:count] if rerank else hits

    def vector(self, text: str = "", image: ImageInput | None = None) -> Vector:
        """A query as a unit vector float32 [e]."""
        given = text is not None and (bool(text) or image is None)
        parts = [self.model.encode_text([text])[0]] if given else []
        if image is not None:
            parts.append(self.model.encode_image([image])[0])
        if len(parts) == 1:
            return parts[0]
        total = parts[0] + parts[1]
        length = float(np.linalg.norm(total))
        if length < 1e-6:
            raise InputError("a text and an image whose vectors cancel out", "a query with a direction", "give one")
        return (total / length).astype(np.float32)

    def nearest(self, queries: Vector, count: int, where: Mapping[str, Value] | None = None) -> list[list[Hit]]:
        """As `search`, for many queries at once, given as unit vectors float32 [q, e].

        Raises:
            InputError: vectors of another width, or with numbers that are not finite.
        """
        if queries.ndim != 2 or queries.shape[1] != self.store.dim or not np.isfinite(queries).all():
            raise InputError(
                f"queries of shape {list(queries.shape)}, finite: {bool(np.isfinite(queries).all())}",
                f"finite float32 [q, {self.store.dim}]",
                "encode them with this index's model",
            )
        found = self.store.nearest(queries.astype(np.float32), count, where, self.approximate)
        items = self.store.items(list({number for pairs in found for number, _ in pairs}))
        # An item may have been removed between the two database queries.
        return [
            [
                Hit(str(number), items[number].path, cosine, None, items[number].metadata)
                for number, cosine in pairs
                if number in items
            ]
            for pairs in found
        ]

    def strength(self, text: str, hits: Sequence[Hit], where: Mapping[str, Value] | None = None) -> Strength | None:
        """Compare the results of a text query with those of unrelated words (see `index.strength`).

        Args:
            text: the query.
            hits: its results.
            where: the filter of the search.

        Returns:
            None where there are no hits, or where the model's vocabulary lacks the reference names.
        """
        if not self._names:
            self._names.append(reference_vectors(self.model))
        names = self._names[0]
        if names is None or not hits or not text.strip():
            return None
        found = [(int(hit.id), hit.similarity) for hit in hits]
        return strength(self.store, names, self._standing(names, where), self.vector(text), found)

    def _standing(self, names: Vector, where: Mapping[str, Value] | None) -> npt.NDArray[np.float64]:
        """`standing_of_names`; without a filter, cached until the index grows by some percent."""
        if where:
            return standing_of_names(self.store, names, where)
        state = f"{self.store.count():.1e}"  # two digits, so that a growing index is rarely recomputed
        if self._of_names is None or self._of_names[0] != state:
            self._of_names = state, standing_of_names(self.store, names)
        return self._of_names[1]

    def _reranked(self, text: str, hits: Sequence[Hit]) -> list[Hit]:
        cosines = {hit.id: hit.similarity for hit in hits}
        scores = self._second.scores(text, {hit.id: hit.path for hit in hits}, cosines)
        scored = [replace(hit, score=scores[hit.id]) for hit in hits if hit.id in scores]
        return sorted(scored, key=lambda hit: (-(hit.score or 0.0), -hit.similarity, int(hit.id)))

    def picture(self, id: str) -> bytes:  # noqa: A002  the word of the HTTP interface
        """The bytes of an image's file.

        Raises:
            InputError: the id is unknown, or the file is missing or has changed since it was indexed.
        """
        number = int(id) if id.isascii() and id.isdigit() and len(id) < 19 else -1
        item = self.store.items([number]).get(number)
        if item is None:
            raise InputError(f"there is no image {id!r}", "an id that a search returned", "search again")
        content = read_image_bytes(item.path)
        if sha256_bytes(content) != item.content:
            raise InputError(
                f"image {id} has changed since it was indexed", "the file as it was", "build the index again"
            )
        return content

    # --- updates and checks ---------------------------------------------------------------------------------

    def add(
        self,
        places: Path_ | Sequence[Path_],
        metadata: Path_ | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Report:
        """Add folders and files, one or a list. Items whose files no longer exist stay in the index."""
        described = Described(Path(metadata)) if metadata is not None else None
        return sync(
            self.store, Encoder(self.model).encode, list(map(Path, _listed(places))), progress, False, described
        )

    def delete(self, places: Path_ | Sequence[Path_] = (), where: Mapping[str, Value] | None = None) -> int:
        """Remove images by path, folder or filter; return how many. Files are not touched."""
        return delete(self.store, list(map(str, _listed(places))), where)

    def check(self) -> list[Finding]:
        """All problems found, each with its fix; empty where there are none."""
        return check(self.store)

    def duplicates(self, above: float = 0.9) -> Duplicates:
        """Groups of equal or nearly equal images, see `find_duplicates`."""
        return find_duplicates(self.store, above)


def _listed(places: Path_ | Sequence[Path_]) -> list[Path_]:
    return [places] if isinstance(places, str | PathLike) else list(places)


def make_index(
    path: Path_ | None,
    photos: Sequence[Path],
    model: Model | Path_,
    metadata: Path_ | None = None,
    progress: Progress = lambda done, total: None,
    spread: Callable[[Header], Encode] | None = None,
    forgets: bool = True,
    vectors: str = "",
) -> tuple[Index, Report]:
    """Make an index of folders, or synchronise one with them.

    Args:
        path: folder of the index, or a postgresql:// address; None for one in memory, whose vectors are cached on disk.
        photos: folders and image files.
        model: a run folder, whose path the index keeps; or an open model, which must be given again whenever the
            index is opened.
        metadata: table or data set with metadata of the images.
        progress: called after each part.
        spread: function from the index's header to an encoder in several processes; None encodes in this process.
        forgets: remove items whose files no longer exist in the folders.
        vectors: how a new index keeps them (`index.kinds`); "" is that of the index, and float32 for a new one.

    Raises:
        InputError: the index is another model's, or keeps its vectors otherwise; there is no image; another process
            writes to it.
    """
    described = Described(Path(metadata)) if metadata is not None else None
    opened = model if isinstance(model, Model) else load(model)
    named = "" if isinstance(model, Model) else str(model)
    named = STARTER if opened.pipeline.config.recipe == STARTER else named
    kind = as_kind(vectors or FLOAT32)
    if kind != FLOAT32 and path is not None and is_address(str(path)):
        raise InputError(f"--vectors {kind} in PostgreSQL", "float32 there", "build the index in a folder")
    for place in photos:
        photo_paths(place)  # raises for a wrong path before anything is created
    store = open_store(path, makes=True) if path is not None else SqliteStore(None)
    try:
        store.write_header(Header.of(opened, named, kind))
        store.header().compute_alike(opened)
        header = Header.of(opened, named, kind)
        store.header().check(header, store.where)
        if vectors and store.kind != kind:
            raise InputError(f"{store.where} keeps its vectors as {store.kind}", f"--vectors {store.kind}", "drop it")
        encode = spread(header) if spread is not None else Encoder(opened, keeps=path is None).encode
        report = sync(store, encode, photos, progress, forgets, described)
    except BaseException:
        store.close()
        raise
    return Index(store, opened), report


def folder_index(model: Model, folder: Path, progress: Progress = lambda done, total: None) -> tuple[Index, Report]:
    """An index in memory of one folder; vectors are cached, so each image is encoded only once."""
    return make_index(None, [folder], model, progress=progress)


def write_vectors(path: Path, index: Index) -> tuple[int, int]:
    """Write `vectors` float32 [n, e] of an index in memory or a folder as safetensors; return n and e.

    The images' paths are a JSON list in the file's metadata.
    """
    store = index.store
    assert isinstance(store, SqliteStore) and store.kind == FLOAT32, "the vectors are in memory"
    matrix = store.matrix()
    items = store.items(matrix.numbers.tolist())
    paths = [items[int(number)].path for number in matrix.numbers]
    content = save({"vectors": matrix.vectors}, metadata={"paths": json.dumps(paths, ensure_ascii=False)})
    write_bytes(path, content)
    return matrix.vectors.shape[0], matrix.vectors.shape[1]
