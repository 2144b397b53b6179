"""The linear probe against scikit-learn, its choice of decay, and draws of few examples."""

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.evaluate.linear_probe.fit import (
    DECAYS,
    choose_decay,
    draw_shots,
    few_shot,
    fit_logistic,
    fit_map,
    right_share,
)


def blobs(count: int, seed: int, dim: int = 12, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes around fixed centres, in dimensions of very different scale and place."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, dim))
    labels = np.arange(count) % 3
    points = centres[labels] + spread * random.normal(size=(count, dim))
    points = points * np.geomspace(0.01, 100, dim) + np.linspace(-50, 50, dim)
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("decay", [1.0, 0.01])
def test_the_fit_is_that_of_scikit_learn(decay: float) -> None:
    """Parity: the same convex problem, solved by another program."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(90, 0)
    x = ((x - x.mean(0)) / x.std(0)).double()
    weight, bias = fit_logistic(x, y, 3, decay)
    other = linear_model.LogisticRegression(C=1 / (90 * decay), tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(weight.numpy(), other.coef_, atol=2e-5)
    shift = bias.mean() - other.intercept_.mean()  # a constant on all logits changes nothing
    np.testing.assert_allclose((bias - shift).numpy(), other.intercept_, atol=2e-5)


@pytest.mark.parametrize(("count", "dim"), [(60, 12), (9, 40)])
def test_the_map_is_scikit_learns_pipeline(count: int, dim: int) -> None:
    """Parity of standardising and fitting; with fewer examples than numbers the shortcut must change nothing."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    (x, y), (new, _) = blobs(count, 1, dim), blobs(30, 2, dim)
    x[:, 3] = 7.0  # a number that never changes
    scaler = preprocessing.StandardScaler().fit(x.double().numpy())
    other = linear_model.LogisticRegression(C=1 / (count * 0.1), tol=1e-10, max_iter=10_000)
    other.fit(scaler.transform(x.double().numpy()), y.numpy())
    new[:, 3] = 7.0
    logits = fit_map(x, y, 3, 0.1)(new)
    expected = torch.from_numpy(other.predict_log_proba(scaler.transform(new.double().numpy())))
    torch.testing.assert_close(logits.log_softmax(-1), expected, rtol=1e-4, atol=1e-4)


def test_the_decay_is_chosen_on_other_examples() -> None:
    """Guards against a choice by what is fitted, which always takes the smallest decay; by a loop over single fits."""
    (x, y), (other, labels) = blobs(15, 3, spread=4.0), blobs(300, 4, spread=4.0)
    chosen, shares = choose_decay(x, y, other, labels, 3)
    alone = {decay: right_share(fit_map(x, y, 3, decay)(other), labels) for decay in DECAYS}
    assert shares == pytest.approx(alone, abs=0.011)
    assert shares[chosen] == max(shares.values()) and chosen > min(DECAYS)
    assert chosen == max(decay for decay in DECAYS if shares[decay] == shares[chosen])


def test_draws_are_balanced_nested_and_new_each_time() -> None:
    """Guards against a class that is missing, and curves whose points come of unrelated draws."""
    labels = torch.tensor([0, 1, 2] * 20)
    few, many = draw_shots(labels, 2, 0, 5), draw_shots(labels, 8, 0, 5)
    assert sorted(labels[few].tolist()) == [0, 0, 1, 1, 2, 2] and len(set(many)) == 24
    assert set(few) < set(many) and few == draw_shots(labels, 2, 0, 5)
    assert set(few) != set(draw_shots(labels, 2, 0, 6)) and set(few) != set(draw_shots(labels, 2, 1, 5))
    with pytest.raises(InputError, match="21 shots, and a class of 20"):
        draw_shots(labels, 21, 0, 0)


def test_more_shots_are_better_and_labels_matter() -> None:
    """Property: the mean over draws rises with the shots; with labels dealt wrongly it stays at chance."""
    pool, others, measured = blobs(300, 5), blobs(150, 6), blobs(300, 7)
    means = [float(np.mean(few_shot(*pool, others, measured, k, 6, 0)[0])) for k in (1, 4, 16)]
    assert means[0] < means[1] < means[2] and means[0] > 0.4
    dealt = pool[1][torch.from_numpy(np.random.default_rng(0).permutation(300))]
    blind, _ = few_shot(pool[0], dealt, others, measured, 16, 6, 0)
    assert abs(float(np.mean(blind)) - 1 / 3) < 0.12 < means[2] - 1 / 3
