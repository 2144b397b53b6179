"""Autoregressive decoding: greedy, beam search, nucleus sampling, for any model that returns next-token logits.

Axis legend: n texts, b open beams, r = n * b rows passed to the model, t tokens so far, v vocabulary. The beams of a
text are consecutive rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.errors import InputError

Step = Callable[[Tensor, Tensor | None], Tensor]
"""`step(ids, rows)`: the newest tokens int64 [r, 1] -> logits [r, v] of the next token.

`rows` int64 [r] is the row of the previous call that each row continues; None where the rows are unchanged.
"""
NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingConfig:
    """How captions and generated answers are decoded."""

    method: Literal["greedy", "beam", "nucleus"] = "greedy"
    beams: int = 3
    """Number of beams (method "beam")."""
    top_p: float = 0.9
    """Total probability of the tokens that are sampled from (method "nucleus", Holtzman et al. 2020)."""
    temperature: float = 1.0
    """Divisor of the logits before sampling (method "nucleus")."""
    length_penalty: float = 1.0
    """A beam's log-probability is divided by its length to this power; larger values favour longer texts."""
    min_words: int = 0
    """Minimum number of tokens of a text."""
    max_words: int = 0
    """Maximum number of tokens of a text; 0 means the maximum length of the text tower."""
    no_repeat_ngram: int = 0
    """Length of n-grams that may not occur twice in a text; 0 allows repetition."""


class Generated(NamedTuple):
    """Generated texts.

    Attributes:
        ids: int64 [n, l] without the start token, padded with the end token.
        log_probability: float32 [n], the model's own log-probability of the text, the end token included, divided by
            its number of tokens. Banned tokens, temperature and top-p do not change it, so it compares methods.
        is_finished: bool [n], False where the maximum length truncated the text.
        by_token: float32 [n, l], log-probability of each token, 0 after the end; None from beam search.
    """

    ids: Tensor
    log_probability: Tensor
    is_finished: Tensor
    by_token: Tensor | None = None


def check_decoding(config: DecodingConfig, max_tokens: int) -> None:
    """Check a run's `decoding` for texts of at most `max_tokens`, start and end tokens included.

    Raises:
        InputError: a number is out of its range, or `min_words` or `max_words` do not fit.
    """
    for name, value, is_right, allowed in (
        ("beams", config.beams, config.beams >= 1, "1 or more"),
        ("top_p", config.top_p, 0 < config.top_p <= 1, "a number in (0, 1]"),
        ("temperature", config.temperature, config.temperature > 0, "a number above 0"),
        ("min_words", config.min_words, 0 <= config.min_words <= max_tokens - 2, f"0 to {max_tokens - 2}"),
        ("max_words", config.max_words, config.max_words >= 0, "0 (no bound) or more"),
        ("no_repeat_ngram", config.no_repeat_ngram, config.no_repeat_ngram >= 0, "0 (allow repetition) or more"),
    ):
        if not is_right:
            raise InputError(f"decoding.{name} is {value}", allowed, f"--set decoding.{name}=...")
    if 0 < config.max_words < config.min_words:
        raise InputError(
            f"decoding.min_words {config.min_words} is above decoding.max_words {config.max_words}",
            "a minimum length that is not above the maximum",
            "change one of them",
        )


