"""Requests that schemathesis makes from the API's own description, and pictures of every bad kind.

    python benchmarks/serve_fuzz.py RUN [--requests 10000] [--seed 0]

Counts answers of 5xx other than 503, answers that do not fit the description, and answers in which a path, an address
of memory or a traceback stands. All three must be 0, and the same process must still answer at the end.
"""

import argparse
import base64
import io
import json
import random
import re
import struct
import urllib.error
import urllib.request
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from serving import served

LEAK = re.compile(r"0x[0-9a-f]{6,}|Traceback|File \"|/(?:root|home|usr|tmp|work|opt|var|etc|proc)/|site-packages")
WRONG = re.compile(r"^5(?!03)")


def bad_pictures() -> list[bytes]:
    """Files that are no picture, or a dangerous one."""
    from PIL import Image

    def png(width: int, height: int, data: bytes = b"") -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    whole = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.effect_noise((64, 48), 60).convert("RGB").save(buffer, kind)
        whole[kind] = buffer.getvalue()
    found = [
        b"",
        b"\0",
        b"x" * 1000,
        b"<svg onload=alert(1)/>",
        b"%PDF-1.7",
        b"#!/bin/sh\nls /",
        b"RIFF\xff\xff\xff\x7fWEBP",
    ]
    found += [content[: len(content) // 2] for content in whole.values()]
    found += [content[:30] for content in whole.values()]
    found += [bytes(b ^ (37 * n % 251 if n > 40 else 0) for n, b in enumerate(content)) for content in whole.values()]
    found += [png(1, 1), png(60000, 60000), png(2**31 - 1, 2**31 - 1), png(8, 30000), png(0, 0), png(64, 64, b"junk")]
    found += [png(20000, 2000, zlib.compress(b"\0" * 10**6)), *whole.values()]
    return found


def made(rng: random.Random, pictures: list[bytes]) -> tuple[str, dict[str, Any]]:
    """A request of our own: a bad picture, or an address, on any route."""
    content = base64.b64encode(rng.choice(pictures)).decode()
    image = rng.choice(
        [
            content,
            f"data:image/png;base64,{content}",
            "http://127.0.0.1/a.png",
            "file:///etc/passwd",
            content[:-3] + "=*",
        ]
    )
    words = rng.choice(
        ["how many?", "有几个圆形？", "\0", "[EOS] [PAD] [zh]", "a" * 8000, "%s{label}{0.__class__}", "é" * 50]
    )
    part = {"type": "image_url", "image_url": {"url": image}}
    return rng.choice(
        [
            ("/v1/ask", {"image": image, "question": words, "heat_map": rng.random() < 0.5}),
            ("/v1/caption", {"image": image, "language": rng.choice(["", "en", "zh", "../zh"])}),
            ("/v1/classify", {"image": [image, image], "labels": [words, "b"]}),
            ("/v1/match", {"image": image, "text": [words, "b"]}),
            ("/v1/search", {"image": image, "text": words, "where": {words[:100]: words}}),
            ("/v1/embeddings", {"input": [words, part]}),
            (
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": [part, {"type": "text", "text": words}]}]},
            ),
        ]
    )


class Record:
    """What came back so far."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.leaks: list[str] = []
        self.misfits: list[str] = []

    def add(self, what: str, status: int, text: str) -> None:
        """One answer."""
        self.statuses[status] += 1
        if WRONG.match(str(status)):
            self.wrong.append(f"{what}: {status}")
        if (found := LEAK.search(text)) is not None:
            self.leaks.append(f"{what}: {found.group()!r}")


def _post(address: str, path: str, body: dict[str, Any], record: Record) -> None:
    content = json.dumps(body).encode()
    request = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            record.add(path, answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            record.add(path, error.code, error.read().decode())


def _generated(address: str, count: int, seed: int, record: Record) -> None:
    """Requests by schemathesis, an even share for each operation."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    operations = [one.ok() for one in schema.get_all_operations()]
    quiet = settings(
        max_examples=max(1, count // len(operations)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in operations:

        def ask(case: Any) -> None:
            answer = case.call(base_url=address, timeout=60)
            record.add(f"{case.method} {case.path}", answer.status_code, answer.content.decode("utf-8", "replace"))
            try:
                operation.schema.validate_response(operation, answer)  # noqa: B023  used at once
            except Exception as error:  # any misfit is a finding, whatever its type
                record.misfits.append(f"{case.method} {case.path} {answer.status_code}: {type(error).__name__} {error}")

        seeded(seed)(quiet(given(case=operation.as_strategy())(ask)))()


def fuzz(address: str, count: int, seed: int) -> Record:
    """Send `count` requests, about half of each kind."""
    record, rng, pictures = Record(), random.Random(seed), bad_pictures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schemathesis and hypothesis remark on odd strings
        _generated(address, count // 2, seed, record)
    while record.statuses.total() < count:  # schemathesis makes fewer where there are not so many different ones
        _post(address, *made(rng, pictures), record)
    return record


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--requests", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    with served(given.run) as process:
        record = fuzz(process.address, given.requests, given.seed)
        assert process.popen.poll() is None, "the server died"
        with urllib.request.urlopen(f"{process.address}/readyz", timeout=10) as ready:
            assert ready.status == 200
    print("answers by status:", dict(sorted(record.statuses.items())))
    for name in ("wrong", "leaks", "misfits"):
        found = getattr(record, name)
        print(f"{name}: {len(found)}", *sorted(set(found))[:10], sep="\n  ")
    assert not record.wrong and not record.leaks and not record.misfits


if __name__ == "__main__":
    main()
