"""Sampling of image tokens: cached = uncached, alone = in a batch, truncation against a slow computation, given ids."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import TextTokens
from chiasm.models import image_sampling
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.image_sampling import FREE, Plan, Sampler, SamplingConfig, choose, guided, sample, truncated
from chiasm.models.prior import ImagePrior

GRID, CODES, TEXT, WORDS = (4, 5), 50, 12, 30
LENGTH = GRID[0] * GRID[1]
SETTINGS = [
    SamplingConfig(),
    SamplingConfig(guidance=3.0),
    SamplingConfig(guidance=2.0, temperature=0.7, top_k=10, top_p=0.9),
    SamplingConfig(temperature=0.0, guidance=1.5),
]


@pytest.fixture(scope="module")
def tower() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(WORDS, TEXT, 32, 0, 2).eval()


@pytest.fixture(scope="module")
def prior(tower: TextEncoder) -> ImagePrior:
    torch.manual_seed(1)
    made = ImagePrior(tower, (CODES,), GRID, layers=2, heads=2).eval()
    with torch.no_grad():
        made.to_codes.weight.mul_(4)  # distributions that are neither flat nor certain
    make_batch_invariant(made)
    return made


def plan(images: int, captions: int = 3, length: int = LENGTH) -> Plan:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, WORDS, (captions + 1, TEXT), generator=generator)
    lengths = torch.cat([torch.arange(captions) + 4, torch.tensor([1])])
    uniform = torch.rand(images, length, generator=generator, dtype=torch.float64)
    return Plan(
        TextTokens(ids, torch.arange(TEXT) < lengths[:, None]),
        torch.arange(images) % captions,
        uniform,
        torch.full((images, length), FREE),
    )


@pytest.mark.parametrize("config", SETTINGS, ids=["plain", "guided", "truncated", "greedy"])
def test_the_cache_changes_no_token(prior: ImagePrior, tower: TextEncoder, config: SamplingConfig) -> None:
    """Guards against a cache whose rows, positions or guidance half are another's."""
    asked = plan(5)
    cached = sample(prior, tower, asked, config)
    uncached = sample(prior, tower, asked, config, is_cached=False)
    assert torch.equal(cached.ids, uncached.ids)
    torch.testing.assert_close(cached.log_probability, uncached.log_probability)
    assert len(cached.ids.unique()) > 5


@pytest.mark.parametrize("config", SETTINGS, ids=["plain", "guided", "truncated", "greedy"])
@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("sharpness", [1.0, 8.0])
def test_guesses_change_nothing(
    prior: ImagePrior, tower: TextEncoder, config: SamplingConfig, images: int, sharpness: float, monkeypatch
) -> None:
    """Guards against a token that saw a wrong guess, and one that is not the bits of a pass of its own."""
    prior = copy.deepcopy(prior)
    with torch.no_grad():
        prior.to_codes.weight.mul_(sharpness)
    with_guesses = sample(prior, tower, plan(images), config)
    monkeypatch.setattr(image_sampling, "ROWS", 1)
    seen: list[int] = []
    alone = sample(prior, tower, plan(images), config, lambda place, ids: seen.append(place))
    assert seen == list(range(1, LENGTH + 1)), "a token a pass"
    assert torch.equal(with_guesses.ids, alone.ids)
    assert torch.equal(with_guesses.log_probability, alone.log_probability)


def test_right_guesses_count(prior: ImagePrior, tower: TextEncoder) -> None:
    """Guards against guesses that are thrown away: an image of one colour takes a pass for each sixteen tokens."""
    prior = copy.deepcopy(prior)
    with torch.no_grad():
        prior.to_codes.weight.zero_()
        prior.to_codes.bias.copy_(torch.arange(CODES) * 100.0)
    seen: list[int] = []
    found = sample(prior, tower, plan(1), SamplingConfig(), lambda place, ids: seen.append(place))
    assert found.ids.unique().tolist() == [CODES - 1]
    assert seen == [1, *range(1 + image_sampling.ROWS, LENGTH, image_sampling.ROWS), LENGTH]


