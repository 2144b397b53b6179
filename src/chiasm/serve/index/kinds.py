"""How an index keeps its vectors: the words of `--vectors`."""

from typing import Literal, cast, get_args

from chiasm.core.errors import InputError, nearest

Kind = Literal["float32", "int8", "binary"]
"""Numbers of four bytes; integers of one byte; signs in memory, and numbers of four bytes on disk (`codes`)."""
FLOAT32: Kind = "float32"
INT8: Kind = "int8"
KINDS: tuple[str, ...] = get_args(Kind)


def as_kind(word: str) -> Kind:
    """Check the word of `--vectors`.

    Raises:
        InputError: there is no such kind.
    """
    if word not in KINDS:
        raise InputError(f"--vectors {word}{nearest(word, KINDS)}", ", ".join(KINDS), "choose one")
    return cast(Kind, word)
