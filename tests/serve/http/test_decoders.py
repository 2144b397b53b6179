"""Pictures are decoded in processes of their own: slow, heavy and deadly ones cost themselves, and nobody else."""

import asyncio
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors import data_uri, running
from PIL import Image

from chiasm.core.resizing import Resizing
from chiasm.data.decoding_child import BYTES_A_PIXEL, SPARE_BYTES
from chiasm.data.image import load_image
from chiasm.data.resizing import resize
from chiasm.serve.engine import Model
from chiasm.serve.http import decoders
from chiasm.serve.http.decoders import Decoders, TooHeavyError, TooSlowError
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index

STUCK, DEADLY, GREEDY = b"stuck", b"deadly", b"greedy"
FAKE = """
import os, time
from chiasm.data import decoding_child
load = decoding_child.load_image
def bad(content, *given, **more):
    if content == b"stuck":
        time.sleep(20)
    if content == b"deadly":
        os.abort()
    if content == b"greedy":
        return bytearray(2**31)
    return load(content, *given, **more)
decoding_child.load_image = bad
decoding_child.main()
"""


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that hang, die or take two gigabytes on certain files."""
    monkeypatch.setattr(decoders, "COMMAND", (sys.executable, "-c", FAKE))


def whole(height: int, width: int) -> Resizing:
    """Leaves a picture of this size as it is."""
    return Resizing("squeeze", (height, width))


def asked(decoding: Decoders, content: bytes, resizing: Resizing, limit_s: float = 20) -> Any:
    order = {"resizing": asdict(resizing)}
    return asyncio.run(decoding.run(order, lambda: content, limit_s, time.monotonic() + 30))


def pixels_of(found: Any) -> np.ndarray:
    return np.frombuffer(found.content, np.uint8).reshape(found.head["shape"])


@pytest.fixture(scope="module")
def decoding() -> Iterator[Decoders]:
    made = Decoders(2, 12_000_000)
    yield made
    made.close()


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def kinds() -> Iterator[tuple[str, bytes]]:
    """Every kind of pixel and file that is read, at a size of more than one strip."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (1100, 1300, 4), dtype=np.uint8), "RGBA")
    exif = Image.Exif()
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA"):
        yield f"PNG {mode}", encoded(noise.convert(mode), "PNG")
    yield "PNG hidden", encoded(noise.convert("P"), "PNG", transparency=3)
    grey = Image.fromarray(rng.integers(0, 65536, (1100, 1300), dtype=np.uint16))
    yield "PNG 16", encoded(grey, "PNG")
    yield "TIFF 16", encoded(grey, "TIFF")
    yield "JPEG CMYK", encoded(noise.convert("CMYK"), "JPEG")
    yield "WEBP", encoded(noise, "WEBP", lossless=True, method=0)
    yield "GIF", encoded(noise.convert("P"), "GIF")
    for number in range(1, 9):
        exif[0x0112] = number
        yield f"JPEG turned {number}", encoded(noise.convert("RGB"), "JPEG", exif=exif)


