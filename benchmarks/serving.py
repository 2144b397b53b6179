"""A served run in a process of its own, and clients that cost little: shared by the serve_* benchmarks."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Process:
    """A server that was started, and where it listens."""

    popen: "subprocess.Popen[str]"
    host: str
    port: int

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Tell it to end."""
        self.popen.send_signal(sig)


@contextmanager
def served(run: Path, *options: str, command: Sequence[str] = ("-m", "chiasm", "serve")) -> Iterator[Process]:
    """`chiasm serve RUN` on a free port; killed at the end if it still lives."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, *command, str(run), "--port", "0", *options]
    popen = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert "http://" in line, "the server did not start"
        place = urlsplit(line.split()[-1])
        yield Process(popen, place.hostname or "", place.port or 0)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()


def data_uri(content: bytes) -> str:
    """A PNG or JPEG as clients send it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def request_bytes(process: Process, path: str, body: dict[str, Any]) -> bytes:
    """A whole request, made once and sent often."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {process.host}:{process.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@dataclass
class Answer:
    """What came back: status (0 where the connection broke), seconds, and Retry-After."""

    status: int
    seconds: float
    retry_after: str = ""


class Client:
    """One kept-alive connection."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> Answer:
        """Send and wait."""
        start = time.perf_counter()
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection(self.process.host, self.process.port)
            self.writer.write(request)
            await self.writer.drain()
            assert self.reader is not None
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            await self.reader.readexactly(int(fields["content-length"]))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.close()
            return Answer(0, time.perf_counter() - start)
        if fields.get("connection") == "close":
            self.close()
        return Answer(int(head.split()[1]), time.perf_counter() - start, fields.get("retry-after", ""))

    def close(self) -> None:
        """Hang up."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def metric(process: Process, name: str) -> float:
    """A number of /metrics."""
    with urllib.request.urlopen(f"{process.address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"chiasm_{name} ")))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def pictures_of(run: Path, photos: Path | None, count: int) -> list[bytes]:
    """Picture files: of a folder, or the run's own stored example mirrored and turned; noise for the starter."""
    import io

    from PIL import Image

    if photos is not None:
        return [path.read_bytes() for path in sorted(photos.glob("*.jp*g"))[:count]]
    is_run = (run / "example.png").exists()
    base = Image.open(run / "example.png") if is_run else Image.effect_noise((480, 360), 60)
    found = []
    for turn in (None, *Image.Transpose):
        buffer = io.BytesIO()
        (base if turn is None else base.transpose(turn)).convert("RGB").save(buffer, "PNG" if is_run else "JPEG")
        found.append(buffer.getvalue())
    return found[:count]
