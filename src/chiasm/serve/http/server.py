"""The server process: listening, serving, and graceful shutdown."""

import asyncio
import errno
import gc
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn

from chiasm.core.device import return_freed_memory
from chiasm.core.errors import InputError
from chiasm.serve.http.app import build_app
from chiasm.serve.http.bounds import BoundedProtocol
from chiasm.serve.http.service import Service

QUIET_S = 0.3
"""How long no request may be open before a stopping server closes its door: what was on its way gets an answer."""
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from another that waits. With Python's 5 ms the model's thread stands
still at many of its operations while the loop reads requests: 7 % of the throughput at 32 clients (docs/log.md)."""


class DrainingServer(uvicorn.Server):
    """Graceful shutdown: after the first signal, new requests get 503, open ones are answered, then the process ends.

    uvicorn alone closes connections whose request it has not read yet; here the door stays open until nothing is on
    its way any more. A second signal ends at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._draining: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop, which a signal handler must reach."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; at a second signal, end at once."""
        if self.service.health.is_draining:
            self.force_exit = self.should_exit = True
            return
        self.service.health.is_draining = True
        if self.loop is None:  # nothing was served yet
            self.should_exit = True
        else:
            self.loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        health, end = self.service.health, time.monotonic() + self.service.settings.drain_s
        quiet_since = time.monotonic()
        while time.monotonic() < end and time.monotonic() - quiet_since < QUIET_S:
            if health.open_requests:
                quiet_since = time.monotonic()
            await asyncio.sleep(0.02)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        InputError: the port is in use or needs other rights, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        door = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    # Inherited by every connection. asyncio asks it only of sockets that say they are TCP, and answers wait 40 ms.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


def _cannot_listen(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        another = port + 1 if port < 65535 else 8000
        return InputError(
            f"port {port} of {host} is in use", "a free port", f"--port {another}, or --port 0 for any that is free"
        )
    if error.errno == errno.EACCES:
        return InputError(f"port {port} may not be used", "a port above 1023, or the rights of root", "--port 8000")
    return InputError(
        f"{host} cannot be listened at ({error.strerror or error})",
        "an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them",
        "--host 127.0.0.1",
    )


def server_config(service: Service) -> uvicorn.Config:
    """The configuration of uvicorn."""
    return uvicorn.Config(
        build_app(service),  # type: ignore[arg-type]
        http=partial(  # type: ignore[arg-type]
            BoundedProtocol,
            head_s=service.settings.timeout_s,
            max_connections=service.settings.max_connections,
        ),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(service.settings.drain_s)),
    )


def serve(service: Service, tell: Callable[[str], None]) -> None:
    """Serve until a signal says to stop.

    Args:
        service: what answers.
        tell: called once with the address, when requests are taken.
    """
    settings = service.settings
    door = listen(settings.host, settings.port)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    tell(f"http://{shown}:{door.getsockname()[1]}")
    server = DrainingServer(server_config(service), service)
    service.pictures.decoders.start()
    # What the start left behind goes, and what stays is not looked at by any later collection.
    gc.collect()
    gc.freeze()
    return_freed_memory()
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        server.run(sockets=[door])
    finally:
        sys.setswitchinterval(usual_s)
        door.close()
