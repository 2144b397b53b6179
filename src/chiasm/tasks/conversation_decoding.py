"""Continuous decoding of conversations: rows join and leave at every step (Orca, Yu et al. 2022, section 3.1).

`conversation_writing.replies` decodes a batch from its beginning to its end; here a row that comes later is computed
beside those that are half written, one that is ready gives its place away at once, and what a row writes does not
depend on the others. What conversations share at their beginning is computed once (`prefix_store`).

Axis legend: m rows, q new positions, k all positions, v vocabulary, e width of word embeddings.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import IMAGE_ID, Tokens
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.models.bridge.splicing import axes_along
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.pretrained.key_values import KeyValues
from chiasm.tasks.prefix_store import Prefix, PrefixStore, Symbol, common, part_of
from chiasm.tasks.stop_texts import StoppingStream, is_looping

Finish = Literal["", "stop", "length"]
MOST_LOGPROBS = 20
MOST_TEMPERATURE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one reply is written."""

    max_tokens: int = 256
    """Longest reply in tokens, its end token included."""
    temperature: float = 0.0
    """Divisor of the logits before drawing; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Probability that the tokens drawn from hold together (Holtzman et al. 2020)."""
    seed: int = 0
    """Decides the draws, together with the place in the reply."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply; it is cut before them."""
    logprobs: int = 0
    """Number of likeliest tokens to tell for each place."""

    def check(self) -> None:
        """Check ranges.

        Raises:
            InputError: names the first value out of its range.
        """
        for name, value, is_right, allowed in (
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
            ("temperature", self.temperature, 0 <= self.temperature <= MOST_TEMPERATURE, "0 to 2; 0 is the likeliest"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, up to 1"),
            ("logprobs", self.logprobs, 0 <= self.logprobs <= MOST_LOGPROBS, f"0 to {MOST_LOGPROBS}"),
            ("stop", self.stop, all(self.stop), "texts that are not empty"),
        ):
            if not is_right:
                raise InputError(f"{name} is {value!r}", allowed, f"change {name}")


class TooLongError(InputError):
    """A conversation that is longer than the language model reads."""


class PromptSize(NamedTuple):
    """Length of a prompt in positions, those of its images included, and how many of them were read before."""

    positions: int
    reused: int


@dataclass(frozen=True, slots=True)
class Seen:
    """An image of a conversation.

    Attributes:
        key: names its pixels, such as their hash.
        tokens: encodes it, one row; called only where the image has to be read.
    """

    key: str
    tokens: Callable[[], Tokens]


@dataclass(frozen=True, slots=True)
class Written:
    """One step of one row.

    Attributes:
        key: of the row.
        id: the token.
        text: what is sure of the reply's text since the step before.
        log_probability: natural logarithm of the token's probability by the model, whatever it was drawn by.
        top: the likeliest tokens with their log-probabilities, as many as `Sampling.logprobs`.
        finish: "stop" with an end token or a text of `Sampling.stop`, "length" at the longest reply, or where one of
            likeliest tokens repeats itself (`stop_texts.is_looping`); "" before the end.
        is_cut: the token is no part of the text: it stands behind a text of `Sampling.stop`, or in it.
    """

    key: Hashable
    id: int
    text: str
    log_probability: float
    top: tuple[tuple[int, float], ...]
    finish: Finish
    is_cut: bool = False


@dataclass(slots=True)
class _Row:
    key: Hashable
    symbols: list[Symbol]
    ends: list[int]
    sampling: Sampling
    text: StoppingStream
    last: int
    """The token that the next step reads."""
    written: int = 0
    most: int = 0

    @property
    def length(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def is_at_its_end(self) -> bool:
        """Whether the reply is as long as it may be, or repeats itself; `last` is its newest token."""
        reply = [*self.symbols[len(self.symbols) + 1 - self.written :], self.last]
        return self.written >= self.most or (not self.sampling.temperature and is_looping(reply))


@dataclass(slots=True)
class Counts:
    """What was computed; tests and metrics read it."""

    prompt_positions: int = 0
    """Positions of prompts that were computed."""
    reused_positions: int = 0
    """Positions of prompts that were there already."""
    images: int = 0
    """Images that were encoded."""
    steps: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _State:
    """Rows that are being written: positions are padded on the left, so that all end at the last."""

    cache: KeyValues = field(default_factory=KeyValues)
    rows: list[_Row] = field(default_factory=list)


class Decoder:
    """Writes replies to conversations. One thread may use it.

    Args:
        language: in evaluation mode.
        tokenizer: the language model's.
        project: tokens of an image -> tokens of the width of word embeddings; None where no image is shown.
        store: of conversations that were read.
    """

    def __init__(
        self,
        language: LanguageModel,
        tokenizer: ChatTokenizer,
        project: Callable[[Tokens], Tokens] | None,
        store: PrefixStore,
    ) -> None:
        self.language, self.tokenizer, self.project, self.store = language, tokenizer, project, store
        self.counts = Counts()
        self._state = _State()
        self._suppressed = torch.tensor(tokenizer.suppressed_ids, dtype=torch.long)

    def __len__(self) -> int:
        """Rows that are being written."""
        return len(self._state.rows)

    @property
    def longest(self) -> int | None:
        """Positions that the network has embeddings for; None where it does not say."""
        text = self.language.network.config.get_text_config()
        return getattr(text, "max_position_embeddings", None)

    @torch.no_grad()
    def add(self, key: Hashable, ids: Sequence[int], images: Sequence[Seen], sampling: Sampling) -> PromptSize:
        """Read a prompt; the next `step` writes the first token of its reply.

        Args:
            key: names the row in what `step` returns.
            ids: the prompt, `IMAGE_ID` for each image; it ends in a word.
            images: in order.
            sampling: how to write.

        Raises:
            TooLongError: a prompt that leaves no room for a token.
            InputError: a value out of its range.
        """
        sampling.check()
        assert len(ids) > 1 and ids[-1] != IMAGE_ID, "a template writes something before the assistant speaks"
        assert ids.count(IMAGE_ID) == len(images), "an image for each placeholder"
        by_place = iter(images)
        symbols: list[Symbol] = [one if one != IMAGE_ID else next(by_place).key for one in ids]
        # Where tokens see what follows, a prompt is what was read only as a whole.
        symbols = [repr(symbols)] if self.language.sees_ahead else symbols[:-1]
        state, ends = self._begun(symbols)
        reused = state.length
        self.counts.reused_positions += reused
        if self.language.sees_ahead and not ends:
            ends.append(self._read_whole(ids, images, state))
        elif len(ends) < len(symbols):
            skipped = list(ids[: len(ends)]).count(IMAGE_ID)
            embeddings, sizes, steps = self._embeddings(ids[len(ends) : -1], images[skipped:])
            for size in sizes:
                ends.append((ends[-1] if ends else 0) + size)
            self._check_room(ends[-1] + 1)
            self._read(embeddings, steps, state)
        row = _Row(key, symbols, ends, sampling, StoppingStream(self.tokenizer, sampling.stop), ids[-1])
        row.most = sampling.max_tokens
        if self.longest is not None:
            row.most = min(row.most, self.longest - row.length - 1)
        self._join(row, state)
        return PromptSize(row.length + 1, reused)

    @torch.no_grad()
    def step(self) -> list[Written]:
        """Write one token of every row; rows that end leave, and what was read of them is kept for later ones."""
        rows = self._state.rows
        if not rows:
            return []
        logits = self._next_logits()
        by_token = logits.log_softmax(-1)
        chosen = self._chosen(logits, rows)
        gained = by_token.gather(1, chosen[:, None])[:, 0].tolist()
        most = max(row.sampling.logprobs for row in rows)
        top = by_token.topk(most) if most else None
        found = []
        for place, (row, one) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            row.last, row.written = one, row.written + 1
            count = row.sampling.logprobs
            likeliest: list[tuple[int, float]] = []
            if top is not None and count:
                likeliest = [*zip(top[1][place, :count].tolist(), top[0][place, :count].tolist(), strict=True)]
            text, is_cut = row.text.add(one)
            finish: Finish = "stop" if row.text.is_stopped else "length" if row.is_at_its_end else ""
            if finish:
                text += row.text.finish()
                finish = "stop" if row.text.is_stopped else finish
            found.append(Written(row.key, one, text, gained[place], tuple(likeliest), finish, is_cut))
        self.counts.steps, self.counts.tokens = self.counts.steps + 1, self.counts.tokens + len(rows)
        self._leave([place for place, one in enumerate(found) if one.finish])
        return found

    def remove(self, key: Hashable) -> None:
        """Stop writing a row; the others go on as if it had never been there. An unknown key is ignored."""
        self._leave([place for place, row in enumerate(self._state.rows) if row.key == key])

    # --- internal -------------------------------------------------------------------------------------------

    def _begun(self, symbols: Sequence[Symbol]) -> tuple[KeyValues, list[int]]:
        """What has been read of a conversation, by an earlier one or by one that is being written."""
        stored, length = self.store.longest(symbols)
        kept = (stored.state, 0, 0, stored.ends) if stored is not None else None
        cache = self._state.cache
        for place, row in enumerate(self._state.rows):
            alike = common(row.symbols, symbols)
            if alike > length:
                kept, length = (cache, place, cache.length - row.length, tuple(row.ends)), alike
        if kept is None or not length:
            return KeyValues(), []
        source, place, start, ends = kept
        return part_of(source, place, start, start + ends[length - 1]), list(ends[:length])

    def _embeddings(self, ids: Sequence[int], images: Sequence[Seen]) -> tuple[Tensor, list[int], Tensor | None]:
        """Embeddings [1, q, e] of new symbols, the number of positions of each, and `Tokens.steps` [q, 1 + a]."""
        device, axes = self._device, self.language.axes
        words = self.language.embed(torch.tensor(ids, device=device).clamp_min(0))
        parts, sizes, by_place = [], [], iter(images)
        of_word = torch.tensor([[1] + [0] * axes], device=device)
        steps = []
        for place, one in enumerate(ids):
            part, step = words[place : place + 1], of_word
            if one == IMAGE_ID:
                assert self.project is not None, "no image is shown to a language model without a bridge"
                shown = self.project(next(by_place).tokens().each(lambda some: some.to(device)))
                part = shown.values[0][shown.is_real[0]].to(words.dtype)
                step = of_word.expand(len(part), -1) if shown.steps is None else shown.steps[0][shown.is_real[0]]
                self.counts.images += 1
            parts.append(part)
            sizes.append(len(part))
            steps.append(step)
        return torch.cat(parts)[None], sizes, torch.cat(steps) if axes else None

    def _read(self, embeddings: Tensor, steps: Tensor | None, state: KeyValues) -> None:
        """Compute the keys and values of new positions of one row."""
        before, count, device = state.length, embeddings.shape[1], embeddings.device
        places = torch.arange(before, before + count, device=device)
        allowed = torch.arange(before + count, device=device)[None, :] <= places[:, None]
        axes = None
        if steps is not None:
            axes = state.axes_of_words(places[None, :1], self.language.axes) + axes_along(steps)
        with self.language.writing():
            self.language.states(embeddings, allowed[None], places[None], state, axes)
        self.counts.prompt_positions += count

    def _read_whole(self, ids: Sequence[int], images: Sequence[Seen], state: KeyValues) -> int:
        """Read a prompt whose tokens see each other, and leave out the last, which the first step reads again.

        Returns:
            The number of its positions but the last.
        """
        embeddings, _, _ = self._embeddings(ids, images)
        count = embeddings.shape[1]
        self._check_room(count)
        allowed = torch.ones(1, count, count, dtype=torch.bool, device=embeddings.device)
        with self.language.writing():
            self.language.states(embeddings, allowed, torch.arange(count, device=embeddings.device)[None], state)
        state.drop_last()
        self.counts.prompt_positions += count
        return count - 1

    def _join(self, row: _Row, state: KeyValues) -> None:
        if not self._state.rows:
            self._state.cache = state
        else:
            self._state.cache.append_rows(state)
        self._state.rows.append(row)

    def _next_logits(self) -> Tensor:
        """Logits, float32 [m, v], after the last token of each row, which becomes a part of what was read."""
        rows, cache, device = self._state.rows, self._state.cache, self._device
        places = torch.tensor([row.length for row in rows], device=device)
        total = cache.length + 1
        allowed = torch.arange(total, device=device)[None, :] >= (total - 1 - places)[:, None]
        ids = torch.tensor([[row.last] for row in rows], device=device)
        for row in rows:
            row.symbols.append(row.last)
            row.ends.append(row.length + 1)
        with self.language.writing():
            states = self.language.states(self.language.embed(ids), allowed[:, None], places[:, None], cache)
            return self.language.words(states[:, -1])

    def _chosen(self, logits: Tensor, rows: Sequence[_Row]) -> Tensor:
        """One token a row: the likeliest, or one drawn by the row's own seed and the place in its reply."""
        possible = logits.index_fill(1, self._suppressed.to(logits.device), -torch.inf)
        chosen = possible.argmax(-1)
        for place, row in enumerate(rows):
            sampling = row.sampling
            if sampling.temperature:
                draw = float(counter_rng("reply", sampling.seed, row.written).random())
                chosen[place] = _drawn(possible[place] / sampling.temperature, sampling.top_p, draw)
        return chosen

    def _leave(self, places: Sequence[int]) -> None:
        """Take rows out, and store what was read of them."""
        if not places:
            return
        state = self._state
        for place in places:
            row, end = state.rows[place], state.cache.length
            read = part_of(state.cache, place, end - row.length, end)
            self.store.put(Prefix(tuple(row.symbols), tuple(row.ends), read))
        stay = [place for place in range(len(state.rows)) if place not in places]
        state.rows = [state.rows[place] for place in stay]
        if not stay:
            state.cache = KeyValues()
            return
        state.cache.select(torch.tensor(stay, device=self._device))
        state.cache.keep_last(max(row.length for row in state.rows))

    def _check_room(self, length: int) -> None:
        if self.longest is not None and length >= self.longest:
            raise TooLongError(
                f"a conversation of {length} tokens, those of its images included",
                f"fewer than {self.longest}, which this language model has places for",
                "start a new conversation, or show fewer images",
            )

    @property
    def _device(self) -> torch.device:
        return next(self.language.parameters()).device


def _drawn(logits: Tensor, top_p: float, draw: float) -> int:
    """The token at a number in [0, 1) of the cumulated probability of the nucleus, likeliest first."""
    ordered, ids = logits.double().softmax(-1).sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    nucleus = ordered[before < top_p]
    place = int(torch.searchsorted(nucleus.cumsum(-1), draw * float(nucleus.sum()), right=True))
    return int(ids[min(place, len(nucleus) - 1)])
