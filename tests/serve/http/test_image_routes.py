"""Images over HTTP by the OpenAI client: the engine's own, whole and as they grow, with errors that say what to do."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import openai
import pytest
import torch
from doors import Door, running
from drawing_doors import CAPTION, CHINESE, PATH, SETTINGS, drawing, drawing_door, events, opened, pixels
from PIL import Image

from chiasm.core.errors import MissingTaskError
from chiasm.models.fingerprint import weights_hash
from chiasm.pipeline.pipeline import Pipeline
from chiasm.serve.engine import Model
from chiasm.serve.http.image_routes import shown_rows
from chiasm.serve.http.service import Service
from chiasm.tasks.drawing import DrawingConfig
from chiasm.train.config import RunConfig
from drawing_pipeline import REAL, build, scene_examples

__all__ = ["drawing", "drawing_door"]


@pytest.fixture
def client(drawing_door: Door) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{drawing_door.address}/v1", api_key="none", max_retries=0) as found:
        yield found


def expected(model: Model, caption: str, count: int = 1, **keys: Any) -> list[np.ndarray]:
    return [np.asarray(one) for one in model.draw(caption, count, **keys)]


def test_images_are_the_engines(client: openai.OpenAI, drawing: Model) -> None:
    """Guards against another shape than the client reads, seeds that repeat, and another sampling than was asked."""
    extra = {"seed": 5, "guidance": 2, "temperature": 0.8, "top_k": 9, "top_p": 0.95}
    keys: dict[str, Any] = {"model": "painter", "n": 5, "size": "48x48", "response_format": "b64_json"}
    said = client.images.generate(prompt=CAPTION, **keys, extra_body=extra)
    found = [pixels(one.b64_json or "") for one in said.data or []]
    assert len(found) == 5 and all(image.shape == (48, 48, 3) for image in found)
    assert np.array_equal(found, expected(drawing, CAPTION, 5, **extra)), "five images on four places"
    assert len({image.tobytes() for image in found}) > 1
    assert (said.size, said.output_format, said.background) == ("48x48", "png", "opaque")
    assert said.usage is not None and said.usage.output_tokens == 5 * 9
    assert said.usage.input_tokens == len(drawing.pipeline.codec.tokenizer.ids(CAPTION))
    about = [one.model_extra["chiasm"] for one in said.data or []]  # type: ignore[index]
    assert [one["seed"] for one in about] == [5, 6, 7, 8, 9]
    assert all(0 < one["probability"] < 1 and one["remarks"] == [] for one in about)


def test_what_is_not_asked_is_the_runs_own(client: openai.OpenAI, drawing: Model) -> None:
    """Guards against OpenAI's defaults in place of the run's, and keys that every client may send being refused."""
    plain = {"quality": "auto", "background": "auto", "output_format": "png", "size": "auto", "user": "a"}
    said = client.images.generate(prompt=CHINESE, **plain, extra_body={"seed": 3})  # type: ignore[call-overload]
    assert np.array_equal(pixels(said.data[0].b64_json), expected(drawing, CHINESE, seed=3)[0])


def test_equal_seeds_give_equal_files(drawing_door: Door) -> None:
    """Guards against a seed that is not kept, and against one image for all who name none."""
    first, again, other = (
        drawing_door(PATH, {"prompt": CAPTION, "n": 2, "seed": seed}).json["data"] for seed in (1, 1, 2)
    )
    assert first == again and first[1] == other[0] and first[0] != first[1]
    free = [drawing_door(PATH, {"prompt": CAPTION}).json["data"][0]["chiasm"]["seed"] for _ in range(3)]
    assert len(set(free)) == 3


def test_a_file_says_what_it_is(drawing_door: Door, drawing: Model) -> None:
    """Guards against an image that nobody can draw again, and a prompt in Chinese that is lost."""
    for prompt in (CAPTION, CHINESE):
        said = drawing_door(PATH, {"prompt": prompt, "seed": 7, "guidance": 3, "response_format": "url"}).json
        head, _, content = said["data"][0]["url"].partition(",")
        png = base64.b64decode(content)
        assert head == "data:image/png;base64" and "b64_json" not in said["data"][0]
        told = opened(png).text  # type: ignore[attr-defined]
        assert told["prompt"] == prompt and told["seed"] == "7"
        assert told["run"] == weights_hash(drawing.pipeline.model)
        assert json.loads(told["sampling"]) == asdict(drawing.sampling(guidance=3))
        assert (b"iTXtprompt" in png) == (prompt == CHINESE) and b"tEXtseed" in png


def test_a_stream_grows_to_the_same_image(client: openai.OpenAI, drawing: Model) -> None:
    """Guards against events that the client cannot read, rows that are shown before they are drawn, and another end."""
    stream = client.images.generate(model="painter", prompt=CAPTION, n=1, stream=True, extra_body={"seed": 4})
    *parts, end = list(stream)
    (whole,) = expected(drawing, CAPTION, seed=4)
    assert [one.type for one in parts] == ["image_generation.partial_image"] * 2
    assert [one.partial_image_index for one in parts] == [0, 1]  # type: ignore[union-attr]
    for row, one in enumerate(parts, 1):
        part = pixels(one.b64_json)
        assert part.shape == (48, 48, 4)
        assert np.array_equal(part[: 16 * row, :, :3], whole[: 16 * row]), "exact codes do not look beyond their cell"
        assert (part[: 16 * row, :, 3] == 255).all() and not part[16 * row :, :, 3].any()
    assert end.type == "image_generation.completed" and np.array_equal(pixels(end.b64_json), whole)
    assert end.usage.output_tokens == 9 and end.size == "48x48" and end.created_at > 10**9  # type: ignore[union-attr]
    assert end.model_extra["chiasm"]["seed"] == 4  # type: ignore[index]


def test_several_images_stream_by_turns(drawing_door: Door) -> None:
    """Guards against parts of one image that are told of another, and an end that differs from the whole answer."""
    body = {"prompt": CAPTION, "n": 6, "seed": 1}
    found = events(drawing_door(PATH, {**body, "stream": True, "partial_images": 1}))
    ends = {one["image_index"]: one for one in found if one["type"].endswith("completed")}
    parts = [one for one in found if one["type"].endswith("partial_image")]
    whole = drawing_door(PATH, body).json["data"]
    assert [ends[number]["b64_json"] for number in range(6)] == [one["b64_json"] for one in whole]
    assert sorted(one["image_index"] for one in parts) == list(range(6))
    for one in parts:
        assert one["rows"] == 2 and one["partial_image_index"] == 0
        image = pixels(ends[one["image_index"]]["b64_json"])
        assert np.array_equal(pixels(one["b64_json"])[:32, :, :3], image[:32])
    none = events(drawing_door(PATH, {**body, "n": 1, "stream": True, "partial_images": 0}))
    assert [one["type"] for one in none] == ["image_generation.completed"]


def sent(image: Image.Image) -> str:
    """A data URI."""
    file = io.BytesIO()
    image.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def marked(boxes: list[tuple[int, int, int, int]]) -> Image.Image:
    """A black mask with white boxes (left, top, right, bottom)."""
    mask = Image.new("L", (48, 48))
    for box in boxes:
        mask.paste(255, box)
    return mask


@pytest.mark.parametrize(
    ("keys", "kept"),
    [({}, 3), ({"keep_rows": 2}, 6), ({"keep_rows": 0}, 0), ({"mask": marked([(20, 20, 22, 22)])}, 8)],
    ids=["upper half", "rows", "no row", "mask"],
)
def test_an_image_is_completed_or_changed(drawing_door: Door, drawing: Model, keys: dict[str, Any], kept: int) -> None:
    """Guards against an image that is not kept, other cells than the engine keeps, and tokens counted twice."""
    (start,) = drawing.draw(CHINESE, seed=9)
    body = {key: sent(value) if key == "mask" else value for key, value in keys.items()}
    said = drawing_door(PATH, {"prompt": CAPTION, "n": 2, "seed": 4, "image": sent(start), **body}).json
    whole = expected(drawing, CAPTION, 2, seed=4, start=start, **keys)
    assert np.array_equal([pixels(one["b64_json"]) for one in said["data"]], whole)
    usage = said["usage"]
    assert usage["input_tokens_details"]["image_tokens"] == kept and usage["output_tokens"] == 2 * (9 - kept)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    if kept:
        assert not np.array_equal(whole, expected(drawing, CAPTION, 2, seed=4))


def test_a_completion_streams_what_is_drawn(drawing_door: Door, drawing: Model) -> None:
    """Guards against parts that show nothing but what was sent."""
    (start,) = drawing.draw(CHINESE, seed=9)
    body = {"prompt": CAPTION, "seed": 4, "image": sent(start), "keep_rows": 1, "stream": True}
    *parts, end = events(drawing_door(PATH, body))
    assert [one["rows"] for one in parts] == [2]
    assert np.array_equal(pixels(end["b64_json"]), expected(drawing, CAPTION, seed=4, start=start, keep_rows=1)[0])


@pytest.mark.parametrize(
    ("keys", "code", "fields"),
    [
        ({"keep_rows": 1}, "no_start", ["image", "keep_rows"]),
        ({"mask": ""}, "no_start", ["image", "mask"]),
        ({"image": "", "mask": "", "keep_rows": 1}, "no_start", ["image", "keep_rows", "mask"]),
        ({"image": "", "keep_rows": 3}, "nothing_kept", ["keep_rows", "mask"]),
        ({"image": "", "mask": "black"}, "nothing_kept", ["keep_rows", "mask"]),
        ({"image": "data:image/png;base64,####"}, "not_base64", None),
        ({"image": "", "keep_rows": -1}, "invalid_request", ["keep_rows"]),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused(
    drawing_door: Door, keys: dict[str, Any], code: str, fields: list[str] | None
) -> None:
    """Guards against an image that is drawn as if nothing had been sent."""
    files = {"": sent(marked([(0, 0, 48, 48)])), "black": sent(marked([]))}
    said = drawing_door(PATH, {"prompt": CAPTION, **{key: files.get(value, value) for key, value in keys.items()}})
    assert (said.status, said.code, said.json["error"].get("fields")) == (422, code, fields)
    assert drawing_door.service.batcher.admitted == 0


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 24])
def test_parts_are_spread_over_the_rows(rows: int) -> None:
    """Guards against two parts of one row, and a part that is the whole image."""
    assert shown_rows(rows, None) == frozenset(range(1, rows)) == shown_rows(rows, 200)
    for count in range(rows):
        found = sorted(shown_rows(rows, count))
        assert len(found) == count and all(0 < one < rows for one in found)
        gaps = np.diff([0, *found, rows])
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("body", "code", "fields", "told"),
    [
        ({"prompt": CAPTION, "size": "1024x1024"}, "size_not_drawn", ["size"], "one size; allowed: auto, 48x48"),
        ({"prompt": "xylophone qwertz"}, "prompt_unknown", ["prompt"], "none of the prompt's words"),
        ({"prompt": " "}, "invalid_request", ["prompt"], "see `fields`"),
        ({}, "invalid_request", ["prompt"], "see `fields`"),
        ({"prompt": "a" * 8001}, "invalid_request", ["prompt"], "see `fields`"),
        ({"prompt": CAPTION, "n": 7}, "too_many_items", None, "too many items"),
        ({"prompt": CAPTION, "n": 0}, "invalid_request", ["n"], "see `fields`"),
        ({"prompt": CAPTION, "seed": -1}, "invalid_request", ["seed"], "see `fields`"),
        ({"prompt": CAPTION, "guidance": 101}, "invalid_request", ["guidance"], "see `fields`"),
        ({"prompt": CAPTION, "temperature": -0.1}, "invalid_request", ["temperature"], "see `fields`"),
        ({"prompt": CAPTION, "top_p": 0}, "invalid_request", ["top_p"], "see `fields`"),
        ({"prompt": CAPTION, "top_k": -1}, "invalid_request", ["top_k"], "see `fields`"),
        ({"prompt": CAPTION, "response_format": "png"}, "invalid_request", ["response_format"], "see `fields`"),
        ({"prompt": CAPTION, "output_format": "webp"}, "invalid_request", ["output_format"], "see `fields`"),
        ({"prompt": CAPTION, "partial_images": -1}, "invalid_request", ["partial_images"], "see `fields`"),
        ({"prompt": CAPTION, "sseed": 1}, "invalid_request", None, "see `fields`"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused(
    drawing_door: Door, body: dict[str, Any], code: str, fields: list[str] | None, told: str, stream: bool
) -> None:
    """Guards against an image of another size or sampling than was asked for, and a stream that hides an error."""
    said = drawing_door(PATH, {**body, "stream": stream})
    assert said.status == 422 and said.code == code and told in said.json["error"]["message"]
    assert said.json["error"].get("fields") == fields
    assert drawing_door.service.batcher.admitted == 0


def test_errors_reach_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="allowed: auto, 48x48") as size:
        client.images.generate(prompt=CAPTION, size="1024x1024")
    assert size.value.code == "size_not_drawn" and size.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as other:
        client.images.generate(prompt=CAPTION, model="dall-e-3")
    assert other.value.code == "model_not_found"


def test_words_that_are_not_read_are_told(drawing_door: Door) -> None:
    """Guards against a caption that is half read in silence: a word never seen, and an end that is cut off."""
    (strange,) = drawing_door(PATH, {"prompt": "a red xylophone"}).json["data"]
    assert strange["chiasm"]["domain"]["unknown_words"] == ["xylophone"]
    (long,) = drawing_door(PATH, {"prompt": f"{CAPTION}, " * 40}).json["data"]
    assert "reads the first" in long["chiasm"]["remarks"][0]


def test_a_run_without_empty_captions_takes_no_guidance() -> None:
    """Guards against guidance by what was never trained."""
    model = Model(build(task=DrawingConfig(caption_dropout=0.0)))
    with running(Service(model, "painter", SETTINGS)) as door:
        said = door(PATH, {"prompt": CAPTION, "guidance": 2})
        assert (said.status, said.code) == (422, "guidance") and "send guidance 1" in said.json["error"]["message"]
        assert door(PATH, {"prompt": CAPTION, "guidance": 1}).status == 200


def test_another_run_says_that_it_does_not_draw(config: RunConfig) -> None:
    other = Model(Pipeline.build(config, scene_examples(), torch.device("cpu")))
    with running(Service(other, "other", SETTINGS)) as door:
        said = door(PATH, {"prompt": CAPTION})
        assert (said.status, said.code) == (422, "task_not_trained") and "/v1/models" in said.json["error"]["message"]
        told = door("/v1/models").json["data"][0]
        assert not told["can"]["draw"] and "drawing" not in told


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_best_of_many_are_the_engines(drawing: Model, config: RunConfig, is_streamed: bool) -> None:
    """Guards against another choice than `Model.draw` makes, an order that is lost, and tokens that are not counted."""
    ranker = Model(Pipeline.build(config, scene_examples(), torch.device("cpu")))
    wish: dict[str, Any] = {"prompt": CAPTION, "seed": 3, "n": 2, "best_of": 5}
    with running(Service(drawing, "painter", SETTINGS, ranker=ranker)) as door:
        said = door(PATH, {**wish, "stream": is_streamed})
        assert door("/v1/models").json["data"][0]["drawing"]["ranks"]
        few = door(PATH, {**wish, "best_of": 1})
        many = door(PATH, {**wish, "best_of": 7})
    assert (few.status, few.code, many.status, many.code) == (422, "best_of", 422, "too_many_items")
    whole = drawing.draw(CAPTION, 2, seed=3, best_of=5, rank_by=ranker)
    found = events(said) if is_streamed else said.json["data"]
    assert len(found) == 2, "candidates are not shown"
    for one, image in zip(found, whole, strict=True):
        assert np.array_equal(pixels(one["b64_json"]), np.asarray(image))
        assert one["chiasm"]["seed"] == image.info["seed"]
        assert one["chiasm"]["rank_score"] == pytest.approx(image.info["rank_score"])
    if is_streamed:
        assert [one["image_index"] for one in found] == [0, 1]
        assert sum(one["usage"]["output_tokens"] for one in found) == 5 * 9
    else:
        assert said.json["usage"]["output_tokens"] == 5 * 9


def test_nothing_ranks_where_no_run_does(drawing_door: Door, drawing: Model) -> None:
    """Guards against images that nobody chose, and a run that cannot match beside the one that draws."""
    said = drawing_door(PATH, {"prompt": CAPTION, "best_of": 4})
    assert (said.status, said.code) == (422, "no_ranker") and said.json["error"]["fields"] == ["best_of"]
    with pytest.raises(MissingTaskError):
        Service(drawing, "painter", SETTINGS, ranker=drawing)


def test_the_list_of_models_says_what_is_drawn(drawing_door: Door, drawing: Model) -> None:
    (told,) = drawing_door("/v1/models").json["data"]
    assert told["can"]["draw"] and not told["can"]["ask"]
    assert told["drawing"] == {
        "size": "48x48",
        "grid": [3, 3],
        "run": weights_hash(drawing.pipeline.model),
        "sampling": asdict(drawing.sampling()),
        "ranks": False,
    }
    assert f'route="{PATH}"' in drawing_door("/metrics").content.decode()


def test_a_decoder_that_looks_beyond_its_row() -> None:
    """A real image tokenizer: parts have the size of the whole, and the whole is the engine's."""
    model = Model(build(REAL))
    with running(Service(model, "painter", SETTINGS)) as door:
        found = events(door(PATH, {"prompt": CAPTION, "seed": 2, "stream": True}))
        size = door("/v1/models").json["data"][0]["drawing"]["size"]
    (whole,) = expected(model, CAPTION, seed=2)
    assert size == "24x24" and np.array_equal(pixels(found[-1]["b64_json"]), whole)
    assert [pixels(one["b64_json"]).shape for one in found[:-1]] == [(24, 24, 4)] * (len(found) - 1) != []
