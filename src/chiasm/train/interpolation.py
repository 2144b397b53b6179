"""Weights between those before and after training: WiSE-FT (Wortsman et al. 2022, section 3, equation 1).

theta(alpha) = (1 - alpha) theta_before + alpha theta_after. Interpolated weights often keep the accuracy on the old
domain and most of the gain on the new one. LoRA matrices are merged first: the merged matrices are interpolated, not
their factors, whose product is not linear in alpha. The weights after training are those of the moving average, if
there is one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn

from chiasm.core.log import bar
from chiasm.core.types import Score
from chiasm.models.lora import LORA_NAMES
from chiasm.report.forgetting import Interpolation, Mixed

ALPHAS = tuple(number / 10 for number in range(11))


def names_between(trained: Iterable[str], pretrained: frozenset[str]) -> list[str]:
    """Names, in the merged model, of the trained weights that have a pre-trained value.

    Args:
        trained: names of the trained parameters, LoRA matrices included.
        pretrained: names of the parameters that were not newly initialised.
    """
    merged = [f"{name.rsplit('.', 1)[0]}.weight" if name.endswith(LORA_NAMES) else name for name in trained]
    return [name for name in dict.fromkeys(merged) if name in pretrained]


@torch.no_grad()
def set_between(model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor], alpha: float) -> None:
    """Set the named weights to their value at `alpha`; 0 and 1 restore the values before and after bit-exactly."""
    named = dict(model.named_parameters())
    for name, start in before.items():
        named[name].copy_(torch.lerp(start.to(named[name].device), after[name], alpha))


def interpolate(
    model: nn.Module,
    before: Mapping[str, Tensor],
    metric: str,
    new: Callable[[], Score],
    old: Callable[[], Score] | None,
    floor: float,
    console: Console,
) -> Interpolation:
    """Evaluate both domains at each of `ALPHAS`, and set the model to the chosen one.

    Args:
        model: trained and merged, in evaluation mode.
        before: weights from before training, by name.
        metric: name of what `new` measures.
        new: the new domain's validation with the current weights.
        old: the retention check; None without one.
        floor: least value of `old` that is enough.
        console: receives progress bars and messages.
    """
    named = dict(model.named_parameters())
    after = {name: named[name].detach().clone() for name in before}
    if all(torch.equal(start.to(after[name].device), after[name]) for name, start in before.items()):
        only = Mixed(0.0, new(), old() if old else None)
        return Interpolation(metric, [only], 0.0, "Nothing on the way was better on validation than the start.")
    rows = []
    with bar(console, "interpolating", "weights", len(ALPHAS)) as shown:
        for number, alpha in enumerate(ALPHAS, 1):
            set_between(model, before, after, alpha)
            rows.append(Mixed(alpha, new(), old() if old else None))
            shown.update(number)
    alpha = choose(rows, floor)
    set_between(model, before, after, alpha)
    return Interpolation(metric, rows, alpha, _rule(rows, floor, metric))


def choose(rows: Sequence[Mixed], floor: float) -> float:
    """Alpha with the best score on the new domain among those at or above the floor on the old one.

    Ties go to the smaller alpha. If none reaches the floor, the alpha with the best score on the old domain.
    """
    enough = [row for row in rows if row.old is None or row.old.value >= floor]
    if enough:
        return max(enough, key=lambda row: (row.new.value, -row.alpha)).alpha
    return max(rows, key=lambda row: (row.old.value if row.old else 0.0, -row.alpha)).alpha


def _rule(rows: Sequence[Mixed], floor: float, metric: str) -> str:
    best = f"The share of the weights after training with the highest {metric} on validation"
    if rows[0].old is None:
        return f"{best}; no retention check measured the old domain."
    if all(row.old is not None and row.old.value < floor for row in rows):
        return f"No share keeps the old domain at {100 * floor:.1f} % or more; the one that keeps most was taken."
    return f"{best}, among those that keep the old domain at {100 * floor:.1f} % or more."
