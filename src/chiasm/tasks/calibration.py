"""What makes a task's confidence a probability: temperature, Platt scaling, and the threshold for abstaining.

Axis legend: n events, c classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Prediction, Score
from chiasm.metrics.calibration import abstain_threshold, fit_platt, fit_temperature

MOST_LOGIT = 16.0
"""Largest logit that calibration tells from certainty: float32 rounds the probability of a larger one to 1."""
ROUNDING = 1e-6
"""Relative distance of a confidence that `predict` computes in float32 from the one here, in float64."""
UNKNOWN = -1
"""Target of an event whose right class the model cannot name: it counts as wrong, and fits nothing."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a task's confidence a probability, fitted on validation after training."""

    temperature: float = 1.0
    """Divisor of the logits (Guo et al. 2017, section 4.2)."""
    abstain_below: float = 0.0
    """Confidence under which the model says that it does not know; 0 always answers."""
    bias: float = 0.0
    """Added after the division, where a single probability is calibrated (Platt 1999)."""
    near_from: float = 0.0
    """ROUGE_L from which on a caption counts as near to what people wrote: the median of validation's captions. 0 where
    the truth of a caption is known, or nothing was fitted."""

    def probability(self, logit: float) -> float:
        """Platt scaling: the logistic function of logit / temperature + bias."""
        scaled = logit / self.temperature + self.bias
        return 1 / (1 + math.exp(-scaled)) if scaled > 0 else math.exp(scaled) / (1 + math.exp(scaled))


@dataclass(frozen=True, slots=True)
class CalibratedOn:
    """The examples that a calibration was fitted on, whose error there is no measurement on unseen data."""

    examples: str = ""
    """Hash of the examples' names (`evaluate.calibrating.fingerprint`)."""
    scores: dict[str, Score] = field(default_factory=dict)
    """Cross-fitted scores of these examples, by name."""


def logit_of(probability: float) -> float:
    """ln(p / (1 - p)), of at most `MOST_LOGIT` in size."""
    if probability <= 0 or probability >= 1:
        return math.copysign(MOST_LOGIT, probability - 0.5)
    return max(-MOST_LOGIT, min(MOST_LOGIT, math.log(probability) - math.log1p(-probability)))


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares float64 [n, c] of each row of logits."""
    shares: npt.NDArray[np.float64] = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Events:
    """What a task's confidence is the probability of, on one split.

    Args:
        score: name of the metric whose calibration error it is.
        logits: float64 [n, c] of a softmax, or [n] of single probabilities.
        target: int64 [n], the right class or `UNKNOWN`; for single probabilities 1 where the event happened.
        right: float64 [n] in [0, 1], how right each was; at least 0.5 counts as right.
        of: int64 [n], number of the example; events of one example are kept together.
        risk: share of wrong answers tolerated among those given; 0 gives all.
        near_from: kept in the calibration (see `Calibration.near_from`).
    """

    score: str
    logits: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]
    right: npt.NDArray[np.float64]
    of: npt.NDArray[np.int64]
    risk: float = 0.0
    near_from: float = 0.0

    @classmethod
    def single(
        cls,
        score: str,
        predictions: Sequence[Prediction],
        happened: npt.NDArray[np.float64],
        of: npt.NDArray[np.int64],
    ) -> "Events":
        """Events of one probability each: the model's own confidence in `predictions`, and whether it happened."""
        own = [one.confidence if one.uncalibrated is None else one.uncalibrated for one in predictions]
        logits = np.array([logit_of(one) for one in own], dtype=np.float64)
        return cls(score, logits, happened.astype(np.int64), happened, of)

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Bool [n], True for events that count as right."""
        return self.right >= 0.5

    def fit(self, rows: npt.NDArray[np.bool_]) -> Calibration:
        """Fit on some of the events: a temperature (Guo et al. 2017), or Platt scaling; and the threshold."""
        how = Calibration(near_from=self.near_from)
        logits, target = self.logits[rows], self.target[rows]
        if self.logits.ndim == 2:
            known = target != UNKNOWN
            if (logits[known].argmax(1) != target[known]).any():  # never wrong: the best temperature would be 0
                how = replace(how, temperature=fit_temperature(logits[known], target[known]))
        elif len(set(target.tolist())) > 1:  # of what always happens, or never, nothing can be learned
            how = replace(how, **dict(zip(("temperature", "bias"), fit_platt(logits, target == 1), strict=True)))
        if self.risk and len(target):
            sure = self.confidence(how)[rows]
            below = abstain_threshold(sure, self.is_right[rows], self.risk, self.of[rows])
            how = replace(how, abstain_below=below * (1 - ROUNDING))
        return how

    def confidence(self, calibration: Calibration) -> npt.NDArray[np.float64]:
        """Calibrated confidence of every event, float64 [n]."""
        if self.logits.ndim == 2:
            return softmax(self.logits / calibration.temperature).max(1, initial=0.0)
        return np.array([calibration.probability(float(logit)) for logit in self.logits])
