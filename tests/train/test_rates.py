"""The learning rate that sizes ask for, and warnings of rates and warm-ups that do not fit."""

import math

import pytest

from chiasm.train.config import TrainConfig
from chiasm.train.rates import peak_rate, rate_note, warmup_note


def test_new_weights_follow_kaplan() -> None:
    """Guards against a decimal logarithm and a lost sign: values worked out by hand from equation D.1."""
    for parameters, expected in ((1_000_000, 0.0013), (100_000_000, 0.00067), (1_000_000_000, 0.00035)):
        assert peak_rate(parameters, 0, 512, 1000)[0] == pytest.approx(expected, rel=0.02)


def test_pretrained_weights_get_the_published_rates() -> None:
    """Guards against a rule that is far from what CLIP (batches of 512) and BERT (of 32) are fine-tuned with."""
    assert peak_rate(150_000_000, 150_000_000, 512, 10_000)[0] == pytest.approx(3e-5)
    assert 1e-5 <= peak_rate(110_000_000, 110_000_000, 32, 10_000)[0] <= 5e-5


def test_rates_fall_with_size_and_rise_with_the_batch() -> None:
    """Guards against a factor that is turned over."""
    sizes = [peak_rate(10**power, 10**power, 512, 1000)[0] for power in range(4, 9)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 3 * sizes[-1]
    batches = [peak_rate(10**7, 10**7, 2**power, 1000)[0] for power in range(3, 14)]
    assert batches == sorted(batches) and batches[-1] / batches[0] == pytest.approx(4, rel=0.02)
    lengths = [peak_rate(10**7, 10**7, 512, steps)[0] for steps in (100, 10_000, 40_000)]
    assert lengths[0] == lengths[1] == pytest.approx(2 * lengths[2], rel=0.05)
    for power in range(3, 10):
        assert peak_rate(10**power, 10**power, 4096, 10)[0] <= peak_rate(10**power, 0, 4096, 10)[0]
    assert peak_rate(10**12, 10**12, 8, 10**9)[0] > 0


def test_the_reason_names_what_decided() -> None:
    """Guards against a number that nobody can check."""
    rate, why = peak_rate(853_504, 800_000, 512, 280)
    for part in (f"{rate:g}", "853,504", "800,000", "512", "280", "Wortsman"):
        assert part in why
    assert "Kaplan" in peak_rate(853_504, 0, 512, 280)[1]


def test_a_rate_that_ruins_is_warned_of() -> None:
    """Guards against silence at pre-training's rate for pre-trained weights, and noise where weights are new."""
    sizes = (100_000_000, 100_000_000, 128, 780)
    said = rate_note(TrainConfig(lr=5e-4), *sizes)
    fitting = peak_rate(*sizes)[0]
    assert "train.lr is 0.0005" in said and f"{fitting:g}" in said and f"{5e-4 / fitting:.0f} times" in said
    assert rate_note(TrainConfig(lr=2 * fitting), *sizes) == ""
    assert rate_note(TrainConfig(lr=0.0), *sizes) == ""
    assert rate_note(TrainConfig(lr=0.1), 100_000_000, 0, 128, 780) == ""


@pytest.mark.parametrize(
    ("asked", "steps", "part"),
    [(10_000, 780, "cut to 390"), (300, 780, "more than a third"), (260, 780, ""), (-1, 3, ""), (0, 3, "")],
)
def test_a_warmup_that_never_ends_is_warned_of(asked: int, steps: int, part: str) -> None:
    """Guards against a warm-up of pre-training's length in a run of some hundred steps."""
    said = warmup_note(TrainConfig(warmup_steps=asked), steps)
    assert part in said and bool(said) == bool(part)
    assert ("cut" in said) == (asked > math.floor(steps / 2))
