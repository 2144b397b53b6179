"""Image search: `open_index(path, model)` and the index it returns."""

from chiasm.serve.index.index import (
    Hit,
    Index,
    folder_index,
    is_index,
    make_index,
    open_index,
    open_store,
    write_vectors,
)

__all__ = ["Hit", "Index", "folder_index", "is_index", "make_index", "open_index", "open_store", "write_vectors"]
