"""A reply's text ends before its first stop text, in whatever pieces it comes."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.data.tokenizers.chat_folder import read_chat_tokenizer
from chiasm.tasks.stop_texts import StoppingStream, is_looping
from tiny_talker import write_language_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return read_chat_tokenizer(write_language_model(tmp_path_factory.mktemp("tiny-llama")), 200)


def streamed(tokenizer: ChatTokenizer, ids: list[int], stops: list[str]) -> tuple[str, bool]:
    stream, parts = StoppingStream(tokenizer, stops), []
    for one in ids:
        parts.append(stream.add(one)[0])
        if stream.is_stopped:
            break
    parts.append(stream.finish())
    assert "".join(parts) == stream.text
    return stream.text, stream.is_stopped


@example(text="aga", stops=["g", "aga"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(alphabet="ab dog\n狗", max_size=30),
    stops=st.lists(st.text(alphabet="ab dog狗", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_it_is_cut_before_the_first(tokenizer: ChatTokenizer, text: str, stops: list[str]) -> None:
    """Against a search in the whole text for the one that is complete first. Those of white space are another test."""
    stops = [one for one in stops if one.strip()]
    ids = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    whole = tokenizer.decode(ids)
    ends = [(place + len(stop), place) for stop in stops if (place := whole.find(stop)) >= 0]
    cut = max((place for end, place in ends if end == min(ends)[0]), default=len(whole))
    found, is_stopped = streamed(tokenizer, ids, stops)
    assert found == whole[:cut].rstrip()
    assert is_stopped == (cut < len(whole))


def test_a_line_ends_it(tokenizer: ChatTokenizer) -> None:
    """White space is found when the word behind it comes."""
    ids = tokenizer.tokenizer.encode("a dog\nruns", add_special_tokens=False).ids
    assert streamed(tokenizer, ids, ["\n"]) == ("a dog", True)
    assert streamed(tokenizer, ids, []) == ("a dog\nruns", False)
    assert streamed(tokenizer, [*ids[:2], *tokenizer.end_ids, *ids], ["never"])[1]


def test_what_may_begin_a_stop_text_is_held_back(tokenizer: ChatTokenizer) -> None:
    stream = StoppingStream(tokenizer, ["dogs"])
    given = [stream.add(one)[0] for one in tokenizer.tokenizer.encode("a dog", add_special_tokens=False).ids]
    assert "".join(given) == "a" and stream.finish() == " dog"


def slow_loop(ids: list[int]) -> bool:
    """Some tail of 24 tokens or more, in which a token is that of `period` before, holds its period three times."""
    for period in range(1, len(ids)):
        length = max(24, 3 * period)
        if len(ids) >= length and all(ids[-place] == ids[-place - period] for place in range(1, length - period + 1)):
            return True
    return False


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 14, 31])
@pytest.mark.parametrize("head", [0, 1, 10])
def test_a_loop_is_found_when_it_is_sure(size: int, head: int) -> None:
    """Guards against a reply that goes on for minutes, and against one that ends where a sentence stands twice."""
    run = list(range(100, 100 + size))
    reply = [*range(head), *run * 30]
    first = next(count for count in range(len(reply)) if is_looping(reply[:count]))
    assert first == head + max(3 * size, 24)


@given(
    st.lists(st.integers(0, 1), max_size=8), st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 80)
)
def test_a_loop_is_that_of_a_slow_search(head: list[int], run: list[int], count: int) -> None:
    """Guards against a period that is missed, and a tail that is one token short of it."""
    ids = [*head, *(run * count)[:count]]
    assert is_looping(ids) == slow_loop(ids)
