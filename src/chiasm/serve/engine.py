"""The Python door to a trained model: pictures and words in, plain answers out.

Every answer comes from the task's own `predict`, which evaluation also calls.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from chiasm.core.device import keep_freed_memory, pick_device
from chiasm.core.errors import ChiasmError, InputError
from chiasm.core.types import ImageRef, Prediction
from chiasm.data.image import image_ref, image_ref_from_array, image_ref_from_bytes
from chiasm.serve.starter import STARTER, starter_pipeline
from chiasm.tasks.batching import Features, stack_features
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.pipeline import Pipeline
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering

Picture = str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path, the bytes of a file, a Pillow image, or an RGB array uint8 [h, w, 3]."""
ENCODE_AT_ONCE = 64


def load(run: str | PathLike[str]) -> "Model":
    """Open a run folder, verify every file in it, and check that it still answers as it did when it was saved.

    The word "starter" opens the packaged towers joined by ImageNet's classes, which nobody has trained.

    Raises:
        InputError: missing, unfinished, damaged, or of another format version.
    """
    keep_freed_memory()
    if str(run) == STARTER:
        return Model(starter_pipeline(pick_device()))
    try:
        return Model(Pipeline.load(Path(run), pick_device()))
    except (ChiasmError, OSError, MemoryError):
        raise
    except Exception as error:  # the readers of tokenizer and tensors raise types of their own
        raise InputError(
            f"{run} holds files that do not fit together ({type(error).__name__}: {error})",
            "a run folder as chiasm wrote it",
            "restore it from a copy, or train again",
        ) from error


def picture_ref(picture: Picture) -> ImageRef:
    """Take a picture in any of the accepted forms; nothing is decoded yet, except a Pillow image."""
    if isinstance(picture, bytes):
        return image_ref_from_bytes(picture)
    if isinstance(picture, np.ndarray):
        return image_ref_from_array(picture)
    if isinstance(picture, Image.Image):
        return image_ref_from_array(np.asarray(picture.convert("RGB")))
    return image_ref(Path(picture))


class Model:
    """A trained model. Methods that a run was not trained for raise an InputError that says what it was trained for."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this model was trained for."""
        return tuple(self.pipeline.tasks)

    def encode_image(self, images: Sequence[Picture]) -> npt.NDArray[np.float32]:
        """Pictures -> unit vectors float32 [n, e] in the space shared with `encode_text`."""
        return self.embed_refs([picture_ref(image) for image in images])

    def embed_refs(self, images: Sequence[ImageRef]) -> npt.NDArray[np.float32]:
        """As `encode_image`, for pictures that are already `ImageRef`s."""
        task: Retrieval = self.pipeline.task(Retrieval)
        parts = [
            task.embed_images(self.pipeline.model, self.pipeline.encode_images(images[start : start + ENCODE_AT_ONCE]))
            for start in range(0, len(images), ENCODE_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else self._no_vectors()

    def project(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What a frozen tower said of pictures, [n, d] -> unit vectors [n, e], equal to their `encode_image`."""
        task: Retrieval = self.pipeline.task(Retrieval)
        tokens = self.pipeline.encode_pixels(stack_features([Features(vector) for vector in vectors]))
        return task.embed_images(self.pipeline.model, tokens)

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sentences -> unit vectors float32 [m, e]; the dot product with a picture's vector is their cosine."""
        if isinstance(texts, str):
            raise InputError("a single text", "a list of texts", "pass [text]")
        task: Retrieval = self.pipeline.task(Retrieval)
        words = [_words(text, "text") for text in texts]
        parts = [
            task.embed_texts(self.pipeline.model, self.pipeline.codec, words[start : start + ENCODE_AT_ONCE])
            for start in range(0, len(words), ENCODE_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else self._no_vectors()

    def ask(self, image: Picture, question: str) -> Prediction:
        """Answer a question about a picture; `evidence["answers"]` holds the three likeliest answers."""
        task: VisualQuestionAnswering = self.pipeline.task(VisualQuestionAnswering)
        tokens = self.pipeline.encode_images([picture_ref(image)])
        return task.predict(self.pipeline.model, self.pipeline.codec, tokens, [_words(question, "question")], [0])[0]

    def caption(self, images: Sequence[Picture], language: str = "") -> list[Prediction]:
        """Describe pictures, each in one sentence; `language` is one that the model was trained on, "" the first."""
        task: Captioning = self.pipeline.task(Captioning)
        known = tuple(dict.fromkeys(self.pipeline.config.data.languages))
        if language and language not in known:
            raise InputError(f"language {language!r}", "one of " + ", ".join(known), "choose one of them")
        if not images:
            return []
        tokens = self.pipeline.encode_images([picture_ref(image) for image in images])
        return task.predict(self.pipeline.model, self.pipeline.codec, tokens, language or known[0])

    def match(self, image: Picture, texts: Sequence[str]) -> list[float]:
        """Cosine in [-1, 1] between a picture and each text: larger is a better match. No probability."""
        return [float(value) for value in (self.encode_image([image]) @ self.encode_text(texts).T)[0]]

    def _no_vectors(self) -> npt.NDArray[np.float32]:
        return np.zeros((0, self.pipeline.config.model.embedding_dim), dtype=np.float32)


def _words(text: Any, what: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"the {what} is {text!r}", "words", f"give a {what}")
    return text
