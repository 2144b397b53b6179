"""A server in a thread of this process, and the door to it."""

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chiasm.serve.http.server import DrainingServer, listen, server_config
from chiasm.serve.http.service import Service


@dataclass(frozen=True)
class Said:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


@dataclass(frozen=True)
class Door:
    """Where a server listens."""

    address: str
    service: Service
    server: DrainingServer

    def stop(self, signal: int) -> None:
        """What a signal does, which only a process's first thread could be sent."""
        self.server.loop.call_soon_threadsafe(self.server.handle_exit, signal, None)

    def __call__(self, path: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None) -> Said:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.address + path, content, sent, method=method or None)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return Said(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Said(error.code, dict(error.headers), error.read())


@contextmanager
def running(service: Service) -> Iterator[Door]:
    """Serve until the block ends."""
    door = listen("127.0.0.1", 0)
    server = DrainingServer(server_config(service), service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Door(f"http://127.0.0.1:{door.getsockname()[1]}", service, server)
    finally:
        server.should_exit = True
        thread.join(10)
        door.close()
        assert not thread.is_alive()


def data_uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
