"""A model that talks, for the tests of this folder."""

import io
from typing import Any

import numpy as np
import pytest
from doors import data_uri
from PIL import Image

from chiasm.serve.engine import Model
from tiny_talker import pictures, talking_pipeline, write_language_model


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Untrained, with a tiny random language model."""
    return Model(talking_pipeline(write_language_model(tmp_path_factory.mktemp("tiny-llama"))))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def image_part(number: int) -> dict[str, Any]:
    """Image number n of `pictures` as OpenAI's clients send it."""
    return {"type": "image_url", "image_url": {"url": data_uri(png(pictures(number + 1)[number]))}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def three_turns() -> list[dict[str, Any]]:
    """Two images and three turns of the user."""
    return [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [image_part(0), text_part("What is there?")]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "yes no?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [text_part("And there 两只狗?"), image_part(1)]},
    ]