@torch.no_grad()
def decode(
    step: Step,
    start_ids: Int[Tensor, " n"],
    end_id: int,
    config: DecodingConfig,
    max_tokens: int,
    banned: Sequence[int] = (),
) -> Generated:
    """Generate one text for each start token.

    A text has at least `config.min_words` tokens before its end token. It is ended after `config.max_words`, and is
    truncated without an end token at `max_tokens`. If all tokens are banned, it ends.

    "greedy" takes the most probable token. "nucleus" samples from the smallest set of most probable tokens whose total
    probability is at least `top_p` (Holtzman et al. 2020, section 3.1), with torch's global generator.
    "beam" maximises log-probability / length ** length_penalty (the end counts as a token; Wu et al. 2016, section 7,
    with a plain power). An ended text is a candidate if it is among the `beams` best of its step. The search for a text
    stops when `beams` candidates have ended, or when no open beam can become better. One beam is greedy.

    Args:
        step: the model, see `Step`; the first call has n rows.
        start_ids: first token of each text.
        end_id: the end token.
        config: the method and its settings.
        max_tokens: maximum length of a text, start and end tokens included.
        banned: tokens that are never generated: padding, unknown, start tokens.

    Raises:
        InputError: see `check_decoding`.
    """
    check_decoding(config, max_tokens)
    assert end_id not in banned, "the end token must not be banned"
    if not len(start_ids):
        nothing = torch.zeros(0, device=start_ids.device)
        return Generated(start_ids.new_zeros(0, 0), nothing, nothing.bool())
    longest = max_tokens - 1
    if config.max_words:
        longest = min(longest, config.max_words + 1)
    rules = _Rules(config, end_id, tuple(banned))
    search = _beam_search if config.method == "beam" else _one_by_one
    return search(step, start_ids, rules, longest)


@dataclass(frozen=True, slots=True)
class _Rules:
    """The tokens that may follow."""

    config: DecodingConfig
    end_id: int
    banned: tuple[int, ...]

    def may_follow(self, words: Int[Tensor, "r t"], vocabulary: int) -> Bool[Tensor, "r v"]:
        """True for the tokens that may follow `words`; at least one per row is True."""
        length = words.shape[1]
        may = torch.ones(len(words), vocabulary, dtype=torch.bool, device=words.device)
        may[:, list(self.banned)] = False
        if 0 < self.config.no_repeat_ngram <= length:
            rows, repeated = self._would_repeat(words)
            may[rows, repeated] = False
        if 0 < self.config.max_words <= length:
            may[:] = False
        may[:, self.end_id] = length >= self.config.min_words
        may[:, self.end_id] |= ~may.any(dim=-1)
        return may

    def _would_repeat(self, words: Int[Tensor, "r t"]) -> tuple[Tensor, Tensor]:
        """Row and token of each token that would complete an n-gram which the row already contains."""
        size = self.config.no_repeat_ngram
        runs = words.unfold(1, size, 1)
        newest = words[:, words.shape[1] - size + 1 :]
        is_begun = (runs[:, :, :-1] == newest[:, None]).all(dim=-1)
        rows, at = is_begun.nonzero(as_tuple=True)
        return rows, runs[rows, at, -1]


def _one_by_one(step: Step, start_ids: Int[Tensor, " n"], rules: _Rules, longest: int) -> Generated:
    """Greedy and nucleus decoding: each text is one row."""
    config, last = rules.config, start_ids
    words = start_ids[:, None][:, :0]
    total = torch.zeros(len(start_ids), device=start_ids.device)
    count = torch.zeros_like(total)
    is_finished = torch.zeros_like(start_ids, dtype=torch.bool)
    by_token = [total[:, None][:, :0]]
    while words.shape[1] < longest and not bool(is_finished.all()):
        logits = step(last[:, None], None).float()
        possible = logits.masked_fill(~rules.may_follow(words, logits.shape[1]), NEVER)
        chosen = possible.argmax(dim=-1) if config.method == "greedy" else _draw(possible, config)
        gained = logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]
        by_token.append(gained.masked_fill(is_finished, 0)[:, None])
        total += by_token[-1][:, 0]
        count += (~is_finished).float()
        last = chosen.masked_fill(is_finished, rules.end_id)
        words = torch.cat([words, last[:, None]], dim=1)
        is_finished = is_finished | (last == rules.end_id)
    return Generated(words, total / count, is_finished, torch.cat(by_token, dim=1))


