"""The official OpenAI client works unchanged."""

import numpy as np
import openai
import pytest
from doors import Door, data_uri

from chiasm.serve.engine import Model

QUESTION = "what color is the circle?"


@pytest.fixture
def client(door: Door) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{door.address}/v1", api_key="none", max_retries=0)


def messages(content: bytes, words: str) -> list:
    picture = {"type": "image_url", "image_url": {"url": data_uri(content), "detail": "low"}}
    system = {"role": "system", "content": "Answer in one word."}
    return [system, {"role": "user", "content": [{"type": "text", "text": words}, picture]}]


def test_chat(client: openai.OpenAI, model: Model, files: list[bytes]) -> None:
    """Guards against a shape that the client cannot read, and an answer that is not the engine's."""
    said = client.chat.completions.create(model="demo", messages=messages(files[0], QUESTION), temperature=0)
    assert said.choices[0].message.content == model.ask(files[0], QUESTION).answer
    assert said.choices[0].finish_reason == "stop" and said.usage is not None
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    described = client.chat.completions.create(model="demo", messages=messages(files[0], "请描述这张图片"))
    assert described.choices[0].message.content == model.caption(files[:1], "zh")[0].answer
    later = [*messages(files[0], ""), {"role": "assistant", "content": "x"}, {"role": "user", "content": QUESTION}]
    again = client.chat.completions.create(model="demo", messages=later)
    assert again.choices[0].message.content == model.ask(files[0], QUESTION).answer


def test_chat_in_a_stream(client: openai.OpenAI, model: Model, files: list[bytes]) -> None:
    """Guards against pieces that do not add up, and a stream that never ends."""
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=messages(files[0], "describe it"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == model.caption(files[:1])[0].answer
    assert chunks[-1].usage is not None and chunks[-2].choices[0].finish_reason == "stop"


def test_embeddings_and_models(client: openai.OpenAI, model: Model) -> None:
    """Guards against base64 of another byte order, which the client asks for by itself."""
    found = client.embeddings.create(model="demo", input=["a red circle", "一个圆形"])
    vectors = np.array([one.embedding for one in found.data], dtype=np.float32)
    assert np.array_equal(vectors, model.encode_text(["a red circle", "一个圆形"]))
    assert [one.id for one in client.models.list()] == ["demo"]
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="no image"):
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hello"}])
