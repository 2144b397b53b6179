"""The interface of a shared embedding space, for search, zero-shot classification and hard negatives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Encoded
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.codec import Codec
from chiasm.tasks.text_batches import encode_texts


class SharedSpace(ABC):
    """Unit-length embeddings of encoded inputs and of texts; their dot product is the cosine."""

    @abstractmethod
    def embed_images(self, model: VisionLanguageModel, encoded: Encoded) -> npt.NDArray[np.float32]:
        """Encoded images -> float32 [n, e], unit length."""

    @abstractmethod
    def embed_texts(self, model: VisionLanguageModel, codec: Codec, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sentences -> float32 [m, e], unit length."""

    def embed_in_parts(
        self,
        model: VisionLanguageModel,
        codec: Codec,
        texts: Sequence[str],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """As `embed_texts`, each distinct text once and some at a time; `progress` is called with (done, all) of them.

        The batches are those of `text_batches`.
        """
        if not len(texts):
            return np.zeros((0, model.config.embedding_dim), dtype=np.float32)
        if all(text in codec.text_vectors for text in texts):  # of a frozen tower, which only have to be projected
            return self.embed_texts(model, codec, texts)
        return encode_texts(texts, model, codec, partial(self.embed_texts, model, codec), progress)

    def similarity(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, texts: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Cosines float32 [m, n] of texts and encoded images."""
        cosines: npt.NDArray[np.float32] = (
            self.embed_in_parts(model, codec, texts) @ self.embed_images(model, encoded).T
        )
        return cosines
