"""The starter's talk: what the tower sees stands as words where the image was."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.core.resizing import Resizing
from chiasm.core.types import Prediction, Tokens
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.serve import socratic
from chiasm.serve.engine import Model
from chiasm.serve.socratic import THINGS, SocraticTalker, classes_in
from chiasm.serve.talking import Talks
from tiny_talker import pictures, write_language_model


class Starter:
    """Towers that call every image by its mean: a dark one class 0, a light one class 1."""

    device = torch.device("cpu")
    resizing = Resizing((8, 8))
    model = codec = None
    calls = 0

    config = SimpleNamespace(recipe="starter")

    def encode_pixels(self, pixels: torch.Tensor) -> Tokens:
        self.calls += 1
        mean = pixels.float().mean((1, 2, 3))[:, None]
        return Tokens(mean[:, None], torch.ones(len(mean), 1, dtype=torch.bool), mean)

    def task(self, kind: type) -> "Starter":
        return self

    def embed_images(self, model: Any, encoded: dict[str, Tokens]) -> np.ndarray:
        found = np.zeros((1, 1000), np.float32)
        found[0, int(float(encoded["image"].pooled[0, 0]) > 100)] = 1
        return found

    def embed_classes(self, model: Any, codec: Any, names: Any, prompts: Any) -> np.ndarray:
        return np.zeros((len(names), 1000), np.float32)

    def classify(self, model: Any, codec: Any, vectors: Any, classes: Any, names: Any) -> list[Prediction]:
        return [Prediction("a dog", 0.5, {"labels": [{"label": one} for one in ("a dog", "snow", "grass", "a cat")]})]


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    folder = write_language_model(tmp_path / "tiny-llama")
    config = LanguageModelConfig(name=str(folder), precision="fp32")
    monkeypatch.setattr(socratic, "SmolLM2Config", lambda max_tokens: config)
    made = Model.__new__(Model)
    made.pipeline = Starter()  # type: ignore[assignment]
    return made


def test_words_stand_for_images(starter: Model) -> None:
    talker = starter.talker
    assert isinstance(talker, SocraticTalker) and isinstance(starter, Talks) and "without training" in talker.note
    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    told = [talker.told(one) for one in (dark, light)]
    assert "tench" in told[0] and "goldfish" in told[1] and "(100%)" in told[0]
    assert all("a dog, snow, grass." in one for one in told)
    messages = [{"role": "user", "content": [{"image": light}, "and", {"image": dark}, "?"]}]
    prompt = talker.prompt(messages)
    assert not prompt.images
    read = talker.tokenizer.tokenizer.decode(prompt.ids)
    assert f"{told[1]}\nand\n{told[0]}\n?" in read
    calls = starter.pipeline.calls  # type: ignore[attr-defined]
    talker.prompt(messages)
    assert starter.pipeline.calls == calls, "an image is looked at once"  # type: ignore[attr-defined]


def test_ask_and_chat_are_one(starter: Model) -> None:
    """`ask` gives what `chat` says of the image, in the shape that the command line prints."""
    image, other = pictures(2)
    one = starter.ask(image, "a dog?")
    assert one.answer == starter.chat("a dog?", image, max_tokens=48).answer
    assert one.evidence["answers"] == [{"answer": one.answer, "probability": one.confidence}]
    many = starter.ask([image, other], ["a dog?", "red?"])
    assert [said.answer for said in many] == [one.answer, starter.chat("red?", other, max_tokens=48).answer]


def test_classes_are_told_by_their_probability() -> None:
    vector = np.zeros(1000, np.float32)
    vector[[207, 0, 5]] = np.sqrt([0.7, 0.28, 0.02])
    first, second = classes_in(vector)
    assert first == "golden retriever (70%)" and second == "tench (28%)"
    assert len(classes_in(np.full(1000, 1000**-0.5, np.float32))) == 1, "one at least, however unsure"
    assert len(set(THINGS)) == len(THINGS)
