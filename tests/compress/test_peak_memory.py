"""Peak memory is that of a process which holds the model alone."""

from pathlib import Path

import pytest

from chiasm.compress.peak_memory import peak_memory_bytes
from chiasm.core.errors import JobError


def test_a_process_of_its_own_is_measured(tiny_run: Path) -> None:
    """Guards against a unit (kilobytes) that is taken for bytes: Python with torch needs over 100 MB."""
    assert 1e8 < peak_memory_bytes(tiny_run) < 4e9


def test_a_folder_that_does_not_open_is_told(tmp_path: Path) -> None:
    """Guards against a number that was printed before the process failed."""
    with pytest.raises(JobError, match=str(tmp_path)):
        peak_memory_bytes(tmp_path)
