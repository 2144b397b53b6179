"""Batch fields of captions: sampled each epoch, tokenised, and linked to their images by index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import Batch, Caption, Example, TextTokens
from chiasm.data.dataset import choose_captions
from chiasm.models.batch_invariant import TOKEN_MULTIPLE
from chiasm.models.config import ModelConfig
from chiasm.models.fusion import FUSIONS
from chiasm.tasks.base import Task, TaskConfig, check_share
from chiasm.tasks.codec import Codec


def check_words(task: str, model: ModelConfig) -> None:
    """Require token-level text in fusion.

    Raises:
        InputError: the text tower has summary tokens or is frozen, or the fusion drops the word tokens.
    """
    given = {
        f"model.text.summary_tokens {model.text.summary_tokens}": bool(model.text.summary_tokens),
        "model.text.frozen true": model.text.frozen,
        f"model.fusion {model.fusion!r}": not FUSIONS[model.fusion].keeps_words,
    }
    wrong = [key for key, is_wrong in given.items() if is_wrong]
    if wrong:
        kept = ", ".join(name for name, fusion in FUSIONS.items() if fusion.keeps_words)
        raise InputError(
            f"the task {task} with {wrong[0]}",
            f"word tokens in fusion: no summary tokens, a trainable text tower, and one of {kept}",
            "--set model.text.summary_tokens=0 model.fusion=cross_attention, whichever it is",
        )


def chosen_captions(examples: Sequence[Example], count: int, seed: int, epoch: int) -> list[tuple[int, Caption]]:
    """Up to `count` captions per example, each with the example's index in the batch."""
    return [
        (row, caption)
        for row, example in enumerate(examples)
        for caption in choose_captions(example, count, seed, epoch)
    ]


def caption_fields(chosen: Sequence[tuple[int, Caption]], codec: Codec) -> dict[str, Tensor]:
    """`text_ids` and `text_is_real` [m, l], or `text_vectors` [m, d] of a frozen tower; `image_index`, `text_key` [m].

    `text_key` is a hash of the text, equal in all processes.
    """
    texts = [caption.text for _, caption in chosen]
    return {
        **text_fields(texts, codec),
        "image_index": torch.tensor([row for row, _ in chosen], dtype=torch.long),
        "text_key": torch.tensor([counter_seed("text", text) for text in texts], dtype=torch.long),
    }


def check_writes(task: str, model: ModelConfig) -> None:
    """Require, for a generative task, a text tower that shares embeddings with a decoder.

    Raises:
        InputError: the text tower is pre-trained.
    """
    if not (model.text.from_scratch or model.network):
        raise InputError(
            f"the generative task {task} with model.text.kind {model.text.kind!r}",
            "a text tower that shares its embeddings with a decoder",
            "--set model.text.kind=transformer",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig(TaskConfig):
    """Config keys of a task on captions."""

    captions_per_picture: int = 1
    """Captions per image in a step, resampled each epoch; all are positives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledConfig(CaptionConfig):
    """Config keys of a task on captions that can learn from another model's soft targets."""

    distil: float = 0.0
    """Share of a teacher's soft targets (ALBEF: 0.4): of `train.teacher`, or of the moving average of the weights
    (train.ema_decay above 0)."""

    def check(self, where: str) -> None:
        """Check that shares lie in their ranges."""
        check_share(where, "distil", self.distil, is_below_one=True, hint="ALBEF takes 0.4")

    @property
    def learns_from_teacher(self) -> bool:
        """Whether `distil` is above 0."""
        return self.distil > 0


T = TypeVar("T", bound=CaptionConfig)


class CaptionTask(Task[T]):
    """A task on captions, resampled each epoch; its batch fields are those of `caption_fields`."""

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """Sample `captions_per_picture` captions of each example and return the fields of `caption_fields`."""
        count = self.config.captions_per_picture
        return caption_fields(chosen_captions(examples, count, seed, epoch), codec)

    def count(self, batch: Batch) -> int:
        """Number of captions."""
        return len(batch.by_task[self.name]["image_index"])


def text_fields(texts: Sequence[str], codec: Codec, batch_invariant: ModelConfig | None = None) -> dict[str, Tensor]:
    """Token ids, or cached vectors of a frozen tower if all texts have one; `batch_invariant` pads the ids."""
    if texts and all(text in codec.text_vectors for text in texts):
        return {"text_vectors": torch.from_numpy(np.stack([codec.text_vectors[text] for text in texts]))}
    tokens = (
        codec.tokenizer.batch(texts)
        if batch_invariant is None
        else batch_invariant_tokens(texts, codec, batch_invariant)
    )
    return {"text_ids": tokens.ids, "text_is_real": tokens.is_real}


def batch_invariant_tokens(texts: Sequence[str], codec: Codec, model: ModelConfig) -> TextTokens:
    """Token ids padded to a multiple of `TOKEN_MULTIPLE` for batch invariance (`models.batch_invariant`)."""
    ids, is_real = codec.tokenizer.batch(texts)
    length, before = ids.shape[1], model.text.summary_tokens
    more = -(length + before) % TOKEN_MULTIPLE
    if not model.text.pads_beyond_max:
        more = min(more, max(codec.tokenizer.max_tokens - length, 0))
    return TextTokens(F.pad(ids, (0, more), value=codec.tokenizer.pad_id), F.pad(is_real, (0, more)))


def text_tokens(fields: dict[str, Tensor]) -> TextTokens:
    """The token ids among the fields."""
    return TextTokens(fields["text_ids"], fields["text_is_real"])
