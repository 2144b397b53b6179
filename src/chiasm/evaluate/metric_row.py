"""One row of a results table: a score with its baselines."""

from dataclasses import dataclass

from chiasm.core.types import Score
from chiasm.metrics.meanings import remark


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One score and its baselines."""

    name: str
    score: Score
    blind: Score | None = None
    """The same metric with every image replaced by another one."""
    chance: float | None = None
    """Score of guessing, or of always giving the most common answer."""
    note: str = ""
    is_share: bool = True
    """True prints percent; False prints the plain number (CIDEr, a loss)."""
    largest: float = 1.0
    """Value at which the bar is full."""
    no_picture: Score | None = None
    """The same metric with uniform grey images."""
    no_text: Score | None = None
    """The same metric with empty questions or sentences."""

    @property
    def is_error(self) -> bool:
        """True where lower is better: an expected calibration error."""
        return self.name.endswith("_ECE")

    @property
    def remark(self) -> str:
        """The note, or the remark that belongs to this metric."""
        return self.note or remark(self.name)
