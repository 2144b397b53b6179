"""Image-text contrast: put a picture and its sentences in one place, for search in both directions."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.run_config import RunConfig
from chiasm.core.types import Batch, Example, TextTokens, Tokens
from chiasm.data.dataset import choose_captions
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.contrastive import softmax_contrast
from chiasm.tasks.base import Codec, Task


class Retrieval(Task):
    """Softmax contrast in which every caption of a picture, and equal pictures, are positives."""

    name: ClassVar[str] = "retrieval"
    primary_metric: ClassVar[str] = "text_to_image_R@1"

    def collate(self, examples: Sequence[Example], codec: Codec, run: RunConfig, epoch: int) -> dict[str, Tensor]:
        """`text_ids` and `text_is_real` [m, l], or `text_vectors` [m, d] of a frozen tower; `image_index` [m]."""
        chosen = [
            (row, caption.text)
            for row, example in enumerate(examples)
            for caption in choose_captions(example, self.config.captions_per_picture, run.seed, epoch)
        ]
        fields = _text_fields([text for _, text in chosen], codec)
        fields["image_index"] = torch.tensor([row for row, _ in chosen], dtype=torch.long)
        return fields

    def loss(self, model: VisionLanguageModel, image: Tokens, batch: Batch) -> dict[str, Tensor]:
        """Both directions of the contrast; terms "image_to_text", "text_to_image", "loss"."""
        fields = batch.by_task[self.name]
        assert model.logit_scale is not None
        return softmax_contrast(
            model.embed_image(image),
            model.embed_text(_pooled(model, fields)),
            model.logit_scale.exp(),
            batch.group,
            batch.group[fields["image_index"]],
        )

    @torch.no_grad()
    def embed_images(self, model: VisionLanguageModel, image: Tokens) -> np.ndarray:
        """Encoded pictures -> float32 [n, e], unit length."""
        return model.embed_image(image).float().cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, model: VisionLanguageModel, codec: Codec, texts: Sequence[str]) -> np.ndarray:
        """Sentences -> float32 [m, e], unit length."""
        fields = {name: value.to(next(model.parameters()).device) for name, value in _text_fields(texts, codec).items()}
        return model.embed_text(_pooled(model, fields)).float().cpu().numpy()


def _text_fields(texts: Sequence[str], codec: Codec) -> dict[str, Tensor]:
    if texts and all(text in codec.text_vectors for text in texts):
        return {"text_vectors": torch.from_numpy(np.stack([codec.text_vectors[text] for text in texts]))}
    tokens = codec.tokenizer.batch(texts)
    return {"text_ids": tokens.ids, "text_is_real": tokens.is_real}


def _pooled(model: VisionLanguageModel, fields: dict[str, Tensor]) -> Tensor:
    if "text_vectors" in fields:
        return fields["text_vectors"]
    return model.encode_text(TextTokens(fields["text_ids"], fields["text_is_real"])).pooled
