"""Hostile requests, one function each: what a client can send to make a server fill its memory or wait.

Each function opens what it needs, sends at most `MOST_BYTES` and waits at most `WAIT_S`, and returns when the server
has answered or hung up. They go to this machine alone. `KINDS` lists them for `serve_hostile.py`.
"""

import contextlib
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from serving import Process, data_uri

MOST_BYTES = 64 * 2**20
WAIT_S = 6.0
PIECE = b"a" * 2**16
JSON = "Content-Type: application/json\r\n"
SIDE_PX = 5000
"""Side of the largest pictures: 25 million pixels, what the server takes unless told otherwise."""


def _connection(process: Process) -> socket.socket:
    return socket.create_connection((process.host, process.port), timeout=WAIT_S)


def _head(process: Process, method: str = "GET", path: str = "/v1/models", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {process.host}:{process.port}\r\n{more}".encode()


def _status(raw: socket.socket) -> str:
    """The status of the answer, or what happened instead."""
    raw.settimeout(WAIT_S)
    try:
        said = raw.recv(65536)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "hung up"
    return said[9:12].decode("latin-1") if said.startswith(b"HTTP/1.1 ") else "hung up"


def _flood(process: Process, start: bytes, pieces: Iterator[bytes]) -> str:
    """Send pieces until the server hangs up or enough was sent."""
    with _connection(process) as raw:
        raw.settimeout(2)
        end, sent = time.monotonic() + WAIT_S, 0
        try:
            raw.sendall(start)
            for piece in pieces:
                raw.sendall(piece)
                sent += len(piece)
                if sent > MOST_BYTES or time.monotonic() > end:
                    break
        except TimeoutError:
            pass  # it does not read any more: just as good
        except OSError:
            return "hung up"
        return _status(raw)


def _repeated(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def header_without_end(process: Process) -> str:
    """One header line that never ends."""
    return _flood(process, _head(process, more="X: "), _repeated(PIECE))


def name_without_end(process: Process) -> str:
    """The name of a header never ends."""
    return _flood(process, _head(process), _repeated(PIECE))


def headers_without_end(process: Process) -> str:
    """Header lines for ever."""
    return _flood(process, _head(process), _repeated(b"X: " + PIECE[:1000] + b"\r\n"))


def request_line_without_end(process: Process) -> str:
    """An address that never ends."""
    return _flood(process, b"GET /", _repeated(PIECE))


def extension_without_end(process: Process) -> str:
    """A chunk's extension never ends."""
    start = _head(process, "POST", "/v1/ask", JSON + "Transfer-Encoding: chunked\r\n\r\n")
    return _flood(process, start + b"5;x=", _repeated(PIECE))


def trailer_without_end(process: Process) -> str:
    """After a body, a trailer that never ends."""
    start = _head(process, "POST", "/v1/ask", JSON + "Transfer-Encoding: chunked\r\n\r\n")
    return _flood(process, start + b"2\r\n{}\r\n0\r\nX: ", _repeated(PIECE))


def trailers_without_end(process: Process) -> str:
    """After a body, trailers for ever."""
    start = _head(process, "POST", "/v1/ask", JSON + "Transfer-Encoding: chunked\r\n\r\n")
    return _flood(process, start + b"2\r\n{}\r\n0\r\n", _repeated(b"X: " + PIECE[:1000] + b"\r\n"))


def body_without_end(process: Process) -> str:
    """A chunked body never ends."""
    start = _head(process, "POST", "/v1/ask", JSON + "Transfer-Encoding: chunked\r\n\r\n")
    return _flood(process, start, _repeated(b"10000\r\n" + b" " * 65536 + b"\r\n"))


def tiny_chunks(process: Process) -> str:
    """A chunked body a byte a chunk: each costs more than it carries."""
    start = _head(process, "POST", "/v1/ask", JSON + "Transfer-Encoding: chunked\r\n\r\n")
    pieces = (b"1\r\n \r\n" * 10_000 for _ in range(40))
    return _flood(process, start, pieces)


def body_after_refusal(process: Process) -> str:
    """A body without end to an address that was refused by its head."""
    start = _head(process, "POST", "/v1/ask", "Transfer-Encoding: chunked\r\n\r\n")
    return _flood(process, start, _repeated(b"10000\r\n" + b" " * 65536 + b"\r\n"))


def unfinished_body(process: Process) -> str:
    """20 MiB of a stated 30, and then nothing."""
    start = _head(process, "POST", "/v1/ask", f"{JSON}Content-Length: {30 * 2**20}\r\n\r\n")
    return _flood(process, start, (PIECE for _ in range(320)))


def pipelined(process: Process) -> str:
    """Thousands of requests before the first answer is read."""
    one = _head(process, path="/openapi.json", more="\r\n")
    return _flood(process, b"", (one * 500 for _ in range(20)))


def unread_answers(process: Process) -> str:
    """Requests whose answers nobody reads."""
    one = _head(process, path="/openapi.json", more="\r\n")
    with _connection(process) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(300):
                raw.sendall(one)
        time.sleep(1)
        return "not read"


def half_head(process: Process) -> str:
    """A head that never ends, sent once."""
    with _connection(process) as raw:
        raw.sendall(_head(process, more="X: a"))
        return _status(raw)


def silent(process: Process) -> str:
    """A connection that says nothing."""
    with _connection(process) as raw:
        return _status(raw)


def waiting_for_100(process: Process) -> str:
    """A stated body that waits to be asked for, and never comes."""
    more = f"{JSON}Expect: 100-continue\r\nContent-Length: {30 * 2**20}\r\n\r\n"
    with _connection(process) as raw:
        raw.sendall(_head(process, "POST", "/v1/ask", more))
        first = _status(raw)
        return _status(raw) if first == "100" else first


def upgraded(process: Process) -> str:
    """Another protocol, and bytes of it for ever."""
    more = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n\r\n"
    return _flood(process, _head(process, more=more), _repeated(PIECE))


def http2(process: Process) -> str:
    """The beginning of HTTP/2, and bytes of it for ever."""
    return _flood(process, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", _repeated(PIECE))


def noise(process: Process) -> str:
    """Zero bytes for ever."""
    return _flood(process, b"", _repeated(b"\0" * 65536))


def _post(process: Process, path: str, content: bytes) -> str:
    head = _head(process, "POST", path, f"{JSON}Content-Length: {len(content)}\r\n\r\n")
    with _connection(process) as raw:
        with contextlib.suppress(OSError):  # refused in the middle; the answer may be there
            raw.sendall(head + content)
        return _status(raw)


def deep_json(process: Process) -> str:
    """Brackets in brackets."""
    return _post(process, "/v1/ask", b"[" * 2**20)


def deep_objects(process: Process) -> str:
    """Objects in objects, closed."""
    return _post(process, "/v1/search", b'{"where":' * 10_000 + b"1" + b"}" * 10_000)


def many_objects(process: Process) -> str:
    """30 MiB of empty objects: each is 3 bytes there and 72 in memory."""
    return _post(process, "/v1/ask", b'{"image":[' + b"{}," * (10 * 2**20) + b'{}],"question":"a"}')


def many_keys(process: Process) -> str:
    """A million different keys."""
    keys = ",".join(f'"{number:x}":0' for number in range(10**6))
    return _post(process, "/v1/search", ('{"text":"a","where":{' + keys + "}}").encode())


def wide_letters(process: Process) -> str:
    """28 MiB of words of which one character makes each of them four bytes wide."""
    return _post(process, "/v1/ask", b'{"image":"' + "😀".encode() + b"a" * (28 * 2**20) + b'","question":"a"}')


def long_words(process: Process) -> str:
    """28 MiB in place of a question."""
    return _post(process, "/v1/ask", b'{"image":"AA==","question":"' + b"a " * (14 * 2**20) + b'"}')


def many_parts(process: Process) -> str:
    """A conversation of many pictures of 100 kB each."""
    part = {"type": "image_url", "image_url": {"url": data_uri(bomb("small"))}}
    messages = [{"role": "user", "content": [part] * 8}] * 24
    return _post(process, "/v1/chat/completions", json.dumps({"messages": messages}).encode())


def _png(width: int, height: int, bits: int, colour: int, interlaced: int = 0) -> bytes:
    """All zeros, so that the file is a thousandth of the picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    pack, parts = zlib.compressobj(9), []
    row = b"\0" * (1 + width * channels * bits // 8)
    parts = [pack.compress(row * 100) for _ in range((height + 99) // 100)]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    data = b"".join([*parts, pack.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def bomb(kind: str) -> bytes:
    """A file whose picture is far larger than it."""
    from PIL import Image

    if kind.startswith("png"):
        bits, colour = {"png grey16": (16, 0), "png rgb16": (16, 2), "png rgba": (8, 6), "png rgba16": (16, 6)}[kind]
        return _png(SIDE_PX, SIDE_PX, bits, colour)
    buffer = io.BytesIO()
    if kind == "small":
        Image.effect_noise((360, 270), 60).save(buffer, "PNG")
    elif kind == "too large":
        Image.new("L", (8000, 8000)).save(buffer, "PNG")
    elif kind == "palette":
        picture = Image.new("P", (SIDE_PX, SIDE_PX))
        picture.putpalette([0, 0, 0, 255, 255, 255])
        picture.save(buffer, "PNG", transparency=0)
    else:
        options = (
            {"progressive": True} if kind == "jpeg" else {"compression": "tiff_adobe_deflate"} if kind == "tiff" else {}
        )
        mode = {"jpeg": "CMYK", "webp": "RGBA", "gif": "P", "tiff": "I;16"}[kind]
        Image.new(mode, (SIDE_PX, SIDE_PX)).save(buffer, kind.upper(), **options)
    return buffer.getvalue()


BOMBS = ("png grey16", "png rgb16", "png rgba", "png rgba16", "palette", "jpeg", "webp", "gif", "tiff", "too large")


def _bombing(kind: str) -> Callable[[Process], str]:
    def send(process: Process) -> str:
        return _post(process, "/v1/embeddings", json.dumps({"input": data_uri(bomb(kind))}).encode())

    send.__name__ = f"picture {kind}"
    return send


def many_bombs(process: Process) -> str:
    """Eight different pictures of 25 million pixels in one request."""
    images = [data_uri(bomb("png grey16") + bytes([number])) for number in range(8)]
    return _post(process, "/v1/embeddings", json.dumps({"input": images}).encode())


def searched_bomb(process: Process) -> str:
    """The same by way of the search and of the vectors."""
    part = {"type": "image_url", "image_url": {"url": data_uri(bomb("png rgba"))}}
    _post(process, "/v1/search", json.dumps({"image": data_uri(bomb("png rgba"))}).encode())
    return _post(process, "/v1/embeddings", json.dumps({"input": [part]}).encode())


CONNECTIONS: tuple[Callable[[Process], str], ...] = (
    header_without_end,
    name_without_end,
    headers_without_end,
    request_line_without_end,
    extension_without_end,
    trailer_without_end,
    trailers_without_end,
    body_without_end,
    tiny_chunks,
    body_after_refusal,
    unfinished_body,
    pipelined,
    unread_answers,
    half_head,
    silent,
    waiting_for_100,
    upgraded,
    http2,
    noise,
)
BODIES: tuple[Callable[[Process], str], ...] = (
    deep_json,
    deep_objects,
    many_objects,
    many_keys,
    wide_letters,
    long_words,
    many_parts,
    many_bombs,
    searched_bomb,
    *(_bombing(kind) for kind in BOMBS),
)
KINDS = CONNECTIONS + BODIES
