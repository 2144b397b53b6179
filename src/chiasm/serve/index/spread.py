"""Encoding in several processes, on one host or several, with Ray Data; one process writes the index.

The images and the run folder must have the same paths on every host.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.data.image import ImageError
from chiasm.serve.engine import load
from chiasm.serve.index.build import Encode
from chiasm.serve.index.header import Header
from chiasm.serve.photos import AT_ONCE, Encoded, Encoder, Known


class _Worker:
    """A worker process of the cluster, with one model that encodes many parts."""

    def __init__(self, run: str, header: dict[str, str]) -> None:
        model = load(run)
        # Vectors of a host with other weights or library versions must not be mixed with the others.
        Header(**header).compute_alike(model)
        Header(**header).check(Header.of(model, run), "the index that this host encodes for")
        self.encoder = Encoder(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        paths = [str(path) for path in batch["path"]]
        found = [image for part in self.encoder.encode(paths) for image in part]
        nothing = np.zeros(self.encoder.model.pipeline.config.model.embedding_dim, dtype=np.float32)
        return {
            "path": paths,
            "content": [image.content for image in found],
            "size_bytes": np.array([image.size_bytes for image in found], dtype=np.int64),
            "state": [image.state for image in found],
            "problem": ["" if image.problem is None else image.problem.code for image in found],
            "vector": np.stack([nothing if image.vector is None else image.vector for image in found]),
        }


def spread_over(run: Path, workers: int, address: str = "") -> Callable[[Header], Encode]:
    """An encoder for `make_index(spread=...)`, in `workers` processes of the cluster at `address`.

    Args:
        run: the run folder, or "starter".
        workers: number of processes, each with its own model.
        address: a running cluster; "" starts one on this host and stops it at the end.

    Raises:
        MissingExtraError: the extra [ray] is not installed.
    """

    def for_header(header: Header) -> Encode:
        def encode(paths: Sequence[str], known: Known | None = None) -> Iterator[list[Encoded]]:
            return _encode(paths, str(run), header, workers, address)

        return encode

    return for_header


def _encode(paths: Sequence[str], run: str, header: Header, workers: int, address: str) -> Iterator[list[Encoded]]:
    if not paths:
        return
    ray = _ray()
    # Ray sends no usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_mine = not ray.is_initialized()
    if is_mine and address:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    elif is_mine:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        parts = max(workers, -(-len(paths) // (4 * AT_ONCE)))
        rows = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=min(parts, len(paths)))
        named = str(Path(run).absolute()) if Path(run).exists() else run
        encoded = rows.map_batches(
            _Worker,
            fn_constructor_args=(named, header.rows()),
            batch_size=AT_ONCE,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        for batch in encoded.iter_batches(batch_size=AT_ONCE):
            yield _rows(batch)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, InputError):
            raise cause from None
        raise
    finally:
        if is_mine:
            ray.shutdown()


def _rows(batch: dict[str, Any]) -> list[Encoded]:
    found = []
    for number, path in enumerate(map(str, batch["path"])):
        code = str(batch["problem"][number])
        facts = (path, str(batch["content"][number]), int(batch["size_bytes"][number]), str(batch["state"][number]))
        if code:
            found.append(Encoded(*facts, problem=ImageError(code, path)))
        else:
            found.append(Encoded(*facts, vector=np.array(batch["vector"][number], dtype=np.float32)))
    return found


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    return ray
