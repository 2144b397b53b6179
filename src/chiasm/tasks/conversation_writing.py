"""Writing by a language model that sees images: replies to prompts, and likelihoods of given replies.

Axis legend: m prompts, l tokens, v vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chiasm.core.types import IMAGE, Encoded, Tokens
from chiasm.data.tokenizers.chat import ChatTokenizer, Spans
from chiasm.models.bridge.language_bridge import states_of_rows
from chiasm.models.bridge.splicing import GivenRows, Spliced
from chiasm.models.decoding import DecodingConfig, decode
from chiasm.models.pretrained.key_values import KeyValues
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.conversation_packing import PackedRow, packed, padded

WRITTEN_AT_ONCE = 64
"""Replies decoded together, of prompts of similar length."""
REPLY_TOKENS = 64
"""Longest reply where `decoding.max_words` sets none."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote.

    Attributes:
        text: without special tokens.
        ids: its tokens, the end token included where it came.
        log_probability: natural logarithm of the probability of the whole reply.
        by_token: of each token; () from beam search.
        is_finished: False where the longest reply cut it.
    """

    text: str
    ids: tuple[int, ...]
    log_probability: float
    by_token: tuple[float, ...]
    is_finished: bool


@torch.no_grad()
def replies(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    prompts: Sequence[tuple[int, Sequence[int]]],
    decoding: DecodingConfig,
    has_own_weights: bool = False,
) -> list[Reply]:
    """Continue prompts about encoded examples.

    Args:
        model: in evaluation mode.
        task: whose bridge.
        tokenizer: the language model's.
        encoded: inputs of n examples.
        prompts: pairs of an example's row and token ids that end where the assistant starts.
        decoding: method and lengths; the longest reply is `max_words`, or `REPLY_TOKENS`.
        has_own_weights: write with the network's own weights and not with the eight-bit copies that answers are written
            with (`model.text.writing_weights`), which are made for few rows at once.
    """
    found: dict[int, Reply] = {}
    with nullcontext() if has_own_weights else model.language.writing():
        for numbers in _together(prompts):
            part = [prompts[number] for number in numbers]
            found |= zip(numbers, _written(model, task, tokenizer, encoded, part, decoding), strict=True)
    return [found[number] for number in range(len(prompts))]


def captions_and_answers(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    prompts: Sequence[tuple[int, Sequence[int]]],
    decoding: DecodingConfig,
    are_captions: Sequence[bool],
) -> list[Reply]:
    """`replies`, of which those to a user's words are greedy where captions are searched by beams.

    An answer of a word ends at once, and its other beams would go on to the longest reply.
    """
    found: dict[int, Reply] = {}
    greedy = replace(decoding, method="greedy") if decoding.method == "beam" else decoding
    for is_caption, method in ((True, decoding), (False, greedy)):
        some = [place for place, one in enumerate(are_captions) if one == is_caption]
        said = replies(model, task, tokenizer, encoded, [prompts[place] for place in some], method)
        found |= zip(some, said, strict=True)
    return [found[place] for place in range(len(prompts))]


def _parts(order: Sequence[int]) -> Iterator[Sequence[int]]:
    """At most `WRITTEN_AT_ONCE` neighbours at once."""
    for start in range(0, len(order), WRITTEN_AT_ONCE):
        yield order[start : start + WRITTEN_AT_ONCE]


def _together(prompts: Sequence[tuple[int, Sequence[int]]]) -> Iterator[Sequence[int]]:
    """Numbers of prompts of similar length, those about one example side by side: they are read as one tree."""
    longest: dict[int, int] = {}
    for row, ids in prompts:
        longest[row] = max(longest.get(row, 0), len(ids))
    yield from _parts(sorted(range(len(prompts)), key=lambda number: (longest[prompts[number][0]], prompts[number][0])))


def _written(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    prompts: Sequence[tuple[int, Sequence[int]]],
    decoding: DecodingConfig,
) -> list[Reply]:
    language = model.language
    cache, is_real = _prompts_read(model, task, tokenizer, encoded, prompts)
    place = is_real.sum(1)
    if decoding.max_words == 0:
        decoding = replace(decoding, max_words=REPLY_TOKENS)

    def step(ids: Tensor, chosen: Tensor | None) -> Tensor:
        nonlocal is_real, place
        if chosen is not None:
            cache.select(chosen)
            is_real, place = is_real[chosen], place[chosen]
        is_real = torch.cat([is_real, torch.ones_like(is_real[:, :1])], 1)
        states = language.states(language.embed(ids), is_real[:, None], place[:, None], cache)
        place = place + 1
        return language.words(states[:, -1])

    last = torch.tensor([ids[-1] for _, ids in prompts], device=is_real.device)
    banned = [one for one in tokenizer.special_ids if one != tokenizer.end_id]
    written = decode(step, last, tokenizer.end_id, decoding, decoding.max_words + 2, banned)
    result = []
    for number, ids in enumerate(written.ids.tolist()):
        length = ids.index(tokenizer.end_id) + 1 if tokenizer.end_id in ids else len(ids)
        total = float(written.log_probability[number]) * length
        by_token = () if written.by_token is None else tuple(written.by_token[number, :length].tolist())
        text = tokenizer.decode(ids[:length]).strip()
        result.append(Reply(text, tuple(ids[:length]), total, by_token, bool(written.is_finished[number])))
    return result


def _prompts_read(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    prompts: Sequence[tuple[int, Sequence[int]]],
) -> tuple[KeyValues, Tensor]:
    """Keys and values of each prompt up to its last token, padded on the left, and bool [m, k], True where one is real.

    What prompts about one example begin with is read once; they stand side by side.
    """
    language = model.language
    ahead = language.sees_ahead
    asked = [
        (row, Spans([*ids, tokenizer.end_id] if ahead else list(ids), [*[False] * (len(ids) - (not ahead)), True]))
        for row, ids in prompts
    ]
    work = _packed_by_example(asked, not ahead)
    assert [number for _, own, _ in work for number in own] == [*range(len(prompts))], "an example's prompts are apart"
    device = next(language.parameters()).device
    fields, index = _tensors(work, tokenizer.pad_id, device)
    cache = KeyValues()
    rows = _rows(model, task, _on(encoded.get(IMAGE), device), fields, index)
    states_of_rows(language, rows, min(rows.shared, rows.positions.shape[1] - 1), cache)
    row, column = fields["target_is_real"].nonzero(as_tuple=True)
    seen = rows.allowed[row, rows.ends(row, fields["target_places"][row, column])]
    longest = int(seen.sum(1).max())
    # A stable sort of False before True puts what is seen at the end of each row, in its order.
    places = seen.to(torch.uint8).argsort(dim=1, stable=True)[:, seen.shape[1] - longest :]
    is_real = seen.gather(1, places)
    cache.gather(row, places, is_real)
    if ahead:  # the first step reads the last token again: what stands before it has seen it
        cache.drop_last()
        is_real = is_real[:, :-1]
    return cache, is_real


@torch.no_grad()
def log_likelihoods(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    conversations: Sequence[tuple[int, Spans]],
) -> list[list[float]]:
    """Log-probability of each counted token of conversations, whose rows are about encoded examples.

    Returns:
        For each conversation the natural logarithms, in order.
    """
    found: dict[int, list[float]] = {}
    for number, values, ids in _read(model, task, tokenizer, encoded, conversations):
        found[number] = values.log_softmax(-1).gather(1, ids[:, None])[:, 0].tolist()
    return [found[number] for number in range(len(conversations))]


@torch.no_grad()
def first_token_log_probabilities(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    prompts: Sequence[tuple[int, Sequence[int]]],
) -> list[Tensor]:
    """Log-probabilities, float32 [v], of the first token of the reply to each prompt."""
    spans = [(row, Spans([*ids, tokenizer.end_id], [*[False] * len(ids), True])) for row, ids in prompts]
    found: dict[int, Tensor] = {}
    for number, values, _ in _read(model, task, tokenizer, encoded, spans):
        found[number] = values[0].log_softmax(-1)
    return [found[number] for number in range(len(prompts))]


def _read(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    encoded: Encoded,
    conversations: Sequence[tuple[int, Spans]],
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number of each conversation with logits [t, v] and ids [t] of its counted tokens, in no order of conversations.

    Conversations about one example that begin alike share their beginning (`packed`).
    """
    work = _packed_by_example(conversations, not tokenizer.form.sees_ahead)
    device = next(model.language.parameters()).device
    image = _on(encoded.get(IMAGE), device)
    for some in _parts(sorted(range(len(work)), key=lambda number: len(work[number][2].ids))):
        part = [work[number] for number in some]
        fields, index = _tensors(part, tokenizer.pad_id, device)
        values = model.language.words(target_states(model, task, image, fields, index))
        rows_of, columns = fields["target_is_real"].nonzero(as_tuple=True)
        ids, numbers = fields["target_ids"][rows_of, columns], fields["target_numbers"][rows_of, columns]
        for place, (_, own, _) in enumerate(part):
            for position, number in enumerate(own):
                is_own = (rows_of == place) & (numbers == position)
                yield number, values[is_own], ids[is_own]


