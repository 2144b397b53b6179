"""Last step of a run that began in the starter's space: how much of it the saved model keeps.

The cosine of an image and a text is share * (cosine among the classes) + (1 - share) * (trained cosine), see
`models.projection.BesideClasses`. The share with the best validation is taken; a share of 1 is the model from before
training, so that the saved run is never below it on validation.
"""

from collections.abc import Callable, Mapping

from rich.console import Console
from torch import nn

from chiasm.core.log import bar
from chiasm.core.types import Score
from chiasm.evaluate.class_share import ClassShare
from chiasm.models.projection import HALF, set_class_share

SHARES = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3, 0.0)
TRAINING_SHARES = ((500, 0.7), (2000, 0.5))
"""(Examples, share while they are trained on if there are fewer): few teach what the classes leave open, many teach
all of it (docs/log.md)."""

LARGEST_SHARE = 0.9
"""While a run from another run is trained, which keeps the share of that one."""


def training_share(examples: int) -> float:
    """Share of the classes in the cosine while the other half is trained on so many examples."""
    return next((share for below, share in TRAINING_SHARES if examples < below), 0.0)


def choose_class_share(
    model: nn.Module,
    metrics: tuple[str, ...],
    validate: Callable[[], Mapping[str, Score]],
    console: Console,
) -> ClassShare:
    """Validate each of `SHARES`, and leave the model at the best one; of equals, at the one nearest to the start.

    Args:
        model: trained, in evaluation mode, with classes beside both projections.
        metrics: the primary metric, then others; the first that the share changes decides.
        validate: the scores with the current share.
        console: where people look.
    """
    found: dict[float, Mapping[str, Score]] = {}
    with bar(console, "mixing with the start", "shares", len(SHARES)) as shown:
        for number, share in enumerate(SHARES, 1):
            set_class_share(model, share)
            found[share] = validate()
            shown.update(number)
    metric = _deciding(metrics, found)
    rows = {share: scores[metric] for share, scores in found.items() if metric in scores}
    share = max(rows, key=lambda one: (rows[one].value, one)) if rows else HALF
    set_class_share(model, share)
    return ClassShare(metric, rows, share)


def _deciding(metrics: tuple[str, ...], found: Mapping[float, Mapping[str, Score]]) -> str:
    """The first metric that takes more than one value; the first of all where none does."""
    for metric in metrics:
        if len({scores[metric].value for scores in found.values() if metric in scores}) > 1:
            return metric
    return metrics[0]
