"""`Model.chat`: one reply whatever form the images have, streamed or whole; errors that teach."""

import base64
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from talking import png, talking, three_turns

from chiasm.core.errors import InputError, MissingTaskError
from chiasm.data.image import ImageError
from chiasm.serve.engine import Model
from tiny_talker import pictures

__all__ = ["talking"]


def test_it_is_what_the_task_predicts(talking: Model) -> None:
    """`ask` decodes a batch at once, by another path: its prompt, given as words, must have the same reply."""
    model, image = talking, pictures(1)[0]
    asked = "Answer with a single word or phrase.\nWhat is there?"
    said = model.chat(asked, image, max_tokens=24)
    whole = model.ask(image, "What is there?")
    assert said.answer == whole.answer
    probabilities = [value for _, value in said.evidence["tokens"]]
    expected = [value for _, value in whole.evidence["tokens"]][: len(probabilities)]
    assert probabilities == pytest.approx(expected, abs=1e-4)
    if said.evidence["finish_reason"] == "length":
        assert said.confidence == pytest.approx(math.exp(sum(map(math.log, probabilities)) / len(probabilities)))


def test_streamed_is_whole(talking: Model) -> None:
    messages = three_turns()
    parts = talking.chat(messages, stream=True, max_tokens=40)
    assert isinstance(parts, Iterator)
    found = list(parts)
    assert len(found) > 3 and "".join(found) == talking.chat(messages, max_tokens=40).answer


def test_an_image_in_any_form(talking: Model, tmp_path: Path) -> None:
    image = pictures(1)[0]
    path = tmp_path / "a.png"
    path.write_bytes(png(image))
    uri = "data:image/png;base64," + base64.b64encode(png(image)).decode()
    forms = [image, path, str(path), png(image), Image.fromarray(image), uri, talking.prepare(path)]
    said = {talking.chat("a dog?", form).answer for form in forms}
    said |= {talking.chat([{"role": "user", "content": [{"image": form}, "a dog?"]}]).answer for form in forms}
    assert len(said) == 1


def test_images_matter_and_their_order(talking: Model) -> None:
    one, two = pictures(2)
    replies = [talking.chat("a dog?", given).confidence for given in ([one, two], [two, one], [one], [])]
    assert len(set(replies)) == 4


def test_seed_and_stop(talking: Model) -> None:
    drawn = [talking.chat("a dog?", temperature=1.5, seed=seed, max_tokens=12).answer for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    whole = talking.chat("a dog?", max_tokens=30)
    stop = next(one for one in whole.answer[2:] if not one.isspace())
    cut = talking.chat("a dog?", max_tokens=30, stop=stop)
    assert cut.answer == whole.answer[: whole.answer.index(stop)].rstrip()
    assert cut.evidence["finish_reason"] == "stop"


def test_errors_teach(talking: Model, model: Model, tmp_path: Path) -> None:
    with pytest.raises(MissingTaskError):
        model.chat("hello")
    with pytest.raises(InputError, match="max_tokens"):
        talking.chat("hello", max_tokens=0)
    with pytest.raises(InputError, match="start a new conversation"):
        talking.chat("dog " * 600)
    with pytest.raises(ImageError):
        talking.chat("hello", tmp_path / "absent.png")
    with pytest.raises(InputError, match="give its path"):
        talking.chat("hello", "https://example.org/a.png")
    with pytest.raises(InputError, match="data URI"):
        talking.chat("hello", "data:image/png;base64,***")
