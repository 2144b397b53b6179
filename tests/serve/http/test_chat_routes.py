"""Conversations over HTTP by the OpenAI client: history, images, streams, many clients in one batch, hang-ups."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from doors import Door, data_uri, running
from talking import image_part, talking, text_part, three_turns

from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings

__all__ = ["talking"]
SETTINGS = ServerSettings(
    max_body_bytes=2**20, max_new_tokens=300, max_messages=12, max_chat_images=3, max_items=4, max_rows=4, queue_rows=12
)


@pytest.fixture(scope="module")
def talking_door(talking: Model) -> Iterator[Door]:
    with running(Service(talking, "talker", SETTINGS)) as open_door:
        yield open_door


@pytest.fixture
def client(talking_door: Door) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{talking_door.address}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


def waited(is_so: Callable[[], bool], most_s: float = 10.0) -> bool:
    end = time.monotonic() + most_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_two_images_and_three_turns(client: openai.OpenAI, talking: Model) -> None:
    """Guards against a reply that is not the engine's, and images that are not counted."""
    messages: list[Any] = three_turns()
    said = client.chat.completions.create(model="talker", messages=messages, max_tokens=30)
    expected = talking.chat(messages, max_tokens=30)
    choice = said.choices[0]
    assert choice.message.content == expected.answer and choice.message.role == "assistant"
    assert choice.finish_reason == expected.evidence["finish_reason"] and choice.logprobs is None
    prompt = talking.talker.prompt(messages)
    assert said.usage is not None and said.usage.prompt_tokens == len(prompt.ids) + 2 * 8  # nine tokens an image
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    again = client.chat.completions.create(model="talker", messages=messages, max_completion_tokens=5)
    assert again.usage is not None and again.usage.completion_tokens == 5
    assert again.choices[0].finish_reason == "length"
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == said.usage.prompt_tokens - 1


