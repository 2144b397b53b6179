"""Where a teacher puts captions, as fields of a batch; `pipeline.teacher_targets` computes it once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from chiasm.core.types import Caption, Example

TARGETS = "text_targets"
"""Key in `Example.inputs` of a mapping, caption -> float32 [e], unit length."""


def caption_targets(captions: Sequence[Caption], known: Mapping[str, np.ndarray]) -> dict[Caption, np.ndarray]:
    """Where each caption of one image shall be.

    Args:
        captions: in any language.
        known: text -> the teacher's unit vector float32 [e], of the captions that the teacher reads.

    Returns:
        The teacher's own vector of a caption that it reads; for a caption in another language the direction of the mean
        over those of its image, since captions that people wrote each in their language are no translations of each
        other. Empty where the teacher reads none.
    """
    read = [known[caption.text] for caption in captions if caption.text in known]
    if not read:
        return {}
    mean = np.mean(read, axis=0)
    mean = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return {caption: known.get(caption.text, mean) for caption in captions}


def target_fields(chosen: Sequence[tuple[int, Caption]], examples: Sequence[Example], width: int) -> dict[str, Tensor]:
    """`text_target` float32 [m, width] and `has_target` bool [m] of chosen captions, zeros where there is none."""
    found = [examples[row].inputs.get(TARGETS, {}).get(caption) for row, caption in chosen]
    target = np.zeros((len(found), width), dtype=np.float32)
    for number, one in enumerate(found):
        if one is not None:
            target[number] = one
    return {
        "text_target": torch.from_numpy(target),
        "has_target": torch.tensor([one is not None for one in found], dtype=torch.bool),
    }
