"""Shared by all tests: sleeping threads, no user cache touched, and the folder of real data where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is loaded: spinning threads starve each other when anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has its own feature cache, so that none passes because of what another left."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data: `CHIASM_DATA`, or `../shared/data`; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("CHIASM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data: {folder} is absent (set CHIASM_DATA)")
    return folder
