"""Share of the starter's class space in a run's cosine, as plain data for `results.json` and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiasm.core.types import Score


@dataclass(frozen=True, slots=True)
class ClassShare:
    """Validation score of each share, and the selected share."""

    metric: str
    rows: Mapping[float, Score]
    share: float

    @property
    def keeps_start(self) -> bool:
        """True if the model is the one before training."""
        return self.share == 1

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        curve = [{"share": share, self.metric: score.as_dict()} for share, score in self.rows.items()]
        return {"share": self.share, "metric": self.metric, "curve": curve}
