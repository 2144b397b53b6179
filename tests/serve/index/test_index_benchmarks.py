"""The benchmarks of the index at a small size, and what they rest on."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from chiasm.serve.index import make_index, open_index
from chiasm.serve.index.matrix import Matrix

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    place = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_nothing_acknowledged_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against items lost or torn by a kill; the naive writer shows that these kills would be noticed."""
    kill = benchmark("index_kill", monkeypatch)
    acknowledged, problems = kill.trial(kill.Real, 12)
    assert problems == [] and acknowledged >= 12
    assert kill.trial(kill.Naive, 12)[1], "the control"


def test_counting_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the guard: a count that finds nothing wrong with anything proves nothing."""
    kill = benchmark("index_kill", monkeypatch)
    right = {path: kill.vector_of(path) for part in (0, 1) for path in kill.paths_of(part)}
    for path in kill.forgotten_by(1):
        assert "too many" in kill.wrong(right, 1)
        del right[path]
    assert kill.wrong(right, 1) == ""
    torn = {**right, "/picture-20": -right["/picture-20"]}
    assert "1 wrong" in kill.wrong(torn, 1)
    del right["/picture-20"]
    assert "1 lost" in kill.wrong(right, 1)


def test_search_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a script that fails on the day it is needed."""
    pytest.importorskip("faiss")
    search = benchmark("index_search", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["index_search", "4000", "32", "1"])
    search.main()
    said = capsys.readouterr().out
    assert "neighbours that both name: 1.0000" in said and said.count("recall@10") == 12


def test_photos_benchmark(
    tiny_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against another recall through the index than evaluation's."""
    photos_benchmark = benchmark("index_photos", monkeypatch)
    (photos / "broken.png").unlink()
    rows = "".join(f"{n:02}.png,a red circle and number {n},val\n" for n in range(1, 30, 2))
    (photos / "table.csv").write_text("image,caption,split\n" + rows + "even/00.png,a blue square,train\n")
    monkeypatch.setattr(sys, "argv", ["index_photos", str(tiny_run), str(photos / "table.csv"), "--rounds", "1"])
    monkeypatch.setattr(photos_benchmark, "LEAST_SHARE", 0.0)
    with pytest.raises(SystemExit) as end:
        photos_benchmark.main()
    said = capsys.readouterr().out
    assert end.value.code == 0, said
    assert "text_to_image_R@1: evaluate" in said and "re-ranking, after" in said


@pytest.mark.long
def test_several_processes_write_the_same_index(photos: Path, tmp_path: Path, tiny_run: Path) -> None:
    """Guards against other vectors, lost pictures or forgotten broken ones where Ray encodes."""
    pytest.importorskip("ray.data")
    import subprocess

    code = (
        "import sys; from pathlib import Path; from chiasm.serve.index import make_index;"
        "from chiasm.serve.index.spread import spread_over; run, photos, place = sys.argv[1:];"
        "print(make_index(place, [Path(photos)], run, spread=spread_over(Path(run), 1))[1].text())"
    )
    words = [sys.executable, "-c", code, str(tiny_run), str(photos), str(tmp_path / "spread")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "30 added" in done.stdout and "1 rejected (truncated 1)" in done.stdout
    here, _ = make_index(tmp_path / "here", [photos], tiny_run)
    spread = open_index(tmp_path / "spread")

    def by_path(matrix: Matrix, index: object) -> dict[str, np.ndarray]:
        items = index.store.items(matrix.numbers.tolist())
        return {items[int(n)].path: row for n, row in zip(matrix.numbers, matrix.vectors, strict=True)}

    ours, theirs = by_path(here.store.matrix(), here), by_path(spread.store.matrix(), spread)
    assert ours.keys() == theirs.keys()
    for path, row in ours.items():
        np.testing.assert_allclose(theirs[path], row, atol=1e-5)