def _draw(logits: Float[Tensor, "n v"], config: DecodingConfig) -> Int[Tensor, " n"]:
    """Sample one token per row from its nucleus: tokens before which the sorted probabilities sum to below `top_p`."""
    ordered, ids = (logits / config.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    is_beyond = ordered.cumsum(dim=-1) - ordered >= config.top_p
    drawn = ordered.masked_fill(is_beyond, 0).multinomial(1)
    return ids.gather(1, drawn)[:, 0]


class _Best:
    """The best ended text of each search so far, and which searches are open."""

    def __init__(self, start_ids: Int[Tensor, " n"], rules: _Rules, longest: int) -> None:
        rows, device = len(start_ids), start_ids.device
        self.rules, self.longest = rules, longest
        self.ids = start_ids.new_full((rows, longest), rules.end_id)
        self.score = torch.full((rows,), NEVER, device=device)
        self.mean = torch.full((rows,), NEVER, device=device)
        self.length = start_ids.new_zeros(rows)
        self.ended = start_ids.new_zeros(rows)
        self.is_finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self.is_open = torch.ones(rows, dtype=torch.bool, device=device)

    def score_of(self, total: Tensor, length: int) -> Tensor:
        return total / length**self.rules.config.length_penalty

    def offer(self, words: Int[Tensor, "n c t"], total: Float[Tensor, "n c"], is_offered: Bool[Tensor, "n c"]) -> None:
        """Record the ended candidates (`is_offered`) of one step, best first, in searches that are open."""
        length = words.shape[2]
        found, at = total.masked_fill(~is_offered, NEVER).max(dim=1)
        score = self.score_of(found, length)
        is_better = self.is_open & (score > self.score)
        sentence = words[torch.arange(len(words), device=words.device), at]
        self.ids[:, :length] = torch.where(is_better[:, None], sentence, self.ids[:, :length])
        self.score = torch.where(is_better, score, self.score)
        self.mean = torch.where(is_better, found / length, self.mean)
        self.length = self.length.masked_fill(is_better, length)
        self.is_finished = torch.where(is_better, sentence[:, -1] == self.rules.end_id, self.is_finished)
        self.ended += (is_offered & total.isfinite()).sum(dim=1)

    def close(self, total: Float[Tensor, "n b"], length: int) -> None:
        """Close the searches that have enough ended texts, or whose open beams of `length` tokens cannot become better.

        A log-probability only decreases. The upper bound of a beam's score is therefore its present log-probability
        over the most favourable length: the maximum if the penalty is positive, and otherwise the next.
        """
        config = self.rules.config
        reachable = self.score_of(total.amax(dim=1), self.longest if config.length_penalty > 0 else length + 1)
        self.is_open = self.is_open & (self.ended < config.beams) & (reachable > self.score)


def _beam_search(step: Step, start_ids: Int[Tensor, " n"], rules: _Rules, longest: int) -> Generated:
    """The first step has one beam per text, later ones as many as there are different texts, up to `beams`."""
    rows, width = len(start_ids), rules.config.beams
    sentence = torch.arange(rows, device=start_ids.device)[:, None]
    words = start_ids[:, None, None][:, :, :0]
    total = torch.zeros(rows, 1, device=start_ids.device)
    last, came_from = start_ids[:, None], None
    best = _Best(start_ids, rules, longest)
    for length in range(1, longest + 1):
        logits = step(last.reshape(-1, 1), came_from).float()
        beams, vocabulary = total.shape[1], logits.shape[1]
        may = rules.may_follow(words.flatten(0, 1), vocabulary)
        gained = logits.log_softmax(dim=-1).masked_fill(~may, NEVER).view(rows, beams, vocabulary)
        # Twice as many as needed: at most half of them, one per beam, can be end tokens.
        candidates = (total[:, :, None] + gained).flatten(1)
        top, at = candidates.topk(min(2 * width, candidates.shape[1]))
        parent, word = at // vocabulary, at % vocabulary
        extended = torch.cat([words[sentence, parent], word[:, :, None]], dim=2)
        is_end = word == rules.end_id
        is_among_best = torch.arange(top.shape[1], device=top.device) < width
        best.offer(extended, top, is_among_best & (is_end if length < longest else torch.ones_like(is_end)))
        total, kept = top.masked_fill(is_end, NEVER).topk(min(width, top.shape[1] - beams))
        best.close(total, length)
        if not bool(best.is_open.any()):
            break
        words, last = extended[sentence, kept], word.gather(1, kept)
        came_from = (sentence * beams + parent.gather(1, kept)).flatten()
    return Generated(best.ids[:, : int(best.length.max())], best.mean, best.is_finished)
