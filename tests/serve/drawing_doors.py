"""A model that draws, a server of it, and what a test reads of a drawn file."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from doors import Door, Said, running
from PIL import Image

from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.tasks.drawing_requests import DrawingBatch
from drawing_pipeline import build

PATH = "/v1/images/generations"
CAPTION = "a large red circle top left"
CHINESE = "左上有大的红色圆形"
SETTINGS = ServerSettings(max_body_bytes=2**20, max_items=6, max_rows=4, queue_rows=12)


@pytest.fixture(scope="module")
def drawing() -> Model:
    """Untrained, with exact codes of nine cells."""
    return Model(build())


@pytest.fixture(scope="module")
def drawing_door(drawing: Model) -> Iterator[Door]:
    with running(Service(drawing, "painter", SETTINGS)) as open_door:
        yield open_door


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def pixels(written: str) -> np.ndarray:
    """Of a file in base64."""
    return np.asarray(opened(base64.b64decode(written)))


def events(said: Said) -> list[dict[str, Any]]:
    """Of a stream that was read to its end."""
    found = []
    for one in said.content.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in one.splitlines())
        content = json.loads(lines["data"])
        assert lines.get("event", "") == content.get("type", "")
        found.append(content)
    return found


class Slowed:
    """Batches whose every step waits, and a record of them; from step `held_from` on, until `goes_on` is set."""

    def __init__(self, service: Service, step_s: float) -> None:
        assert service.drawer is not None
        self.held_from, self.goes_on = 10**9, threading.Event()
        begin, self.begun, self.steps, self.fails = service.drawer.begin, list[int](), list[int](), False

        def slowly(requests: Any, sampling: Any, remarks: Any) -> DrawingBatch:
            batch = begin(requests, sampling, remarks)
            self.begun.append(len(requests))
            step = batch.step

            def stepped() -> None:
                time.sleep(step_s)
                if len(self.steps) >= self.held_from:
                    self.goes_on.wait(20)
                if self.fails:
                    raise RuntimeError("planted")
                self.steps.append(len(batch.requests))
                step()

            batch.step = stepped  # type: ignore[method-assign]
            return batch

        service.drawer.begin = slowly  # type: ignore[method-assign]