def _packed_by_example(
    conversations: Sequence[tuple[int, Spans]], shares: bool
) -> list[tuple[int, list[int], PackedRow]]:
    """Rows of conversations: the example that each is about, the numbers of its conversations, and itself."""
    by_row: dict[int, list[int]] = {}
    for number, (row, _) in enumerate(conversations):
        by_row.setdefault(row, []).append(number)
    work: list[tuple[int, list[int], PackedRow]] = []
    for about, numbers in by_row.items():
        rows = packed([conversations[number][1] for number in numbers], shares)
        owners = [numbers] if len(rows) == 1 else [[number] for number in numbers]
        work += [(about, own, one) for own, one in zip(owners, rows, strict=True)]
    return work


def _tensors(
    work: Sequence[tuple[int, list[int], PackedRow]], pad_id: int, device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """What `padded` gives of rows, and int64 [m], the example that each is about."""
    fields = {name: value.to(device) for name, value in padded([one for *_, one in work], pad_id).items()}
    return fields, torch.tensor([row for row, *_ in work], device=device)


def target_states(
    model: VisionLanguageModel, task: str, image: Tokens | None, fields: dict[str, Tensor], image_index: Tensor
) -> Tensor:
    """States [r, d] that the targets of rows as `padded` gives them are predicted from, in the targets' order."""
    rows = _rows(model, task, image, fields, image_index)
    row, column = fields["target_is_real"].nonzero(as_tuple=True)
    return model.bridge(task).states_at(model.language, rows, row, fields["target_places"][row, column])


def _rows(
    model: VisionLanguageModel, task: str, image: Tokens | None, fields: dict[str, Tensor], image_index: Tensor
) -> Spliced:
    ids, is_prompt = fields["turn_ids"], None
    if model.language.sees_ahead:
        is_prompt = torch.arange(ids.shape[1], device=ids.device) <= fields["target_places"][:, :1]
        is_prompt = is_prompt & fields["turn_is_real"]
    given = GivenRows(ids, fields["turn_is_real"], fields["turn_until"], is_prompt)
    return model.bridge(task).rows(model.language, image, given, image_index)


def _on(image: Tokens | None, device: torch.device) -> Tokens | None:
    return None if image is None else image.each(lambda part: part.to(device))
