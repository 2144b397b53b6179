"""Shared by all tests: one sleeping thread, no user cache touched, and the folder of real data where there is one."""

import os
import signal
from pathlib import Path

import jaxtyping
import pytest

# Before torch is loaded: the tests' models are too small for a second thread, and `make test` runs two processes side
# by side, whose threads would starve each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell that starts `make test &` has its children ignore SIGINT, and theirs too: tests of Ctrl-C would wait forever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["small_pipeline", "speaking"]

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPES_CHECKED = ("contract", "models", "objectives", "tasks")
"""Folders of tests in which jaxtyping checks every call; see `--jaxtyping-packages` in pyproject.toml."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has its own feature cache, so that none passes because of what another left."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def checked_shapes(request: pytest.FixtureRequest) -> None:
    """The shapes that signatures state are checked at each call in the tests of the rooms of `SHAPES_CHECKED` alone.

    Elsewhere, where tests train and serve whole models, the check would take a third of the time.
    """
    room = request.path.relative_to(REPOSITORY / "tests").parts[0]
    jaxtyping.config.update("jaxtyping_disable", room not in SHAPES_CHECKED)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data: `CHIASM_DATA` or `../shared/data`; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("CHIASM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data: {folder} is absent (set CHIASM_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `chiasm demo --tiny`, for all tests that only read one; copy it to change it."""
    import io

    from rich.console import Console

    from chiasm.recipes.table import find_recipe
    from chiasm.train.run import run

    folder = tmp_path_factory.mktemp("tiny") / "demo"
    run(find_recipe("demo", tiny=True), folder, False, Console(file=io.StringIO()))
    return folder
