"""Sampling of image tokens from a prior: temperature, top-k, nucleus, guidance, and tokens that are given.

Every draw is a function of its own uniform number, so that an image depends on its seed and caption alone, not on what
is drawn beside it, and is the same with the key-value cache and without.

A product of one row costs nearly what one of `ROWS` rows does, and batch invariance computes as many. So one or few
images fill these rows with guesses of their next tokens: a pass gives the draws after each guess, those after right
guesses count, and the others are the next guesses (Jacobi decoding, Santilli et al. 2023, "Accelerating Transformer
Inference for Translation via Parallel Decoding", with draws in place of maxima). The tokens are those of one at a time.

Axis legend: n images, r sequences, u different captions, p tokens of an image, w places of a pass, k codes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import TextTokens
from chiasm.models.batch_invariant import ROWS
from chiasm.models.decoder import TextTower
from chiasm.models.prior import ImagePrior

FREE = -1
"""Stands among given ids for a token that is to be drawn."""
Watch = Callable[[int, Tensor], None]
"""Called after each pass with the number of tokens that are decided and all ids, int64 [n, p], `FREE` if undecided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How image tokens are drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token each time."""
    top_k: int = 0
    """Draw among the likeliest tokens, so many; 0 among all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens whose probabilities reach this sum (nucleus, Holtzman et al. 2020)."""
    guidance: float = 1.0
    """Factor on what the caption changes: logits = without + guidance * (with - without) (Ho and Salimans 2022, for
    tokens). 1 draws from the model as it is; more follows the caption more closely, with less variety."""

    def check(self, where: str) -> None:
        """Check ranges; `where` names the section, such as "tasks.drawing.sampling".

        Raises:
            InputError: names the key and its range.
        """
        ranges = {
            "temperature": (0 <= self.temperature <= 100, "a number in [0, 100]; 0 takes the likeliest token"),
            "top_k": (self.top_k >= 0, "0 or more; 0 draws among all tokens"),
            "top_p": (0 < self.top_p <= 1, "a number in (0, 1]"),
            "guidance": (0 <= self.guidance <= 100, "a number in [0, 100]; 1 is no guidance"),
        }
        for key, (is_right, allowed) in ranges.items():
            if not is_right:
                raise InputError(f"{where}.{key} is {getattr(self, key)}", allowed, "choose another")


class Sampled(NamedTuple):
    """Drawn images.

    Attributes:
        ids: int64 [n, p].
        log_probability: float32 [n], mean over an image's drawn tokens of the natural logarithm of the probability that
            the prior gives each after its caption, without temperature, truncation and guidance; 0 if all were given.
    """

    ids: Tensor
    log_probability: Tensor


def guided(
    with_caption: Float[Tensor, "*n k"], without: Float[Tensor, "*n k"], guidance: float
) -> Float[Tensor, "*n k"]:
    """Classifier-free guidance on logits."""
    return without + guidance * (with_caption - without)


def truncated(logits: Float[Tensor, "n k"], config: SamplingConfig) -> Float[Tensor, "n k"]:
    """Probabilities after temperature (above 0), top-k, then nucleus: float64, each row sums to 1."""
    scaled = logits.double() / config.temperature
    if 0 < config.top_k < scaled.shape[1]:
        least = scaled.topk(config.top_k, dim=1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    probability = scaled.softmax(dim=1)
    if config.top_p < 1:
        ordered, place = probability.sort(dim=1, descending=True, stable=True)
        is_beyond = ordered.cumsum(dim=1) - ordered >= config.top_p
        probability = torch.zeros_like(ordered).scatter(1, place, ordered.masked_fill(is_beyond, 0))
        probability = probability / probability.sum(dim=1, keepdim=True)
    return probability


def choose(logits: Float[Tensor, "n k"], uniform: Float[Tensor, " n"], config: SamplingConfig) -> Int[Tensor, " n"]:
    """The token of each row at which the cumulative probability passes its uniform number in [0, 1)."""
    if config.temperature == 0:
        return logits.argmax(dim=1)
    total = truncated(logits, config).cumsum(dim=1)
    # Scaled by the last sum, which rounding leaves a little off 1: no code of probability 0 is ever past the end.
    return torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)[:, 0].clamp_max(logits.shape[1] - 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be drawn.

    Attributes:
        text: u different captions; the last is the empty one, which guidance compares with.
        caption: int64 [n], the caption of each image.
        uniform: float64 [n, p] in [0, 1).
        given: int64 [n, p], ids that are kept, `FREE` where a token is drawn.
    """

    text: TextTokens
    caption: Tensor
    uniform: Tensor
    given: Tensor