@pytest.mark.parametrize("config", SETTINGS[:3], ids=["plain", "guided", "truncated"])
def test_an_image_alone_is_that_of_a_batch(prior: ImagePrior, tower: TextEncoder, config: SamplingConfig) -> None:
    """Guards against a seed whose image depends on what else is drawn."""
    whole, asked = sample(prior, tower, plan(7), config), plan(7)
    for number in (0, 2, 6):
        caption = int(asked.caption[number])
        text = TextTokens(*(part[[caption, -1]] for part in asked.text))
        alone = Plan(text, torch.tensor([0]), asked.uniform[[number]], asked.given[[number]])
        found = sample(prior, tower, alone, config)
        assert torch.equal(found.ids[0], whole.ids[number])
        assert torch.equal(found.log_probability[0], whole.log_probability[number])


@pytest.mark.parametrize("config", SETTINGS, ids=["plain", "guided", "truncated", "greedy"])
@pytest.mark.parametrize("images", [1, 5])
def test_each_place_has_codes_of_its_own_part(
    tower: TextEncoder, config: SamplingConfig, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a pattern where colours stand, and against a mask that is off where a pass begins later."""
    torch.manual_seed(1)
    prior = ImagePrior(tower, (20, 9), (4, 6), layers=2, heads=2).eval()
    make_batch_invariant(prior)
    asked = plan(images, length=24)
    found = sample(prior, tower, asked, config)
    assert int(found.ids[:, ::2].max()) < 20 <= int(found.ids[:, 1::2].min()) and int(found.ids.max()) < 29
    assert torch.equal(found.ids, sample(prior, tower, asked, config, is_cached=False).ids)
    monkeypatch.setattr(image_sampling, "ROWS", 1)
    alone = sample(prior, tower, asked, config)
    assert torch.equal(found.ids, alone.ids) and torch.equal(found.log_probability, alone.log_probability)


def test_a_cell_of_two_codes_is_guessed_again(tower: TextEncoder) -> None:
    """Guards against a guess of the last code alone, which is of the other part."""
    prior = ImagePrior(tower, (20, 9), (4, 6), layers=2, heads=2).eval()
    make_batch_invariant(prior)
    with torch.no_grad():
        prior.to_codes.weight.zero_()
        prior.to_codes.bias.copy_(torch.arange(29) * 100.0)
    seen: list[int] = []
    found = sample(prior, tower, plan(1, length=24), SamplingConfig(), lambda place, ids: seen.append(place))
    assert found.ids.tolist() == [[19, 28] * 12]
    assert seen == [1, 2, 18, 24]


def slow_choice(logits: np.ndarray, uniform: float, config: SamplingConfig) -> int:
    """One draw, with sets and loops in float64."""
    scaled = logits.astype(np.float64) / config.temperature
    order = sorted(range(len(scaled)), key=lambda code: (-scaled[code], code))
    if config.top_k:
        order = order[: config.top_k]
    weights = {code: float(np.exp(scaled[code] - scaled[order[0]])) for code in order}
    total, reached, kept = sum(weights.values()), 0.0, list[int]()
    for code in order:
        if reached / total >= config.top_p:
            break
        kept.append(code)
        reached += weights[code]
    point = uniform * sum(weights[code] for code in kept)
    for code in sorted(kept):
        point -= weights[code]
        if point < 0:
            return code
    return max(kept)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.5),
        SamplingConfig(top_k=3),
        SamplingConfig(top_p=0.6),
        SamplingConfig(top_k=4, top_p=0.8, temperature=2.0),
        SamplingConfig(top_p=1e-9),
    ],
)
def test_draws_are_those_of_a_slow_loop(config: SamplingConfig) -> None:
    """Guards against truncation that keeps one token too many or too few, or forgets to renormalise."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(200, 9, generator=generator) * 2
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    expected = [slow_choice(row.numpy(), float(one), config) for row, one in zip(logits, uniform, strict=True)]
    assert choose(logits, uniform, config).tolist() == expected


def test_frequencies_are_the_probabilities() -> None:
    """Guards against a draw that is not of the distribution that it states."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    config = SamplingConfig(temperature=1.3, top_k=3)
    uniform = (torch.arange(30_000, dtype=torch.float64) + 0.5) / 30_000
    drawn = choose(logits.expand(30_000, -1), uniform, config)
    share = drawn.bincount(minlength=4).double() / 30_000
    torch.testing.assert_close(share, truncated(logits, config)[0], atol=1e-4, rtol=0)
    assert float(share[3]) == 0


def test_guidance_moves_away_from_no_caption() -> None:
    """Guards against a factor on the wrong side: 0 is without a caption, 1 with it."""
    given, without = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 4.0]])
    assert torch.equal(guided(given, without, 0.0), without) and torch.equal(guided(given, without, 1.0), given)
    assert torch.equal(guided(given, without, 3.0), torch.tensor([[2.0, -2.0]]))


@pytest.mark.parametrize("kept", ["top", "scattered", "all", "rows that differ"])
@pytest.mark.parametrize("is_cached", [True, False])
def test_given_tokens_stay_and_lead(prior: ImagePrior, tower: TextEncoder, kept: str, is_cached: bool) -> None:
    """Guards against given tokens that are overwritten, or that the tokens after them never see."""
    asked, config = plan(4), SamplingConfig(guidance=2.0)
    free = sample(prior, tower, asked, config)
    other = (free.ids + 1) % CODES
    is_given = torch.zeros(4, LENGTH, dtype=torch.bool)
    if kept == "scattered":
        is_given[:, [3, 11, 12]] = True
    else:
        is_given[:, : LENGTH if kept == "all" else 7] = True
    if kept == "rows that differ":
        is_given[0] = False
    given = torch.where(is_given, other, FREE)
    seen: list[int] = []
    watch = lambda place, ids: seen.append(place)  # noqa: E731
    found = sample(prior, tower, Plan(asked.text, asked.caption, asked.uniform, given), config, watch, is_cached)
    assert torch.equal(found.ids[is_given], other[is_given]) and int(found.ids.min()) >= 0
    first = 3 if kept == "scattered" else 0
    if kept == "scattered":
        assert torch.equal(found.ids[:, :first], free.ids[:, :first])
    if kept == "rows that differ":
        assert torch.equal(found.ids[0], free.ids[0]) and seen[0] == 1
    elif kept == "top":
        assert seen[0] > 7 and seen[-1] == LENGTH and seen == sorted(set(seen))
        assert is_cached or seen == list(range(8, LENGTH + 1)), "without a cache nothing is guessed"
        assert not torch.equal(found.ids[:, 7:], free.ids[:, 7:])
    elif kept == "all":
        assert not seen and torch.equal(found.log_probability, torch.zeros(4))


def test_the_probability_is_that_of_teacher_forcing(prior: ImagePrior, tower: TextEncoder) -> None:
    """Guards against a confidence after guidance, temperature or truncation, and one that counts given tokens."""
    asked = plan(4)
    given = asked.given.clone()
    given[:, 2:6] = 5
    config = SamplingConfig(guidance=2.5, temperature=0.8, top_k=20)
    found = sample(prior, tower, Plan(asked.text, asked.caption, asked.uniform, given), config)
    text = TextTokens(*(part[asked.caption] for part in asked.text))
    logits = prior(tower, text, found.ids)[2].detach().double().log_softmax(-1)
    own: Tensor = logits.gather(-1, found.ids[..., None])[..., 0]
    expected = (own * (given == FREE)).sum(1) / (given == FREE).sum(1)
    torch.testing.assert_close(found.log_probability.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("guidance", -1.0),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: float) -> None:
    """Guards against a nucleus of nothing, and NaN that passes every comparison."""
    with pytest.raises(InputError, match=f"sampling.{key}"):
        SamplingConfig(**{key: value}).check("sampling")  # type: ignore[arg-type]


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("config", SETTINGS[:2], ids=["plain", "guided"])
def test_who_stays_is_not_changed(
    prior: ImagePrior, tower: TextEncoder, config: SamplingConfig, is_cached: bool
) -> None:
    """Images that are dropped at the start, in the middle and before the last token leave the others to the bit."""
    whole = sample(prior, tower, plan(7), config)
    sampler = Sampler(prior, tower, plan(7), config, is_cached)
    rows = torch.arange(7)
    for place, kept in ((0, [0, 1, 2, 4, 6]), (9, [3, 1, 4]), (LENGTH - 1, [2, 0])):
        while sampler.place < place:
            sampler.step()
        sampler.keep(torch.tensor(kept))
        rows = rows[kept]
    while not sampler.is_done:
        sampler.step()
    assert rows.tolist() == [6, 4]
    sampler.keep(torch.tensor([1, 0]))
    found = sampler.sampled()
    assert torch.equal(found.ids, whole.ids[[4, 6]])
    torch.testing.assert_close(found.log_probability, whole.log_probability[[4, 6]])
