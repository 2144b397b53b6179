"""Drawings of many clients: one batch for who waits together, places that come free, deadlines, a batch that fails."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from doors import Door, running
from drawing_doors import CAPTION, CHINESE, PATH, SETTINGS, Slowed, drawing, events, pixels

from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings

__all__ = ["drawing"]


@pytest.fixture
def door(drawing: Model) -> Iterator[Door]:
    with running(Service(drawing, "painter", SETTINGS)) as open_door:
        yield open_door


def waited(is_so: Any, most_s: float = 10.0) -> bool:
    end = time.monotonic() + most_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def at_once(door: Door, bodies: list[dict[str, Any]]) -> list[Any]:
    """The answers to requests that are sent together."""
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = door(PATH, bodies[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return [found[number] for number in range(len(bodies))]


def test_who_waits_together_is_drawn_together(door: Door, drawing: Model) -> None:
    """Twelve images on four places: each as alone, those that waited in full batches, guidance apart."""
    slowed = Slowed(door.service, 0.02)
    bodies = [{"prompt": CAPTION if seed % 2 else CHINESE, "seed": seed, "n": 2} for seed in range(5)]
    said = at_once(door, [*bodies, {"prompt": CAPTION, "seed": 9, "n": 2, "guidance": 3}])
    for body, one in zip(bodies, said, strict=False):
        expected = drawing.draw(body["prompt"], 2, seed=body["seed"])
        assert np.array_equal([pixels(each["b64_json"]) for each in one.json["data"]], expected)
    guided = drawing.draw(CAPTION, 2, seed=9, guidance=3)
    assert np.array_equal([pixels(each["b64_json"]) for each in said[-1].json["data"]], guided)
    assert sum(slowed.begun) == 12 and max(slowed.begun) <= 4 and len(slowed.begun) < 12, slowed.begun
    assert door.service.batcher.admitted == 0 and door.service.drawings.rows == 0  # type: ignore[union-attr]
    assert max(door.service.batcher.stats.sizes) <= 4


def test_what_is_drawn_otherwise_has_a_batch_of_its_own(door: Door, drawing: Model) -> None:
    """Guards against guidance of one client that changes the image of another who waited beside it."""
    slowed = Slowed(door.service, 0.0)
    slowed.held_from = 1
    blocking = threading.Thread(target=lambda: door(PATH, {"prompt": CAPTION, "n": 4}))
    blocking.start()
    assert waited(lambda: len(slowed.steps) == 1)
    bodies = [{"prompt": CAPTION, "seed": 2, "guidance": guidance, "n": 2} for guidance in (1, 3)]
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.extend(at_once(door, bodies)))
    asking.start()
    assert waited(lambda: door.service.batcher.admitted == 8)
    slowed.goes_on.set()
    blocking.join()
    asking.join()
    assert slowed.begun == [4, 2, 2]
    for body, said in zip(bodies, found, strict=True):
        expected = drawing.draw(CAPTION, 2, seed=2, guidance=body["guidance"])  # type: ignore[arg-type]
        assert np.array_equal([pixels(one["b64_json"]) for one in said.json["data"]], expected)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_places(door: Door, drawing: Model, stream: bool) -> None:
    """In the middle of a stream and while it waits for a whole answer; who shares its batch gets the same image."""
    slowed, service = Slowed(door.service, 0.05), door.service
    loop = service.drawings
    assert loop is not None
    slow: list[Any] = []
    blocking = threading.Thread(target=lambda: slow.append(door(PATH, {"prompt": CAPTION, "n": 4, "seed": 50})))
    blocking.start()
    assert waited(lambda: loop.rows == 4), "the next two wait together"
    staying = threading.Thread(target=lambda: slow.append(door(PATH, {"prompt": CHINESE, "seed": 3})))
    staying.start()
    connection = http.client.HTTPConnection(door.address.removeprefix("http://"))
    body = {"prompt": CAPTION, "n": 3, "stream": stream}
    connection.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
    assert waited(lambda: slowed.begun == [4, 4])
    if stream:
        answer = connection.getresponse()
        assert answer.readline().startswith(b"event: image_generation.partial_image")
        answer.close()
    else:
        assert waited(lambda: len(slowed.steps) > 11)
    connection.close()
    assert waited(lambda: loop.rows in (0, 1)) and waited(lambda: service.batcher.admitted in (0, 1))
    blocking.join()
    staying.join()
    assert slowed.steps[-1] == 1 and service.batcher.stats.left == 1
    assert np.array_equal(pixels(slow[1].json["data"][0]["b64_json"]), drawing.draw(CHINESE, seed=3)[0])
    assert service.batcher.admitted == 0


def test_nobody_left_draws_nothing(door: Door) -> None:
    """Guards against a batch that goes on for a client that is gone."""
    slowed, loop = Slowed(door.service, 0.05), door.service.drawings
    assert loop is not None
    connection = http.client.HTTPConnection(door.address.removeprefix("http://"))
    connection.request("POST", PATH, json.dumps({"prompt": CAPTION, "n": 6}), {"Content-Type": "application/json"})
    assert waited(lambda: len(slowed.steps) > 2)
    connection.close()
    assert waited(lambda: door.service.batcher.admitted == 0 and loop.rows == 0 and not loop._waiting)
    assert slowed.begun == [4] and len(slowed.steps) < 9 and door.service.batcher.stats.left == 1
    assert door(PATH, {"prompt": CAPTION}).status == 200


def test_the_queue_is_bounded(door: Door) -> None:
    """Guards against images without number that wait; who comes later may ask again."""
    Slowed(door.service, 0.05)
    said = at_once(door, [{"prompt": CAPTION, "n": 6}] * 4)
    assert sorted(one.status for one in said) == [200, 200, 503, 503]
    full = next(one for one in said if one.status == 503)
    assert full.code == "busy" and int(full.headers["retry-after"]) >= 1


def test_a_deadline_ends_a_drawing(drawing: Model) -> None:
    """As an answer of its own, in the queue too, or as the last event of a stream that has begun."""
    service = Service(drawing, "painter", ServerSettings(timeout_s=0.6, max_rows=2))
    Slowed(service, 0.15)
    with running(service) as door:
        whole = door(PATH, {"prompt": CAPTION, "n": 3})
        assert (whole.status, whole.code) == (503, "deadline")
        said = door(PATH, {"prompt": CAPTION, "n": 2, "stream": True})
        assert said.status == 200 and events(said)[-1]["error"]["code"] == "deadline"
        first, queued = at_once(door, [{"prompt": CAPTION, "n": 2}] * 2)
        assert (first.code, queued.code) == ("deadline", "deadline")
        assert waited(lambda: service.batcher.admitted == 0 and service.drawings.rows == 0)  # type: ignore[union-attr]


def test_a_batch_that_fails_is_an_error_of_its_own(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against a loop that ends with the first error, and a client that waits for ever."""
    slowed = Slowed(door.service, 0.0)
    slowed.fails = True
    assert door(PATH, {"prompt": CAPTION}).code == "internal"
    (last,) = events(door(PATH, {"prompt": CAPTION, "stream": True}))
    assert last["error"]["code"] == "internal" and "planted" not in json.dumps(last) and "planted" in caplog.text
    slowed.fails = False
    assert door(PATH, {"prompt": CAPTION}).status == 200 and door.service.batcher.admitted == 0


def test_other_requests_are_computed_between_two_tokens(door: Door) -> None:
    """Guards against a drawing that holds the model's thread until it is done."""
    slowed, done = Slowed(door.service, 0.05), threading.Event()
    thread = threading.Thread(target=lambda: (door(PATH, {"prompt": CAPTION}), done.set()))
    thread.start()
    assert waited(lambda: bool(slowed.steps))
    (short,) = door(PATH, {"prompt": CHINESE, "temperature": 0}).json["data"]
    assert short["chiasm"]["probability"] > 0 and slowed.begun == [1, 1]
    thread.join()
    assert done.is_set() and 4 <= len(slowed.steps) <= 18, "eighteen tokens, some of them guessed"
