"""Calibration of confidences: temperature scaling, Platt scaling, and the threshold for abstaining.

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
"""Logits are clipped to this magnitude: float32 rounds the probability of a larger one to 1."""
ROUNDING = 1e-6
"""Relative difference between confidences in float32 (`predict`) and in float64 (here)."""
UNKNOWN = -1
"""Target of an event whose right class is not in the vocabulary: it counts as wrong and is not fitted on."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration parameters of a task, fitted on the validation split after training."""

    temperature: float = 1.0
    """Divisor of the logits (Guo et al. 2017, section 4.2)."""
    abstain_below: float = 0.0
    """Confidence below which the model abstains; 0 never abstains."""
    bias: float = 0.0
    """Added after the division if the confidence is a single probability (Platt 1999)."""
    near_from: float = 0.0
    """A caption with at least this ROUGE_L counts as near to the references: the median over validation captions. 0 if
    the truth of captions is known, or nothing was fitted."""

    def probability(self, logit: float) -> float:
        """Platt scaling: the logistic function of logit / temperature + bias."""
        scaled = logit / self.temperature + self.bias
        return 1 / (1 + math.exp(-scaled)) if scaled > 0 else math.exp(scaled) / (1 + math.exp(scaled))


@dataclass(frozen=True, slots=True)
class CalibratedOn:
    """The examples that a calibration was fitted on; its error on them is no held-out measurement."""

    examples: str = ""
    """Hash of the examples' names (`evaluate.calibrating.fingerprint`)."""
    scores: dict[str, Score] = field(default_factory=dict)
    """Cross-fitted scores of these examples, by name."""


def logit_of(probability: float) -> float:
    """ln(p / (1 - p)), clipped to +-`MOST_LOGIT`."""
    if probability <= 0 or probability >= 1:
        return math.copysign(MOST_LOGIT, probability - 0.5)
    return max(-MOST_LOGIT, min(MOST_LOGIT, math.log(probability) - math.log1p(-probability)))


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Softmax over each row of logits, float64 [n, c]."""
    shares: npt.NDArray[np.float64] = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Events:
    """The events on one split whose probability is a task's confidence.

    Args:
        score: metric whose calibration error is reported.
        logits: float64 [n, c] of a softmax, or [n] of single probabilities.
        target: int64 [n], the right class or `UNKNOWN`; for single probabilities 1 where the event happened.
        right: float64 [n] in [0, 1], how right each was; at least 0.5 counts as right.
        of: int64 [n], index of the example; cross-fitting keeps events of one example together.
        risk: tolerated share of wrong answers among the answers given; 0 never abstains.
        near_from: copied to `Calibration.near_from`.
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
        """Events with one probability each: the uncalibrated confidence of a prediction, and whether it happened."""
        own = [one.confidence if one.uncalibrated is None else one.uncalibrated for one in predictions]
        logits = np.array([logit_of(one) for one in own], dtype=np.float64)
        return cls(score, logits, happened.astype(np.int64), happened, of)

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Bool [n], True for events that count as right."""
        return self.right >= 0.5

    def fit(self, rows: npt.NDArray[np.bool_]) -> Calibration:
        """Fit a temperature (Guo et al. 2017) or Platt scaling, and the threshold, on the events selected by `rows`."""
        fitted = Calibration(near_from=self.near_from)
        logits, target = self.logits[rows], self.target[rows]
        if self.logits.ndim == 2:
            known = target != UNKNOWN
            if (logits[known].argmax(1) != target[known]).any():  # without errors the best temperature is 0
                fitted = replace(fitted, temperature=fit_temperature(logits[known], target[known]))
        elif len(set(target.tolist())) > 1:  # Platt scaling needs both outcomes
            fitted = replace(fitted, **dict(zip(("temperature", "bias"), fit_platt(logits, target == 1), strict=True)))
        if self.risk and len(target):
            sure = self.confidence(fitted)[rows]
            below = abstain_threshold(sure, self.is_right[rows], self.risk, self.of[rows])
            fitted = replace(fitted, abstain_below=below * (1 - ROUNDING))
        return fitted

    def confidence(self, calibration: Calibration) -> npt.NDArray[np.float64]:
        """Calibrated confidence of every event, float64 [n]."""
        if self.logits.ndim == 2:
            return softmax(self.logits / calibration.temperature).max(1, initial=0.0)
        return np.array([calibration.probability(float(logit)) for logit in self.logits])