class _Sequences:
    """The sequences that are drawn, with or without a cache: the states after the newest tokens of each.

    Args:
        prior: the prior, in evaluation mode.
        tower: its text tower.
        text: u captions.
        rows: int64 [r], the caption of each sequence.
        is_cached: keep keys and values; else every step computes whole sequences, for comparison.

    Attributes:
        states: float [r, w, d], after the tokens of the last `extend`.
    """

    def __init__(self, prior: ImagePrior, tower: TextTower, text: TextTokens, rows: Tensor, is_cached: bool) -> None:
        self.prior, self.ids = prior, rows.new_empty(len(rows), 0)
        self.caches = prior.empty_caches() if is_cached else None
        states = prior.text_states(tower, text)
        if self.caches is None:
            self.text = states[rows]
        last = prior.run(states, self.caches)[:, -1:]
        for cache in self.caches or ():
            cache.select(rows)
        self.states = last[rows]

    def extend(self, ids: Int[Tensor, "r w"], start: int, by_query: bool = True) -> None:
        """Put image tokens at place `start` and after; what stood there is dropped.

        `by_query`: several tokens give the states, to the last bit, that they give one at a time.
        """
        self.ids, text_length = torch.cat([self.ids[:, :start], ids], dim=1), self.prior.text_length
        if self.caches is None:
            states = torch.cat([self.text, self.prior.image_states(self.ids)], dim=1)
            self.states = self.prior.run(states)[:, text_length + start :]
            return
        for cache in self.caches:
            cache.cut(text_length + start)
            cache.by_query = by_query
        self.states = self.prior.run(self.prior.image_states(ids, start), self.caches)

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with some of the sequences."""
        self.ids, self.states = self.ids[rows], self.states[rows]
        if self.caches is None:
            self.text = self.text[rows]
        for cache in self.caches or ():
            cache.select(rows)


class Sampler:
    """Draws the free tokens of images, the same places of every image a step, row by row from the top left.

    A drawn token sees its caption and the tokens above it and left of it. Given tokens further on are kept as they are,
    but nothing before them was drawn with a view to them.

    Args:
        prior: in evaluation mode.
        tower: its text tower.
        plan: captions, noise and given tokens.
        config: how tokens are drawn.
        is_cached: False computes the whole sequence for each token, which gives the same ids slowly.

    Attributes:
        ids: int64 [n, p], `FREE` where a token is not drawn yet.
        guesses: int64 [n, g], of the tokens at `place` and after, which the last pass has read.
        place: number of places that are decided; the first of them at once, where all images are given them.
    """

    @torch.no_grad()
    def __init__(
        self, prior: ImagePrior, tower: TextTower, plan: Plan, config: SamplingConfig, is_cached: bool = True
    ) -> None:
        self.prior, self.config, self.plan = prior, config, plan
        self.is_guided = config.guidance != 1
        without = torch.full_like(plan.caption, len(plan.text.ids) - 1)
        rows = torch.cat([plan.caption, without]) if self.is_guided else plan.caption
        self.ids, self._total = plan.given.clone(), plan.uniform.new_zeros(len(plan.given))
        self.guesses, self._may_guess = plan.given[:, :0], is_cached
        is_free = plan.given == FREE
        self.place = int(is_free.any(dim=0).int().argmax()) if bool(is_free.any()) else self.length
        if self.is_done:
            return
        self._sequences = _Sequences(prior, tower, plan.text, rows, is_cached)
        if self.place:
            self._sequences.extend(self._both(self.ids[:, : self.place]), 0, by_query=False)
            self._sequences.states = self._sequences.states[:, -1:]

    @property
    def length(self) -> int:
        """Tokens of an image."""
        return self.plan.given.shape[1]

    @property
    def is_done(self) -> bool:
        """Whether every token is decided."""
        return self.place == self.length

    @torch.no_grad()
    def step(self) -> None:
        """Decide the next token of every image, and as many more as are guessed right in all of them."""
        states, count, place = self._sequences.states, len(self.ids), self.place
        logits = self.prior.code_logits(states, place)
        plain = logits[:count]
        mixed = guided(plain, logits[count:], self.config.guidance) if self.is_guided else plain
        given = self.plan.given[:, place : place + states.shape[1]]
        uniform = self.plan.uniform[:, place : place + states.shape[1]]
        drawn = choose(mixed.flatten(0, 1), uniform.flatten(), self.config).view_as(given)
        found = torch.where(given == FREE, drawn, given)
        is_right = (found[:, :-1] == self.guesses).all(dim=0)
        decided = 1 + int(is_right.int().cumprod(dim=0).sum())
        self.ids[:, place : place + decided] = found[:, :decided]
        own = plain.double().log_softmax(dim=2).gather(2, found[..., None])[..., 0] * (given == FREE)
        for number in range(decided):  # added in this order, however many a pass decides
            self._total += own[:, number]
        self.place += decided
        if not self.is_done:
            self._guess(found[:, decided:])
            newest = torch.cat([self.ids[:, self.place - 1 : self.place], self.guesses], dim=1)
            self._sequences.extend(self._both(newest), self.place - 1)

    def _guess(self, drawn: Int[Tensor, "n g"]) -> None:
        """Guess the tokens at `place` and after: what was drawn after a wrong guess, then the same cell again."""
        sequences = len(self.ids) * (2 if self.is_guided else 1)
        most = ROWS // sequences - 1 if self._may_guess else 0
        count = max(0, min(most, self.length - self.place - 1))
        parts = self.prior.parts
        last = torch.cat([self.ids[:, max(0, self.place - parts) : self.place], drawn], dim=1)[:, -parts:]
        guesses = torch.cat([drawn, last.repeat(1, count)], dim=1)[:, :count]
        given = self.plan.given[:, self.place : self.place + count]
        self.guesses = torch.where(given == FREE, guesses, given)

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with some of the images alone; their tokens do not change by it."""
        count = len(self.ids)
        self.ids, self._total, self.guesses = self.ids[rows], self._total[rows], self.guesses[rows]
        plan = self.plan
        self.plan = Plan(plan.text, plan.caption[rows], plan.uniform[rows], plan.given[rows])
        if not self.is_done:
            self._sequences.keep(torch.cat([rows, rows + count]) if self.is_guided else rows)

    def sampled(self) -> Sampled:
        """The drawn images, when all is done."""
        assert self.is_done, "tokens are left to draw"
        free = (self.plan.given == FREE).sum(dim=1)
        return Sampled(self.ids, (self._total / free.clamp_min(1)).float())

    def _both(self, ids: Int[Tensor, "n q"]) -> Int[Tensor, "r q"]:
        """Tokens for the sequences with captions, and for those without where there are any."""
        return ids.repeat(2, 1) if self.is_guided else ids


def sample(
    prior: ImagePrior,
    tower: TextTower,
    plan: Plan,
    config: SamplingConfig,
    watch: Watch | None = None,
    is_cached: bool = True,
) -> Sampled:
    """Draw the free tokens of every image; see `Sampler`. `watch` is called after each pass."""
    sampler = Sampler(prior, tower, plan, config, is_cached)
    while not sampler.is_done:
        sampler.step()
        if watch is not None:
            watch(sampler.place, sampler.ids)
    return sampler.sampled()
