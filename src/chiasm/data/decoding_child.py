"""A child process that decodes images within limits: `python -m chiasm.data.decoding_child FD MAX_PIXELS`.

An image of a few bytes can take gigabytes or for ever, and a decoder written in C can be made to crash or worse. Here
it meets a limit on the memory of this process, cannot write files, and whoever asked may end it. Pixels are those of
`load_image`, to the last bit. Nothing of torch is imported: the process starts in a third of a second, in 40 MiB.

Messages, both ways, on a socket: two lengths as 4 bytes each, a head of JSON, bytes. Asked is `{"resizing": ...}`
(pixels of `Resizing`) or `{"thumbnail_px": n}` (a JPEG), with an image; the answer has `shape`, `jpeg`, `error` (a
key of `REASONS`), `memory`, or `large`: an image of more than `SMALL_PIXELS` waits until it is sent `{"go": true}`,
so that only one is decoded at once.
"""

import io
import json
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.resizing import Resizing
from chiasm.data.image import FORMATS, MAX_BYTES, MAX_PIXELS, ImageError, load_image
from chiasm.data.resizing import resize

BYTES_A_PIXEL = 8
"""4 of the decoder and 3 of what is made of them; a progressive JPEG keeps coefficients beside its pixels, 7 in all
with the usual halved colour. With colour in full it takes 10, so that the very largest of them are refused."""
SPARE_BYTES = 24 * 2**20
"""Memory beside pixels and the file."""
SMALL_PIXELS = 4_000_000
"""Images of at most so many are decoded side by side."""
MAX_HEAD_BYTES = 2**16
_LENGTHS = struct.Struct(">II")


def send(connection: socket.socket, head: dict[str, Any], content: bytes | bytearray | memoryview = b"") -> None:
    """Send a message."""
    told = json.dumps(head).encode()
    connection.sendall(_LENGTHS.pack(len(told), len(content)) + told)
    connection.sendall(content)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """Wait for a message.

    Raises:
        ConnectionError: the other side has ended, or sends what no message is.
    """
    lengths = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    if lengths[0] > MAX_HEAD_BYTES or lengths[1] > MAX_BYTES:
        raise ConnectionError("a message is too long")
    head, content = _exactly(connection, lengths[0]), _exactly(connection, lengths[1])
    try:
        told = json.loads(head)
    except ValueError:
        raise ConnectionError("no message") from None
    if not isinstance(told, dict):
        raise ConnectionError("no message")
    return told, content


def _exactly(connection: socket.socket, count: int) -> bytearray:
    content = bytearray(count)
    view, done = memoryview(content), 0
    while done < count:
        got = connection.recv_into(view[done:])
        if not got:
            raise ConnectionError("the other side has ended")
        done += got
    return content


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _warm_up() -> None:
    """Import what the formats need, before memory and files are limited."""
    for kind in FORMATS:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, kind)
        load_image(buffer.getvalue(), "warm-up")


class Child:
    """Decodes what it is sent.

    Args:
        connection: to whoever asks.
        max_pixels: of the largest image.
    """

    def __init__(self, connection: socket.socket, max_pixels: int) -> None:
        self.connection, self.max_pixels = connection, max_pixels
        self.idle_bytes = _mapped_bytes()
        most = self.idle_bytes + SPARE_BYTES + 3 * MAX_BYTES + BYTES_A_PIXEL * max_pixels
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.most_bytes = most

    def serve(self) -> None:
        """Serve requests until the parent process ends."""
        send(self.connection, {"ready": True})
        while True:
            try:
                order, content = receive(self.connection)
                head, found = self._answer(order, bytes(content))
                send(self.connection, head, found)
            except (ConnectionError, OSError):
                return

    def _answer(self, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
        try:
            # Images of an index were let in before, and a large JPEG is read at an eighth of its size.
            max_pixels = MAX_PIXELS if "thumbnail_px" in order else self.max_pixels
            small_pixels = min(SMALL_PIXELS, max_pixels)
            self._allow(len(content), small_pixels)
            try:
                return self._decoded(order, content, small_pixels)
            except ImageError as error:
                if error.code != "too_many_pixels" or max_pixels == small_pixels:
                    raise
            send(self.connection, {"large": True})
            if not receive(self.connection)[0].get("go"):
                return {"error": "too_many_pixels"}, b""
            self._allow(len(content), max_pixels)
            return self._decoded(order, content, max_pixels)
        except ImageError as error:
            return {"error": error.code}, b""
        except MemoryError:
            return {"memory": True}, b""

    def _allow(self, content_bytes: int, pixels: int) -> None:
        """Let this process map so much memory for an image."""
        wanted = self.idle_bytes + SPARE_BYTES + 3 * content_bytes + BYTES_A_PIXEL * pixels
        resource.setrlimit(resource.RLIMIT_AS, (min(wanted, self.most_bytes), self.most_bytes))

    def _decoded(
        self, order: dict[str, Any], content: bytes, max_pixels: int
    ) -> tuple[dict[str, Any], bytes | memoryview]:
        if "thumbnail_px" in order:
            side_px = int(order["thumbnail_px"])
            thumbnail = Image.fromarray(load_image(content, "index", side_px, max_pixels))
            thumbnail.thumbnail((side_px, side_px))
            written = io.BytesIO()
            thumbnail.save(written, "JPEG", quality=85)
            return {"jpeg": True}, written.getbuffer()
        pixels = resize(load_image(content, "upload", max_pixels=max_pixels), Resizing.from_dict(order["resizing"]))
        return {"shape": pixels.shape}, np.ascontiguousarray(pixels).data.cast("B")


def main() -> None:
    """The process."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    _warm_up()
    Child(connection, int(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
