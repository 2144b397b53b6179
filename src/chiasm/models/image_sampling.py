"""Sampling of image tokens from a prior: temperature, top-k, nucleus, guidance, and tokens that are given.

Every draw is a function of its own uniform number, so that an image depends on its seed and caption alone, not on what
is drawn beside it, and is the same with the key-value cache and without.

Axis legend: n images, u different captions, p tokens of an image, k codes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import TextTokens
from chiasm.models.decoder import TextTower
from chiasm.models.prior import ImagePrior

FREE = -1
"""Stands among given ids for a token that is to be drawn."""
Watch = Callable[[int, Tensor], None]
"""Called after each token with the number of tokens that are decided and all ids, int64 [n, p], `FREE` if undecided."""


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


def guided(with_caption: Float[Tensor, "n k"], without: Float[Tensor, "n k"], guidance: float) -> Float[Tensor, "n k"]:
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
    """The sequences that are drawn, with or without a cache: the state after the newest token of each.

    Args:
        prior: the prior, in evaluation mode.
        tower: its text tower.
        text: u captions.
        rows: int64 [r], the caption of each sequence.
        is_cached: keep keys and values; else every step computes whole sequences, for comparison.
    """

    def __init__(self, prior: ImagePrior, tower: TextTower, text: TextTokens, rows: Tensor, is_cached: bool) -> None:
        self.prior, self.ids = prior, rows.new_empty(len(rows), 0)
        self.caches = prior.empty_caches() if is_cached else None
        states = prior.text_states(tower, text)
        if self.caches is None:
            self.text = states[rows]
        last = prior.run(states, self.caches)[:, -1]
        for cache in self.caches or ():
            cache.select(rows)
        self.last = last[rows]

    def extend(self, ids: Int[Tensor, "r q"]) -> None:
        """Append tokens to every sequence."""
        start, self.ids = self.ids.shape[1], torch.cat([self.ids, ids], dim=1)
        if self.caches is None:
            states = torch.cat([self.text, self.prior.image_states(self.ids)], dim=1)
            self.last = self.prior.run(states)[:, -1]
        else:
            self.last = self.prior.run(self.prior.image_states(ids, start), self.caches)[:, -1]

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with some of the sequences."""
        self.ids, self.last = self.ids[rows], self.last[rows]
        if self.caches is None:
            self.text = self.text[rows]
        for cache in self.caches or ():
            cache.select(rows)


class Sampler:
    """Draws the free tokens of images, one place of every image a step, row by row from the top left.

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
        is_free = plan.given == FREE
        self.place = int(is_free.any(dim=0).int().argmax()) if bool(is_free.any()) else self.length
        if self.is_done:
            return
        self._sequences = _Sequences(prior, tower, plan.text, rows, is_cached)
        if self.place:
            self._sequences.extend(self._both(self.ids[:, : self.place]))

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
        """Decide the next token of every image."""
        place, count = self.place, len(self.ids)
        logits = self.prior.code_logits(self._sequences.last)
        plain = logits[:count]
        mixed = guided(plain, logits[count:], self.config.guidance) if self.is_guided else plain
        drawn = choose(mixed, self.plan.uniform[:, place], self.config)
        free = self.plan.given[:, place] == FREE
        self.ids[:, place] = torch.where(free, drawn, self.ids[:, place])
        own = plain.double().log_softmax(dim=1).gather(1, self.ids[:, place, None])[:, 0]
        self._total += own * free
        self.place += 1
        if not self.is_done:
            self._sequences.extend(self._both(self.ids[:, place, None]))

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with some of the images alone; their tokens do not change by it."""
        count = len(self.ids)
        self.ids, self._total = self.ids[rows], self._total[rows]
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
    """Draw the free tokens of every image; see `Sampler`. `watch` is called after each token."""
    sampler = Sampler(prior, tower, plan, config, is_cached)
    while not sampler.is_done:
        sampler.step()
        if watch is not None:
            watch(sampler.place, sampler.ids)
    return sampler.sampled()