KINDS = dict(kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_loader(decoding: Decoders, kind: str) -> None:
    """Guards against a second loader: a child must give the same bytes, of every kind of file."""
    expected = load_image(KINDS[kind], "a")
    assert np.array_equal(pixels_of(asked(decoding, KINDS[kind], whole(*expected.shape[:2]))), expected)


@pytest.mark.parametrize(
    "resizing",
    [
        Resizing("cover", (224, 224)),
        Resizing("squeeze", (48, 64)),
        Resizing("shortest", (64, 64), (72,), (64, 64), 3),
        Resizing("within", (96, 96), (64,), resample=3, longest_px=96, divisor=16),
    ],
    ids=lambda one: one.method,
)
def test_resizing_is_the_same_there(decoding: Decoders, resizing: Resizing) -> None:
    """Guards against numbers that are lost on their way to the child."""
    content = KINDS["PNG RGBA"]
    assert np.array_equal(pixels_of(asked(decoding, content, resizing)), resize(load_image(content, "a"), resizing))


def test_large_pictures_wait_for_each_other(decoding: Decoders) -> None:
    """Guards against two large pictures at once, and against a large one that is refused or stops the small ones."""
    large = encoded(Image.new("L", (3000, 2500)), "PNG")
    order = {"resizing": asdict(Resizing("squeeze", (8, 8)))}

    async def all_of_them() -> list[Any]:
        end = time.monotonic() + 60
        return await asyncio.gather(*(decoding.run(order, lambda: large, 30, end) for _ in range(4)))

    before = decoding.killed
    assert all(found.head["shape"] == [8, 8, 3] for found in asyncio.run(all_of_them()))
    beyond = asked(decoding, encoded(Image.new("L", (4000, 3001)), "PNG"), whole(8, 8))
    assert beyond.head == {"error": "too_many_pixels"} and decoding.killed == before


def test_memory_of_a_child_is_limited() -> None:
    """Guards against a limit that usual pictures of the full size meet, and copies of them that come back."""
    decoding = Decoders(1, 16_000_000)
    idle: list[int] = []
    peaks: list[int] = []

    async def watched(content: bytes) -> Any:
        order = {"resizing": asdict(Resizing("squeeze", (8, 8)))}
        job = asyncio.ensure_future(decoding.run(order, lambda: content, 30, time.monotonic() + 40))
        while not job.done():
            (peaks if peaks else idle).append(max([resident_bytes(pid) for pid in children()], default=0))
            await asyncio.sleep(0.01)
        return await job

    try:
        assert asyncio.run(watched(KINDS["GIF"])).head["shape"] == [8, 8, 3]
        peaks.append(0)
        usual = encoded(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
        assert asyncio.run(watched(usual)).head["shape"] == [8, 8, 3]
        assert max(peaks) < max(idle) + BYTES_A_PIXEL * 16_000_000 + SPARE_BYTES, "what the limit is reckoned from"
    finally:
        decoding.close()


def children() -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in task.read_text().split()]
    return found


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


@pytest.mark.usefixtures("bad")
def test_bad_pictures_cost_only_themselves(files: list[bytes]) -> None:
    """Guards against a picture that hangs, kills or fills its decoder, and takes others with it."""
    decoding = Decoders(1, 12_000_000)
    try:
        good = load_image(files[0], "a")
        for content, error in ((STUCK, TooSlowError), (DEADLY, TooHeavyError), (GREEDY, TooHeavyError)):
            with pytest.raises(error):
                asked(decoding, content, whole(8, 8), limit_s=1)
            assert np.array_equal(pixels_of(asked(decoding, files[0], whole(*good.shape[:2]))), good)
        assert decoding.killed == 3
    finally:
        decoding.close()


@pytest.mark.usefixtures("bad")
def test_a_stuck_decoder_is_replaced(model: Model, index: Index, files: list[bytes]) -> None:
    """Guards against two pictures that stop the server: every decoder hangs, and all others wait for ever."""
    settings = ServerSettings(decode_s=0.3, timeout_s=20)
    with running(Service(model, "demo", settings, index)) as door:
        assert door("/v1/caption", {"image": data_uri(files[0])}).status == 200
        for path, more in (("/v1/ask", {"question": "how many?"}), ("/v1/caption", {}), ("/v1/search", {})):
            start = time.monotonic()
            said = door(path, {"image": data_uri(STUCK), **more})
            assert (said.status, said.code) == (422, "image_too_slow") and time.monotonic() - start < 3
        assert door("/v1/caption", {"image": data_uri(DEADLY)}).code == "image_too_heavy"
        assert door("/v1/caption", {"image": data_uri(files[0])}).status == 200
        assert "chiasm_decoders_killed_total 4" in door("/metrics").content.decode()


@pytest.mark.usefixtures("bad")
def test_no_decoder_is_free(model: Model, files: list[bytes]) -> None:
    """Guards against a request that waits for a decoder beyond its deadline."""
    with running(Service(model, "demo", ServerSettings(decode_s=4, timeout_s=1.5))) as door:
        assert door("/v1/caption", {"image": data_uri(files[0])}).status == 200
        stuck = [threading.Thread(target=door, args=("/v1/caption", {"image": data_uri(STUCK + b"")})) for _ in "ab"]
        for one in stuck:
            one.start()
        time.sleep(0.5)
        said = door("/v1/caption", {"image": data_uri(files[0])})
        assert (said.status, said.code) == (503, "deadline") and said.headers["retry-after"]
        for one in stuck:
            one.join()
        assert door("/v1/caption", {"image": data_uri(files[0])}).status in (200, 503)


def test_pixels_have_a_setting(model: Model, files: list[bytes]) -> None:
    """Guards against a setting that changes nothing."""
    with running(Service(model, "demo", ServerSettings(max_pixels=1000))) as door:
        said = door("/v1/caption", {"image": data_uri(files[0])})
        assert (said.status, said.code) == (422, "image_too_many_pixels")


def test_closed_decoders_have_ended() -> None:
    """Guards against threads and processes that outlive their server."""
    before, processes, decoding = set(threading.enumerate()), set(children()), Decoders(2, 12_000_000)
    asked(decoding, KINDS["GIF"], whole(8, 8))
    assert set(threading.enumerate()) > before and len(set(children()) - processes) == 2
    decoding.close()
    assert set(threading.enumerate()) <= before and not set(children()) - processes
