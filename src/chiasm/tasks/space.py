"""The interface of a shared embedding space, for search, zero-shot classification and hard negatives."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Encoded
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.codec import Codec

TEXTS_AT_ONCE = 256
"""Texts per batch."""


class SharedSpace(ABC):
    """Unit-length embeddings of encoded inputs and of texts; their dot product is the cosine."""

    @abstractmethod
    def embed_images(self, model: VisionLanguageModel, encoded: Encoded) -> npt.NDArray[np.float32]:
        """Encoded images -> float32 [n, e], unit length."""

    @abstractmethod
    def embed_texts(self, model: VisionLanguageModel, codec: Codec, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sentences -> float32 [m, e], unit length."""

    def embed_in_parts(self, model: VisionLanguageModel, codec: Codec, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """As `embed_texts`, `TEXTS_AT_ONCE` texts at a time, for any number above 0."""
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        return np.concatenate([self.embed_texts(model, codec, texts[at : at + TEXTS_AT_ONCE]) for at in starts])

    def similarity(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, texts: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Cosines float32 [m, n] of texts and encoded images."""
        cosines: npt.NDArray[np.float32] = (
            self.embed_in_parts(model, codec, texts) @ self.embed_images(model, encoded).T
        )
        return cosines
