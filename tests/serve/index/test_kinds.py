"""The words of `--vectors`."""

import pytest

from chiasm.core.errors import InputError
from chiasm.serve.index.kinds import KINDS, as_kind


def test_known_words_pass_and_others_are_refused() -> None:
    """Guards against a header of a later version whose vectors are read as numbers of four bytes."""
    assert [as_kind(word) for word in KINDS] == ["float32", "int8", "binary"]
    with pytest.raises(InputError, match="did you mean 'binary'"):
        as_kind("binery")
