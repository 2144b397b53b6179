"""Select the weight of the starter's class space in the saved model, as the last step of training.

The cosine of an image and a text is share * (cosine among the classes) + (1 - share) * (trained cosine), see
`models.projection.BesideClasses`. The share with the best validation score is selected. A share of 1 is the
model before training, so the saved run never scores below it on validation.
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
"""(Upper bound on training examples, share during training): few examples train a correction of the class space, many
replace it (docs/log.md)."""

LARGEST_SHARE = 0.9
"""Upper bound on the share while training from another run, whose share is otherwise kept."""


def training_share(examples: int) -> float:
    """Share of the class space in the cosine while the other half is trained on this number of examples."""
    return next((share for below, share in TRAINING_SHARES if examples < below), 0.0)


def choose_class_share(
    model: nn.Module,
    metrics: tuple[str, ...],
    validate: Callable[[], Mapping[str, Score]],
    console: Console,
) -> ClassShare:
    """Validate each of `SHARES` and set the model to the best; ties go to the share nearest to the start.

    Args:
        model: trained, in evaluation mode, with classes beside both projections.
        metrics: the primary metric, then others; the first that the share changes decides.
        validate: the scores with the current share.
        console: receives progress bars and messages.
    """
    found: dict[float, Mapping[str, Score]] = {}
    with bar(console, "mixing with the start", "shares", len(SHARES)) as shown:
        for number, share in enumerate(SHARES, 1):
            set_class_share(model, share)
            found[share] = validate()
            shown.update(number)
    metric = _deciding(metrics, found)
    rows = {share: scores[metric] for share, scores in found.items() if metric in scores}
    share = max(rows, key=lambda candidate: (rows[candidate].value, candidate)) if rows else HALF
    set_class_share(model, share)
    return ClassShare(metric, rows, share)


def _deciding(metrics: tuple[str, ...], found: Mapping[float, Mapping[str, Score]]) -> str:
    """Return the first metric that differs between shares; the first metric if none does."""
    for metric in metrics:
        if len({scores[metric].value for scores in found.values() if metric in scores}) > 1:
            return metric
    return metrics[0]
