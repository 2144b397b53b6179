"""Peak learning rate from the sizes of a run, and warnings for rates and warm-ups that do not fit it.

The rule, for AdamW with a schedule that comes down to zero, N trained parameters and batches of B images:

- weights that start anew: 0.003239 - 0.0001395 ln N (Kaplan et al. 2020, appendix D.6, equation D.1);
- weights that were pre-trained: 3e-5 sqrt(1.5e8 / N) sqrt(B / 512), the last factor within [0.5, 2]. WiSE-FT takes 3e-5
  for CLIP's ViT-B of 1.5e8 parameters and batches of 512 (Wortsman et al. 2022), BERT 2e-5 to 5e-5 for 1.1e8 and small
  batches (Devlin et al. 2019, appendix A.3). The root of N follows from Adam's rate falling with the width (Yang et al.
  2022, table 3) where N grows with its square, the root of B from Malladi et al. 2022. Never more than for weights
  that start anew;
- the latter in a run of more than 10,000 steps: also times sqrt(10,000 / steps), so that a long run moves them no
  farther than a short one. This last one is our own reasoning and has no paper.
"""

import math

from chiasm.train.config import TrainConfig

PRETRAINED_RATE = 3e-5
PRETRAINED_PARAMETERS = 1.5e8
SMALLEST_RATE = 1e-6
PRETRAINED_BATCH = 512
LONG_RUN_STEPS = 10_000
FAR_TOO_HIGH = 5.0
"""Ratio to the rule's rate from which a rate for pre-trained weights causes a warning."""


def peak_rate(parameters: int, pretrained: int, batch_size: int, steps: int) -> tuple[float, str]:
    """Peak learning rate of a run by the rule above, in two digits, and the reason in words.

    Args:
        parameters: numbers that are trained.
        pretrained: of these, the ones that do not start anew; one is enough to be careful.
        batch_size: images in a step, over all processes.
        steps: of the whole run.
    """
    rate = 0.003239 - 0.0001395 * math.log(parameters)
    reason = "they start anew (Kaplan et al. 2020)"
    if pretrained:
        batch = min(2.0, max(0.5, math.sqrt(batch_size / PRETRAINED_BATCH)))
        rate = min(rate, PRETRAINED_RATE * math.sqrt(PRETRAINED_PARAMETERS / parameters) * batch)
        rate *= min(1.0, math.sqrt(LONG_RUN_STEPS / steps))
        reason = f"{pretrained:,} of them are pre-trained (Wortsman et al. 2022)"
    chosen = float(f"{max(rate, SMALLEST_RATE):.2g}")
    return chosen, f"{chosen:g}: {parameters:,} numbers are trained, {reason}; batches of {batch_size}, {steps:,} steps"


def rate_note(train: TrainConfig, parameters: int, pretrained: int, batch_size: int, steps: int) -> str:
    """A warning where a rate that was set is far above the rule's for pre-trained weights, else ""."""
    fitting, _ = peak_rate(parameters, pretrained, batch_size, steps)
    if not pretrained or train.lr < FAR_TOO_HIGH * fitting:
        return ""
    return (
        f"train.lr is {train.lr:g}, {train.lr / fitting:.0f} times the {fitting:g} that fits the {pretrained:,} "
        "pre-trained numbers that are trained: it may destroy the pre-trained features. "
        "--set train.lr=0 takes the fitting rate"
    )


def warmup_note(train: TrainConfig, steps: int) -> str:
    """A warning where the warm-up that was set takes more than a third of the run, else ""."""
    warmup_steps = train.warmup_steps
    if 3 * warmup_steps <= steps:
        return ""
    cut = f", and is cut to {steps // 2}" if warmup_steps > steps // 2 else ""
    return (
        f"train.warmup_steps is {warmup_steps:,}, more than a third of the run's {steps:,} steps{cut}. "
        "--set train.warmup_steps=-1 takes 5 %"
    )
