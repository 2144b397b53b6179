"""Text embeddings of a teacher as batch fields; `pipeline.teacher_targets` computes them once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from chiasm.core.types import Caption, Example

TARGETS = "text_targets"
"""Key in `Example.inputs` of a mapping, caption -> float32 [e], unit length."""


def caption_targets(captions: Sequence[Caption], known: Mapping[str, np.ndarray]) -> dict[Caption, np.ndarray]:
    """Target embedding of each caption of one image.

    Args:
        captions: in any language.
        known: text -> the teacher's unit vector float32 [e], for captions in a language of the teacher.

    Returns:
        For a caption in a language of the teacher, the teacher's vector. For any other caption, the normalised mean of
        the vectors of its image, since captions in different languages are not translations of each other. {} if the
        teacher has no vector for any caption.
    """
    read = [known[caption.text] for caption in captions if caption.text in known]
    if not read:
        return {}
    mean = np.mean(read, axis=0)
    mean = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return {caption: known.get(caption.text, mean) for caption in captions}


def target_fields(chosen: Sequence[tuple[int, Caption]], examples: Sequence[Example], width: int) -> dict[str, Tensor]:
    """`text_target` float32 [m, width], zeros without a target, and `has_target` bool [m] of the chosen captions."""
    found = [examples[row].inputs.get(TARGETS, {}).get(caption) for row, caption in chosen]
    target = np.zeros((len(found), width), dtype=np.float32)
    for number, one in enumerate(found):
        if one is not None:
            target[number] = one
    return {
        "text_target": torch.from_numpy(target),
        "has_target": torch.tensor([one is not None for one in found], dtype=torch.bool),
    }
