"""Logistic regression on the features of a frozen tower, with the weight decay selected on held-out examples.

The linear probe of Radford et al. 2021 (section 3.2 and appendix A.3): multinomial logistic regression by L-BFGS on
frozen features. The weight decay is selected on examples that are neither fitted nor measured.

Axis legend: n examples, d numbers a feature vector, c classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng

DECAYS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
"""Weight decays to choose from, on features of variance 1; the larger of two that are equally good is taken."""
MOST_ITERATIONS = 1000
CHOOSING_DRAWS = 3
"""Draws of a few examples a class, apart from those that are measured, by which their weight decay is chosen."""


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Features -> logits, with the features' own shift and scale before it.

    Attributes:
        shift, scale: float64 [d], subtracted, then multiplied.
        weight: float64 [c, d].
        bias: float64 [c].
    """

    shift: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits, float64."""
        return (features.double() - self.shift) * self.scale @ self.weight.T + self.bias


def fit_logistic(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    decay: float,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """Weights and biases that minimise mean cross-entropy + decay / 2 * |weights|^2, nearly to machine precision.

    It is scikit-learn's LogisticRegression with C = 1 / (n * decay). Biases have no decay.

    Args:
        features: float64.
        labels: int64 in [0, classes).
        classes: c.
        decay: above 0, which makes the minimum unique.
        start: where to begin, such as the weights for another decay.
    """
    if decay <= 0:
        raise InputError(f"a weight decay of {decay}", "a number above 0", "choose a small one")
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64) if start is None else start[0].clone()
    bias = torch.zeros(classes, dtype=torch.float64) if start is None else start[1].clone()
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MOST_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def fit_map(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int, decay: float) -> LinearMap:
    """Standardise the features, each to mean 0 and variance 1 over these examples, and fit."""
    (found,) = _maps(features, labels, classes, (decay,)).values()
    return found


def _maps(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int, decays: Sequence[float]
) -> dict[float, LinearMap]:
    """A map for each decay, from the largest down: each starts where the one before it ended."""
    given = features.double()
    shift, spread = given.mean(0), given.std(0, correction=0)
    # A constant feature carries no information; dividing by a spread near 0 would amplify noise.
    scale = torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), 0.0)
    ready, basis = (given - shift) * scale, None
    if len(ready) < ready.shape[1]:
        # The best weights are a mix of the examples, so few examples need few numbers: n in the place of d.
        basis, triangle = torch.linalg.qr(ready.T)
        ready = triangle.T
    found: dict[float, LinearMap] = {}
    start = None
    for decay in sorted(decays, reverse=True):
        start = weight, bias = fit_logistic(ready, labels, classes, decay, start)
        found[decay] = LinearMap(shift, scale, weight if basis is None else weight @ basis.T, bias)
    return found


def right_share(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """Share of rows whose largest logit is the right one."""
    return float((logits.argmax(1) == labels).double().mean())


def choose_decay(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    other_features: Float[Tensor, "m d"],
    other_labels: Int[Tensor, " m"],
    classes: int,
) -> tuple[float, Mapping[float, float]]:
    """The weight decay that is best on other examples, and the share that each got right."""
    maps = _maps(features, labels, classes, DECAYS)
    shares = {decay: right_share(linear(other_features), other_labels) for decay, linear in maps.items()}
    return _best(shares), shares


def _best(shares: Mapping[float, float]) -> float:
    return max(sorted(shares, reverse=True), key=shares.__getitem__)


def draw_shots(labels: Int[Tensor, " n"], shots: int, seed: int, draw: int | str) -> list[int]:
    """Rows of `shots` examples of each class; a draw of more examples holds those of fewer.

    Raises:
        InputError: a class has fewer examples.
    """
    rows: list[int] = []
    for number in torch.unique(labels).tolist():
        own = torch.nonzero(labels == number)[:, 0].tolist()
        if len(own) < shots:
            raise InputError(
                f"{shots} shots, and a class of {len(own)} examples", f"at most {len(own)}", "ask for fewer"
            )
        rows += [own[place] for place in counter_rng("shots", seed, draw, number).permutation(len(own))[:shots]]
    return rows


def few_shot(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    others: tuple[Float[Tensor, "m d"], Int[Tensor, " m"]],
    measured: tuple[Float[Tensor, "k d"], Int[Tensor, " k"]],
    shots: int,
    draws: int,
    seed: int,
) -> tuple[list[float], float]:
    """Fit on a few examples of each class, drawn again and again.

    Args:
        features: of the examples to draw from.
        labels: their classes; each class occurs.
        others: examples on which the weight decay is chosen, by draws of its own.
        measured: examples that are scored.
        shots: examples of each class.
        draws: how often.
        seed: decides the draws.

    Returns:
        The share of right answers of each draw, and the chosen decay.
    """
    classes = int(labels.max()) + 1

    def drawn(name: int | str, decays: Sequence[float]) -> dict[float, LinearMap]:
        rows = draw_shots(labels, shots, seed, name)
        return _maps(features[rows], labels[rows], classes, decays)

    choosing = [drawn(f"choosing {number}", DECAYS) for number in range(CHOOSING_DRAWS)]
    shares = {
        decay: float(np.mean([right_share(maps[decay](others[0]), others[1]) for maps in choosing])) for decay in DECAYS
    }
    decay = _best(shares)
    found = [right_share(drawn(number, (decay,))[decay](measured[0]), measured[1]) for number in range(draws)]
    return found, decay
