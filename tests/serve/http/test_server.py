"""What the process does under load and when it is told to stop, on a model that is slow on purpose."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from doors import Said, data_uri, running

from chiasm.core.errors import InputError
from chiasm.serve.engine import Model
from chiasm.serve.http.decoders import Decoders
from chiasm.serve.http.server import listen
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings, read_token

LABELS = ["a", "b"]


class Slow:
    """Lets the model wait before it classifies."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.calls = threading.Event(), 0
        inner = model.classify

        def classify(*given: Any) -> Any:
            self.calls += 1
            assert self.open.wait(20)
            return inner(*given)

        monkeypatch.setattr(model, "classify", classify)


@pytest.fixture
def slow(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(model, monkeypatch)
    yield made
    made.open.set()


def until(what: Any) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_overload_is_refused_and_ends(model: Model, files: list[bytes], slow: Slow) -> None:
    """Guards against a queue without an end, a refusal that takes long or says nothing, and one that never lifts."""
    body = {"image": data_uri(files[0]), "labels": LABELS}
    settings = ServerSettings(queue_rows=4, max_items=4, max_rows=2)
    with running(Service(model, "demo", settings)) as door, ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(door, "/v1/classify", body) for _ in range(4)]
        until(lambda: door.service.batcher.admitted == 4)
        start = time.monotonic()
        refused = door("/v1/classify", body)
        assert refused.status == 503 and refused.code == "busy" and int(refused.headers["retry-after"]) >= 1
        assert time.monotonic() - start < 1 and door("/readyz").status == 503 and door("/healthz").status == 200
        slow.open.set()
        assert {one.result().status for one in waiting} == {200}
        assert door("/v1/classify", body).status == 200 and door("/readyz").status == 200


def test_deadline_is_kept(model: Model, files: list[bytes], slow: Slow) -> None:
    """Guards against a client that waits forever."""
    with running(Service(model, "demo", ServerSettings(timeout_s=0.2))) as door:
        said = door("/v1/classify", {"image": data_uri(files[0]), "labels": LABELS})
        assert said.status == 503 and said.code == "deadline" and said.headers["retry-after"]
        slow.open.set()


def test_deadline_counts_the_decoding(model: Model, files: list[bytes], slow: Slow, monkeypatch: Any) -> None:
    """Guards against a deadline that begins anew when the picture is ready."""
    inner = Decoders.run

    async def run(*given: Any) -> Any:
        await asyncio.sleep(0.6)
        return await inner(*given)

    monkeypatch.setattr(Decoders, "run", run)
    with running(Service(model, "demo", ServerSettings(timeout_s=1.0))) as door:
        start = time.monotonic()
        said = door("/v1/classify", {"image": data_uri(files[0]), "labels": LABELS})
        assert said.code == "deadline" and 0.9 < time.monotonic() - start < 1.4
        slow.open.set()


def test_client_that_left_is_not_computed(model: Model, files: list[bytes], slow: Slow) -> None:
    """Guards against work for a client that hung up while it waited."""
    body = json.dumps({"image": data_uri(files[0]), "labels": LABELS}).encode()
    with running(Service(model, "demo", ServerSettings())) as door, ThreadPoolExecutor(1) as clients:
        first = clients.submit(door, "/v1/classify", body)
        until(lambda: slow.calls == 1)
        place = urlsplit(door.address)
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as raw:
            head = f"POST /v1/classify HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: door.service.batcher.admitted == 2)
        until(lambda: door.service.batcher.admitted == 1)
        slow.open.set()
        assert first.result().status == 200
        until(lambda: door.service.batcher.stats.left == 1)
        assert slow.calls == 1


def test_stopping_answers_what_is_open(model: Model, files: list[bytes], slow: Slow) -> None:
    """Guards against a stop that cuts requests off, and one that takes new ones."""
    import signal

    body = {"image": data_uri(files[0]), "labels": LABELS}
    with running(Service(model, "demo", ServerSettings())) as door, ThreadPoolExecutor(8) as clients:
        waiting = [clients.submit(door, "/v1/classify", body) for _ in range(8)]
        until(lambda: door.service.batcher.admitted == 8)
        door.stop(signal.SIGTERM)
        until(lambda: door("/readyz").status == 503)
        late: Said = door("/v1/classify", body)
        assert late.status == 503 and late.code == "draining"
        slow.open.set()
        assert [one.result().status for one in waiting] == [200] * 8


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 without a token"),  # noqa: S104
        ({"host": "::"}, "--host :: without a token"),
        ({"host": "example.org"}, "without a token"),
        ({"token": "short"}, "a token of 5 characters"),
        ({"queue_rows": 3}, "a queue of 3 rows"),
        ({"max_connections": 0}, "max_connections is 0"),
        ({"max_held_bytes": 2**20}, "max_held_bytes is 1048576"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"allow_domains": ("https://example.org",)}, "--allow-domain https://example.org"),
    ],
)
def test_dangerous_settings_are_refused(changes: dict[str, Any], given: str) -> None:
    """Guards against a server that is open to the network by mistake."""
    with pytest.raises(InputError, match=given.replace(".", r"\.")):
        ServerSettings(**changes).check()
    ServerSettings(host="0.0.0.0", token="x" * 16).check()  # noqa: S104
    ServerSettings(host="::1").check()


def test_token_comes_from_a_private_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a token that every user of the machine can read, and an empty one that opens the door to all."""
    file = tmp_path / "token"
    file.write_text("sixteen characters\n")
    file.chmod(0o644)
    with pytest.raises(InputError, match="may be read by others"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == "sixteen characters"
    for nothing in ("", " \n"):
        file.write_text(nothing)
        with pytest.raises(InputError, match="holds no token"):
            read_token(file)
    monkeypatch.delenv("CHIASM_TOKEN", raising=False)
    assert read_token(None) == ""
    monkeypatch.setenv("CHIASM_TOKEN", "of the environment")
    assert read_token(None) == "of the environment"
    monkeypatch.setenv("CHIASM_TOKEN", "")
    with pytest.raises(InputError, match="CHIASM_TOKEN holds no token"):
        read_token(None)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_a_port_in_use_is_said_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against half a minute of loading, and a message about files, where another server has the port."""
    from chiasm.cli import main

    with socket.create_server(("127.0.0.1", 0)) as other, pytest.MonkeyPatch.context() as patch:
        port = other.getsockname()[1]
        patch.setattr("sys.argv", ["chiasm", "serve", "nowhere", "--port", str(port)])
        with pytest.raises(SystemExit) as end:
            main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and f"port {port} of 127.0.0.1 is in use" in said and "--port" in said


def test_an_address_of_another_machine_is_refused() -> None:
    """Guards against advice about permissions where the address is wrong."""
    with pytest.raises(InputError, match=r"192\.0\.2\.1 cannot be listened at"):
        listen("192.0.2.1", 8000)
