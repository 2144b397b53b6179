"""PSNR and SSIM against slow loops, and how codes are used."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from chiasm.metrics.image_quality import LARGEST_PSNR_DB, code_perplexity, code_scores, psnr_db, ssim


def images(count: int, side: int = 16, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).random((count, 3, side, side))


def test_psnr_is_that_of_the_definition() -> None:
    """Guards against a mean over images before the logarithm."""
    true, made = images(2), images(2, seed=1)
    made[1] = true[1]
    error = sum((float(a) - float(b)) ** 2 for a, b in zip(true[0].flat, made[0].flat, strict=True)) / true[0].size
    assert psnr_db(made, true).tolist() == pytest.approx([10 * math.log10(1 / error), LARGEST_PSNR_DB])
    assert psnr_db(np.zeros((1, 3, 4, 4)), np.full((1, 3, 4, 4), 0.1)).tolist() == pytest.approx([20.0])


def slow_ssim(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Windows one by one, for one colour."""
    offsets = [math.exp(-((place - 5) ** 2) / (2 * 1.5**2)) for place in range(11)]
    window = np.outer(offsets, offsets)
    window /= window.sum()
    found = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            a, b = one[top : top + 11, left : left + 11], other[top : top + 11, left : left + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            both = (window * (a - ma) * (b - mb)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def test_ssim_is_that_of_a_slow_loop() -> None:
    """Guards against a window of another width, or a covariance that is not centred."""
    true, made = images(2), 0.7 * images(2) + 0.3 * images(2, seed=1)
    expected = [np.mean([slow_ssim(true[n, c], made[n, c]) for c in range(3)]) for n in range(2)]
    assert ssim(made, true).tolist() == pytest.approx(expected, abs=1e-9)
    assert ssim(true, true).tolist() == pytest.approx([1, 1])


def test_perplexity_counts_codes_that_are_equally_frequent() -> None:
    """Guards against a logarithm of another base, and 0 ln 0."""
    assert code_perplexity(np.array([5, 5, 0, 5])) == pytest.approx(3)
    assert code_perplexity(np.array([0, 7])) == 1
    shares = [0.5, 0.25, 0.25]
    assert code_perplexity(np.array([2, 1, 1])) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_scores_of_codes_have_intervals_over_images() -> None:
    """Guards against a collapse that no score shows, and intervals that exclude the number."""
    ids = np.array([[0, 1, 2, 3], [4, 4, 4, 4], [5, 5, 5, 5], [0, 1, 2, 9]])
    found = code_scores(ids, 12, seed=0)
    assert found["codes_used"].value == 7 and found["varied_images"].value == 0.5
    assert found["code_perplexity"].value == pytest.approx(code_perplexity(np.bincount(ids.ravel(), minlength=12)))
    for score in found.values():
        assert score.low <= score.value <= score.high and score.n == 4
    collapsed = code_scores(np.zeros((5, 4), dtype=np.int64), 12, seed=0)
    assert (collapsed["codes_used"].value, collapsed["code_perplexity"].value) == (1, 1)
    assert collapsed["varied_images"].value == 0