def test_a_stream_comes_token_by_token(client: openai.OpenAI, talking: Model) -> None:
    messages: list[Any] = three_turns()
    stream = client.chat.completions.create(
        model="talker", messages=messages, max_tokens=40, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    expected = talking.chat(messages, max_tokens=40)
    assert text == expected.answer and len(chunks) > 8
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == expected.evidence["finish_reason"]
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens <= 40


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client: openai.OpenAI, talking: Model, stream: bool) -> None:
    keys: dict[str, Any] = {"model": "talker", "messages": ask("a dog?"), "max_tokens": 12}
    said = client.chat.completions.create(**keys, logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        found = [
            token
            for one in said
            for token in ((one.choices[0].logprobs or None) and one.choices[0].logprobs.content) or []
        ]  # type: ignore[union-attr]
    else:
        found = said.choices[0].logprobs.content
    expected = talking.chat("a dog?", max_tokens=12).evidence["tokens"]
    assert [one.token for one in found] == [token for token, _ in expected]
    for one in found:
        assert len(one.top_logprobs) == 3 and one.top_logprobs[0].logprob == pytest.approx(one.logprob)
        assert bytes(one.bytes).decode() == one.token
        assert one.logprob <= 0


def test_drawing_and_stopping(client: openai.OpenAI, talking: Model) -> None:
    keys: dict[str, Any] = {"model": "talker", "messages": ask("a dog?"), "max_tokens": 12}

    def said(**more: Any) -> Any:
        return client.chat.completions.create(**keys, **more).choices[0]

    drawn = [said(temperature=1.5, top_p=0.95, seed=seed).message.content for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert drawn[0] == talking.chat("a dog?", max_tokens=12, temperature=1.5, top_p=0.95, seed=1).answer
    free = {said(temperature=1.5).message.content for _ in range(4)}
    assert len(free) > 1, "without a seed each reply is drawn anew"
    whole = said().message.content
    stop = next(one for one in whole[2:] if not one.isspace())
    for form in (stop, ["never", stop]):
        cut = said(stop=form)
        assert cut.message.content == whole[: whole.index(stop)].rstrip() and cut.finish_reason == "stop"


def test_clients_at_once_share_a_batch(talking_door: Door, talking: Model) -> None:
    """Eight clients on four places: all replies are those of a client alone, and steps hold several rows."""
    door, before = talking_door, dict(talking_door.service.batcher.stats.sizes)
    words = ["a dog?", "What is there? " * 3, "yes", "两只狗", "snow", "red red red", "over", "runs?"]
    found: dict[str, str] = {}

    def run(text: str) -> None:
        body = {"messages": ask(text), "max_tokens": 60}
        found[text] = door("/v1/chat/completions", body).json["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=run, args=(text,)) for text in words]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {text: talking.chat(text, max_tokens=60).answer for text in words}
    sizes = door.service.batcher.stats.sizes
    assert sum(sizes.get(size, 0) - before.get(size, 0) for size in (3, 4)) > 20 and max(sizes) <= 4
    assert door.service.batcher.admitted == 0


def test_a_client_that_hangs_up_frees_its_place(talking_door: Door) -> None:
    """In the middle of a stream and while it waits for a whole reply: nothing is written for nobody."""
    door = talking_door
    conversations, batcher = door.service.conversations, door.service.batcher
    for stream in (True, False):
        address = door.address.removeprefix("http://")
        left = batcher.stats.left
        connection = http.client.HTTPConnection(address)
        body = {
            "messages": ask("a dog?"),
            "max_tokens": 300,
            "stream": stream,
            "temperature": 1.0,
            "seed": endless(door),
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        if stream:
            answer = connection.getresponse()
            assert answer.readline().startswith(b"data: ")
            answer.close()
        else:
            assert waited(lambda: len(conversations._open) == 1)
        connection.close()
        assert waited(lambda: batcher.admitted == 0 and not conversations._open), "its place is free"
        assert waited(lambda: conversations._decoder is not None and len(conversations._decoder) == 0)
        assert batcher.stats.left == left + 1
    assert conversations._decoder is not None
    tokens = conversations._decoder.counts.tokens
    time.sleep(0.1)
    assert conversations._decoder.counts.tokens == tokens
    assert door("/v1/chat/completions", {"messages": ask("a dog?"), "max_tokens": 3}).status == 200


def endless(door: Door) -> int:
    """A seed whose reply goes on for long."""
    model = door.service.model
    return next(
        seed
        for seed in range(50)
        if model.chat("a dog?", temperature=1.0, seed=seed, max_tokens=300).evidence["finish_reason"] == "length"
    )


def test_errors_in_openais_shape(client: openai.OpenAI, talking_door: Door) -> None:
    def create(messages: list[Any], **more: Any) -> Any:
        return client.chat.completions.create(model="talker", messages=messages, **more)

    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        create([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert wrong.value.code == "messages" and wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        create(ask("dog " * 600))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        create(ask("dog " * 600), stream=True)
    for wrong_value in ({"n": 2}, {"temperature": 3}, {"top_p": 0}, {"max_tokens": 0}, {"stop": ["a"] * 5}):
        with pytest.raises(openai.UnprocessableEntityError) as invalid:
            create(ask("a"), **wrong_value)
        assert any(one.startswith(next(iter(wrong_value))) for one in invalid.value.body["fields"])  # type: ignore[index]
    with pytest.raises(openai.UnprocessableEntityError, match=r"no image"):
        create([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_uri(b"no picture")}}]}])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ask("a"))
    for many in ([image_part(0)] * 4, [text_part("a")]):
        messages = [{"role": "user", "content": many}] * (1 if len(many) > 1 else 13)
        with pytest.raises(openai.UnprocessableEntityError) as items:
            create(messages)
        assert items.value.code == "too_many_items"
    assert talking_door.service.batcher.admitted == 0


def test_a_deadline_ends_a_reply(talking: Model) -> None:
    """As an error of its own, or as the last event of a stream that has begun."""
    service = Service(talking, "talker", ServerSettings(timeout_s=0.4, max_new_tokens=100_000))
    with running(service) as door:
        body = {"messages": ask("a dog?"), "max_tokens": 390, "temperature": 1.0, "seed": endless(door)}
        service.conversations._talker = lambda: slow(talking)
        said = door("/v1/chat/completions", body)
        assert said.status == 503 and said.code == "deadline"
        streamed = door("/v1/chat/completions", {**body, "stream": True})
        assert streamed.status == 200 and b'"code": "deadline"' in streamed.content.splitlines()[-2]
        assert waited(lambda: service.batcher.admitted == 0)


def slow(model: Model) -> Any:
    talker = model.talker
    if not hasattr(talker, "slow_decoder"):
        decoder = talker.decoder()
        step = decoder.step
        decoder.step = lambda: (time.sleep(0.02), step())[1]  # type: ignore[method-assign]
        talker.slow_decoder = decoder  # type: ignore[attr-defined]

    class Slow:
        prompt, decoder = talker.prompt, staticmethod(lambda: talker.slow_decoder)  # type: ignore[attr-defined]

    return Slow
