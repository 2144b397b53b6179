"""What lies outside of training is said: by the engine, over HTTP and on the command line."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from doors import Door, data_uri
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli import app
from chiasm.core.types import Example
from chiasm.serve.engine import Model

KNOWN, STRANGE = "how many circles are there?", "what is the meaning of life?"


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def noise_file(noise: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_answer_says_where_it_stands(model: Model, examples: list[Example], noise: np.ndarray) -> None:
    """Guards against a verb that forgets it, mixes up rows, or judges labels of one's own as unknown words."""
    scene = examples[0].inputs["image"].load()
    asked = model.ask([scene, noise, scene, noise], [KNOWN, KNOWN, STRANGE, STRANGE])
    assert [one.abstain_reasons for one in asked] == [
        (),
        ("image_out_of_domain",),
        ("text_out_of_domain",),
        ("image_out_of_domain", "text_out_of_domain"),
    ]
    captions, classes = model.caption([scene, noise]), model.classify([scene, noise], ["zebra", "violin"])
    for one in (captions, classes):
        assert [bool(said.abstain_reasons) for said in one] == [False, True]
        assert all(said.domain is not None and said.domain.text_distance is None for said in one)
    fitting, other = model.match(scene, [examples[0].captions[0].text, "a dog on a beach"])
    assert fitting.domain is not None and not fitting.domain.is_outside
    assert other.domain is not None and other.domain.unknown_words == ("dog", "on", "beach")


def test_a_distance_is_the_same_alone_and_in_a_batch(model: Model, examples: list[Example], noise: np.ndarray) -> None:
    """Guards against an abstention that depends on who else asks; predictions are equal whatever their domain."""
    pictures = [noise, *(one.inputs["image"].load() for one in examples[:7])]
    together = model.ask(pictures, STRANGE)
    assert [one.domain for one in together] == [model.ask(one, STRANGE).domain for one in pictures]


def test_a_run_without_it_says_nothing(model: Model, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run of before, or the starter, whose unknown distance is told as a small one."""
    monkeypatch.setattr(model.pipeline, "domain", None)
    said = model.ask(noise, STRANGE)
    assert said.domain is None and said.abstain_reasons == () and said.as_dict()["domain"] is None
    assert model.match(noise, ["a dog"])[0].domain is None


def test_http_says_it(door: Door, model: Model, noise: np.ndarray, noise_file: bytes) -> None:
    """Guards against fields that the description of the API does not name, and other values than the engine's."""
    image = data_uri(noise_file)
    answer = door("/v1/ask", {"image": image, "question": STRANGE}).json["answers"][0]
    expected = model.ask(noise, STRANGE)
    assert expected.domain is not None and answer["domain"] == expected.domain.as_dict()
    assert answer["abstain_reasons"] == ["image_out_of_domain", "text_out_of_domain"]
    assert (answer["answer"], answer["abstains"]) == (expected.answer, False)
    for path, body, key in (
        ("/v1/caption", {}, "captions"),
        ("/v1/classify", {"labels": ["zebra", "violin"]}, "classes"),
        ("/v1/match", {"text": "a red circle"}, "matches"),
    ):
        said = door(path, {"image": image, **body}).json[key][0]
        assert said["domain"]["is_outside"] and said["domain"]["image_distance"] > 1
    message = [{"type": "text", "text": STRANGE}, {"type": "image_url", "image_url": {"url": image}}]
    chat = door("/v1/chat/completions", {"messages": [{"role": "user", "content": message}]}).json
    assert chat["chiasm"]["domain"] == answer["domain"]
    fields = door("/openapi.json").json["components"]["schemas"]
    assert set(answer) <= set(fields["Answer"]["properties"]) and set(answer["domain"]) == set(
        fields["Domain"]["properties"]
    )


def test_the_command_line_says_it(tiny_run: Path, examples: list[Example], noise_file: bytes, tmp_path: Path) -> None:
    """Guards against "triangle 100 %" to the meaning of life; a known question about a scene is just answered."""
    strange, scene, result = tmp_path / "noise.png", tmp_path / "scene.png", tmp_path / "said.json"
    strange.write_bytes(noise_file)
    Image.fromarray(examples[0].inputs["image"].load()).save(scene)

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--json", str(result)])
        assert done.exit_code == 0, done.output
        return done.output

    lines = said("ask", str(tiny_run), str(strange), STRANGE).splitlines()
    assert lines[0].startswith("unlike what this model was trained on: the image (distance ")
    assert "words not in training: meaning, life" in lines[0] and lines[0].endswith("; its guesses:")
    assert json.loads(result.read_text())["abstain_reasons"] == ["image_out_of_domain", "text_out_of_domain"]
    assert "unlike" not in said("ask", str(tiny_run), str(scene), KNOWN)
    assert "unlike" in said("caption", str(tiny_run), str(strange))
    assert "unlike" in said("classify", str(tiny_run), str(strange), "--labels", "red,blue")
    assert "words not in training: dog" in said("match", str(tiny_run), str(scene), "a dog")
    assert json.loads(result.read_text())[0]["domain"]["unknown_words"] == ["dog"]
