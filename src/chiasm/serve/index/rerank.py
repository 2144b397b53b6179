"""Re-ranking of the nearest images with the run's fusion model.

A dual encoder compares pooled vectors of sentence and image. A fusion model relates words to image regions; it is too
slow for a whole folder, and fast enough for the fifty nearest images.

The score adds both models. Matching is trained against negatives sampled in proportion to exp(s cos), s the logit scale
of the contrastive objective, so its logit estimates the log-ratio of the data to that noise distribution. The log of
the noise, s cos, has to be added to it (noise-contrastive estimation with a learned noise, Gutmann and Hyvärinen 2012,
section 2.2).
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Tokens
from chiasm.data.image import ImageError
from chiasm.serve.engine import ENCODE_AT_ONCE, Model
from chiasm.tasks.base import queries_of
from chiasm.tasks.calibration import logit_of, softmax
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.matching import Matching

LOOKED_AT = 50
"""Number of images to re-rank, unless more results are requested."""
KEPT_BYTES = 256 * 2**20
"""A photo on a grid of 7 x 7 is 50 kB, so these are some 5,000."""


def reranker(model: Model) -> Matching | Captioning:
    """The task that re-ranks: matching, or captioning where the run has no matching.

    Raises:
        InputError: the run has neither.
    """
    for name in (Matching.name, Captioning.name):
        task = model.pipeline.tasks.get(name)
        if isinstance(task, Matching | Captioning):
            return task
    raise InputError(
        "re-ranking with a model that was trained for " + ", ".join(model.tasks),
        "a run with the task matching or captioning",
        "search without re-ranking, or train a recipe such as albef or blip",
    )


def evidence(model: Model, text: str, tokens: Tokens) -> list[float]:
    """Log-evidence of the fusion model for a sentence and each of n encoded images; larger is better.

    With matching, the calibrated match logit; with captioning, the log-likelihood of the sentence given the image.
    """
    task, pipeline, count = reranker(model), model.pipeline, len(tokens.pooled)
    queries, encoded = queries_of([text] * count, range(count)), {IMAGE: tokens}
    if isinstance(task, Matching):
        predictions = task.predict(pipeline.model, pipeline.codec, encoded, queries)
        return [logit_of(prediction.evidence["match"]) for prediction in predictions]
    return task.log_likelihood(pipeline.model, pipeline.codec, encoded, queries)


def shares(model: Model, cosines: Sequence[float], second: Sequence[float]) -> list[float]:
    """Probability of each image among these: the softmax of s cos + `evidence`."""
    scale = model.pipeline.model.logit_scale
    assert scale is not None, "a model with an index has a contrast"
    logits = scale.exp().item() * np.asarray(cosines, dtype=np.float64) + np.asarray(second, dtype=np.float64)
    return [float(share) for share in softmax(logits[None])[0]]


class SecondLook:
    """Re-ranks images with the fusion model. Thread-safe.

    Encoding images takes most of the time, so the tokens of recent images are cached for similar queries.

    Args:
        model: a model with the contrast, and with matching or captioning.
        most_bytes: maximum size of the cached image tokens.
    """

    def __init__(self, model: Model, most_bytes: int = KEPT_BYTES) -> None:
        self.model, self.most_bytes = model, most_bytes
        self._kept: OrderedDict[str, Tokens] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def scores(self, text: str, paths: Mapping[str, str], cosines: Mapping[str, float]) -> dict[str, float]:
        """`shares` of images, by id; images whose files are missing or broken are left out.

        Args:
            text: the sentence.
            paths: id -> file. An id stands for one content, even if the file changes.
            cosines: id -> cosine of the image to the query.
        """
        names, found = list(paths), dict[str, float]()
        for start in range(0, len(names), ENCODE_AT_ONCE):
            read = self._read({name: paths[name] for name in names[start : start + ENCODE_AT_ONCE]})
            if read:
                found |= dict(zip(read, evidence(self.model, text, Tokens.joined(list(read.values()))), strict=True))
        if not found:
            return {}
        probabilities = shares(self.model, [cosines[name] for name in found], list(found.values()))
        return dict(zip(found, probabilities, strict=True))

    def _read(self, paths: Mapping[str, str]) -> dict[str, Tokens]:
        """Id -> tokens of one row, in the order given; images that cannot be read are left out."""
        with self._lock:
            known = {name: self._kept[name] for name in paths if name in self._kept}
        ready = dict[str, Tensor]()
        for name, path in paths.items():
            if name not in known:
                with suppress(ImageError):
                    ready[name] = self.model.prepare(path)
        if ready:
            tokens = self.model.pipeline.encode_pixels(torch.stack(list(ready.values())))
            known |= {name: tokens.rows(torch.tensor([row])) for row, name in enumerate(ready)}
        found = {name: known[name] for name in paths if name in known}
        self._keep(found)
        return found

    def _keep(self, found: Mapping[str, Tokens]) -> None:
        with self._lock:
            for name, tokens in found.items():
                if name not in self._kept:
                    self._kept[name] = tokens
                    self._bytes += tokens.nbytes
                self._kept.move_to_end(name)
            while self._bytes > self.most_bytes and self._kept:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
