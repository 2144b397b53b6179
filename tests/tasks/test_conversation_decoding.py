"""The continuous decoder: whoever else is written, whatever was read before, a row's reply is the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, IMAGE_ID, Tokens, Turn
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.models.inputs import grouped
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation_decoding import Decoder, PromptSize, Sampling, Seen, Written
from chiasm.tasks.conversation_writing import replies
from chiasm.tasks.prefix_store import PrefixStore
from chiasm.tasks.stop_texts import LOOP_TOKENS
from tiny_talker import pictures, talking_pipeline, write_language_model

GREEDY = Sampling(max_tokens=20)
DRAWN = Sampling(max_tokens=20, temperature=1.0, top_p=0.9, seed=3)
ASKED = (
    ("What is there?",),
    ("<image>\na dog?",),
    ("<image>\n<image>\nWhat is red? yes no", "no dog", "<image>\nAnd 两只狗?"),
    ("a",),
    ("<image>\nsnow", "yes", "over the snow?"),
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return talking_pipeline(write_language_model(tmp_path_factory.mktemp("tiny-llama")))


@pytest.fixture(scope="module")
def tokenizer(pipeline: Pipeline) -> ChatTokenizer:
    assert isinstance(pipeline.codec.tokenizer, ChatTokenizer)
    return pipeline.codec.tokenizer


@pytest.fixture(scope="module")
def encoded(pipeline: Pipeline) -> Tokens:
    pixels = torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in pictures(6)])
    return pipeline.encode_pixels(pixels)


Adding = Callable[..., PromptSize]


@pytest.fixture(scope="module")
def prompts(tokenizer: ChatTokenizer) -> list[list[int]]:
    roles = ("user", "assistant")
    return [
        tokenizer.prompt([Turn(roles[place % 2], text) for place, text in enumerate(texts)])  # type: ignore[arg-type]
        for texts in ASKED
    ]


@pytest.fixture(scope="module")
def add(prompts: list[list[int]], encoded: Tokens) -> Adding:
    """Add conversation number n; its images are the first ones, so that beginnings are alike."""

    def adding(decoder: Decoder, number: int, sampling: Sampling = GREEDY) -> PromptSize:
        ids = prompts[number]
        seen = [
            Seen(f"image {place}", lambda place=place: encoded.rows(torch.tensor([place])))
            for place in range(ids.count(IMAGE_ID))
        ]
        return decoder.add(number, ids, seen, sampling)

    return adding


def fresh(pipeline: Pipeline, store_bytes: int = 0) -> Decoder:
    tokenizer = pipeline.codec.tokenizer
    assert isinstance(tokenizer, ChatTokenizer)
    return Decoder(pipeline.model.language, tokenizer, pipeline.model.bridge("conversation"), PrefixStore(store_bytes))


def finish(decoder: Decoder) -> dict[object, list[Written]]:
    found: dict[object, list[Written]] = {}
    while len(decoder):
        for one in decoder.step():
            found.setdefault(one.key, []).append(one)
    return found


def text(written: Sequence[Written]) -> str:
    return "".join(one.text for one in written)


def ids(written: Sequence[Written]) -> list[int]:
    return [one.id for one in written]


@pytest.fixture(scope="module")
def alone(pipeline: Pipeline, add: Adding) -> dict[tuple[int, Sampling], list[Written]]:
    """Every conversation written in a decoder of its own."""
    found = {}
    for sampling in (GREEDY, DRAWN):
        for number in range(len(ASKED)):
            decoder = fresh(pipeline)
            add(decoder, number, sampling)
            found[number, sampling] = finish(decoder)[number]
    return found


def test_streamed_is_whole(
    pipeline: Pipeline,
    tokenizer: ChatTokenizer,
    prompts: list[list[int]],
    encoded: Tokens,
    alone: dict[tuple[int, Sampling], list[Written]],
) -> None:
    """Token for token what `replies`, which reads all positions at once, writes: another computation of the same."""
    for number, prompt in enumerate(prompts):
        count = prompt.count(IMAGE_ID)
        row = torch.zeros(count, dtype=torch.long)
        seen = {IMAGE: grouped(encoded.rows(torch.arange(count)), row, 1)} if count else {}
        (whole,) = replies(
            pipeline.model,
            "conversation",
            tokenizer,
            seen,
            [(0, prompt)],
            replace(pipeline.codec.decoding, max_words=20),
        )
        written = alone[number, GREEDY]
        length = min(20, len(whole.ids))
        assert tuple(ids(written)) == whole.ids[:length]
        assert [one.log_probability for one in written] == pytest.approx(whole.by_token[:length], abs=1e-4)
        assert text(written) == tokenizer.decode(ids(written))


def test_replies_vary(alone: dict[tuple[int, Sampling], list[Written]]) -> None:
    """Guards against all other tests here comparing one token with itself."""
    assert len({tuple(ids(one)) for one in alone.values()}) > 7
    assert max(len(set(ids(one))) for one in alone.values()) > 5


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
@pytest.mark.parametrize("store_bytes", [0, 2**20])
def test_batched_is_alone(
    pipeline: Pipeline,
    add: Adding,
    alone: dict[tuple[int, Sampling], list[Written]],
    sampling: Sampling,
    store_bytes: int,
) -> None:
    decoder = fresh(pipeline, store_bytes)
    for number in range(len(ASKED)):
        add(decoder, number, sampling)
    found = finish(decoder)
    for number in range(len(ASKED)):
        assert ids(found[number]) == ids(alone[number, sampling])
        assert text(found[number]) == text(alone[number, sampling])


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_joined_later_is_alone(
    pipeline: Pipeline, add: Adding, alone: dict[tuple[int, Sampling], list[Written]], sampling: Sampling
) -> None:
    """Longer and shorter conversations join one that is being written; one leaves in the middle."""
    decoder, found = fresh(pipeline), dict[object, list[Written]]()
    for number in (3, 2, 1, 4, 0):
        add(decoder, number, sampling)
        for _ in range(3):
            for one in decoder.step():
                found.setdefault(one.key, []).append(one)
        if number == 1:
            decoder.remove(2)
            assert len(decoder) == sum(
                3 <= len(one) < 20 and not one[-1].finish for key, one in found.items() if key != 2
            )
    left = len(found[2])
    for key, more in finish(decoder).items():
        found[key] += more
    assert left < len(alone[2, sampling]), "it was still being written"
    for number in range(len(ASKED)):
        expected = ids(alone[number, sampling])
        assert ids(found[number]) == (expected[:left] if number == 2 else expected)


def test_a_prefix_is_computed_once(
    pipeline: Pipeline, tokenizer: ChatTokenizer, encoded: Tokens, alone: dict[tuple[int, Sampling], list[Written]]
) -> None:
    """The second turn of a conversation reads its own words alone: neither the image nor the first turn."""
    seen = [Seen("image 0", lambda: encoded.rows(torch.tensor([0])))]
    turns = [Turn("user", "<image>\na dog?")]
    with_store, without = fresh(pipeline, 2**20), fresh(pipeline)
    for decoder in (with_store, without):
        decoder.add("first", tokenizer.prompt(turns), seen, GREEDY)
    first, plain = finish(with_store)["first"], finish(without)["first"]
    assert ids(first) == ids(plain) == ids(alone[1, GREEDY])
    before, images = with_store.counts.prompt_positions, with_store.counts.images
    # The store holds what was read: continue with the very ids, as the template would write them.
    prompt = [*tokenizer.prompt(turns), *ids(first)[:5], *tokenizer.prompt([Turn("user", "And?")])]
    length, reused = with_store.add("second", prompt, seen, GREEDY)
    assert without.add("second", prompt, seen, GREEDY) == (length, 0)
    new = with_store.counts.prompt_positions - before
    assert new == len(tokenizer.prompt([Turn("user", "And?")])) - 1
    assert with_store.counts.images == images == 1 and without.counts.images == 2
    assert with_store.counts.reused_positions == reused == length - 1 - new
    assert ids(finish(with_store)["second"]) == ids(finish(without)["second"])


def test_a_row_that_is_being_written_is_a_prefix_too(pipeline: Pipeline, add: Adding) -> None:
    decoder = fresh(pipeline)
    length, _ = add(decoder, 1)
    decoder.step()
    add(decoder, 1)
    assert decoder.counts.prompt_positions == decoder.counts.reused_positions == length - 1
    assert decoder.counts.images == 1


def test_another_image_is_another_prefix(pipeline: Pipeline, tokenizer: ChatTokenizer, encoded: Tokens) -> None:
    """Guards against an answer about the image that somebody showed before."""
    prompt, decoder = tokenizer.prompt([Turn("user", "<image>\na dog?")]), fresh(pipeline, 2**20)
    found = []
    for number in range(2):
        seen = [Seen(f"image {number}", lambda number=number: encoded.rows(torch.tensor([number])))]
        decoder.add(number, prompt, seen, replace(GREEDY, logprobs=3))
        found.append(finish(decoder)[number])
    assert decoder.counts.images == 2
    assert [one.top for one in found[0]] != [one.top for one in found[1]]


def test_the_store_is_bounded(pipeline: Pipeline, add: Adding) -> None:
    limit = 12_000
    decoder = fresh(pipeline, limit)
    for number in (0, 1, 2, 3, 4, 0, 1):
        add(decoder, number)
        finish(decoder)
        assert 0 < decoder.store.total_bytes <= limit
    assert 1 <= len(decoder.store) < 5


def test_a_stop_text_cuts_exactly(
    pipeline: Pipeline, add: Adding, alone: dict[tuple[int, Sampling], list[Written]]
) -> None:
    """Every text within a reply, of one letter or of several tokens, ends it before its first occurrence."""
    whole = text(alone[0, GREEDY])
    assert len(whole) > 6
    for start, size in ((0, 1), (2, 1), (2, 3), (4, 5), (len(whole) - 2, 2)):
        stop = whole[start : start + size]
        if stop != stop.strip():
            continue
        decoder = fresh(pipeline)
        add(decoder, 0, replace(GREEDY, stop=("never written", stop)))
        written = finish(decoder)[0]
        assert text(written) == whole[: whole.index(stop)].rstrip() and written[-1].finish == "stop"
        assert len(written) <= len(alone[0, GREEDY])


@pytest.mark.parametrize("most", [1, 2, 7])
def test_max_tokens(
    pipeline: Pipeline, add: Adding, alone: dict[tuple[int, Sampling], list[Written]], most: int
) -> None:
    decoder = fresh(pipeline)
    add(decoder, 0, Sampling(max_tokens=most))
    written = finish(decoder)[0]
    assert ids(written) == ids(alone[0, GREEDY])[:most]
    assert [one.finish for one in written] == [""] * (most - 1) + ["length"]


def test_a_loop_of_likeliest_tokens_ends(pipeline: Pipeline, prompts: list[list[int]], monkeypatch) -> None:
    """Guards against minutes of one sentence; the prompt does not count, and draws may leave a loop."""
    monkeypatch.setattr(Decoder, "_chosen", lambda self, logits, rows: torch.full((len(rows),), 40))
    for ids_read in (prompts[0], [*prompts[0], *[40] * 30]):
        lengths = []
        for temperature in (0.0, 1.0):
            decoder = fresh(pipeline)
            decoder.add(0, ids_read, [], Sampling(max_tokens=50, temperature=temperature))
            written = finish(decoder)[0]
            lengths.append(len(written))
            assert written[-1].finish == "length"
        assert lengths == [LOOP_TOKENS, 50]


def test_the_end_token_ends(pipeline: Pipeline, tokenizer: ChatTokenizer, add: Adding) -> None:
    """With the drawn words of many seeds an end comes now and then, and its text holds no special token."""
    ended = 0
    for seed in range(30):
        decoder = fresh(pipeline)
        add(decoder, 0, Sampling(max_tokens=40, temperature=2.0, seed=seed))
        written = finish(decoder)[0]
        assert written[-1].finish == ("stop" if written[-1].id in tokenizer.end_ids else "length")
        assert not {one.id for one in written} & set(tokenizer.suppressed_ids) and "<|im" not in text(written)
        ended += written[-1].finish == "stop"
    assert ended


def test_draws_follow_their_probabilities(pipeline: Pipeline, add: Adding) -> None:
    """The first token, drawn by many seeds, against the softmax of the logits that are told."""
    decoder = fresh(pipeline)
    add(decoder, 0, Sampling(max_tokens=1, logprobs=20))
    likeliest = finish(decoder)[0][0].top
    count, seen = 600, dict[int, int]()
    shared = fresh(pipeline, 2**20)
    for seed in range(count):
        add(shared, 0, Sampling(max_tokens=1, temperature=1.0, seed=seed))
        (one,) = finish(shared)[0]
        seen[one.id] = seen.get(one.id, 0) + 1
    for number, value in likeliest[:5]:
        expected = float(torch.tensor(value).exp())
        spread = 4 * (expected * (1 - expected) / count) ** 0.5
        assert abs(seen.get(number, 0) / count - expected) < spread + 0.01
    narrow = fresh(pipeline, 2**20)
    for seed in range(20):  # a nucleus narrower than the likeliest token holds it alone
        add(narrow, 0, Sampling(max_tokens=1, temperature=1.0, top_p=1e-6, seed=seed))
        assert finish(narrow)[0][0].id == likeliest[0][0]


def test_what_has_no_room_is_refused(pipeline: Pipeline, tokenizer: ChatTokenizer) -> None:
    decoder = fresh(pipeline)
    with pytest.raises(InputError, match="start a new conversation"):
        decoder.add("long", tokenizer.prompt([Turn("user", "dog " * 500)]), [], GREEDY)
    assert len(decoder) == 0
    nearly = tokenizer.prompt([Turn("user", "两" * 1)])
    assert decoder.longest is not None
    filler = [nearly[3]] * (decoder.longest - len(nearly) - 3)
    decoder.add("nearly", [*nearly[:3], *filler, *nearly[3:]], [], replace(GREEDY, max_tokens=100))
    written = finish(decoder)["nearly"]
    assert len(written) <= 4 and written[-1].finish in ("length", "stop")


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}])
def test_values_out_of_range(pipeline: Pipeline, tokenizer: ChatTokenizer, wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        fresh(pipeline).add(0, tokenizer.prompt([Turn("user", "a")]), [], Sampling(**wrong))
