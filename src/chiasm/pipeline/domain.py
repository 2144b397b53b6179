"""Out-of-domain detection: distance of an image and a text from a run's training data, fitted after training.

The distance is reported beside an answer (`Prediction.domain`); no answer and no score depends on it. Densities are
fitted on training examples. Limits are set so that `REFUSED_SHARE` of validation exceeds them, separately for images
and for texts. A run folder without the file (an older run, an imported model) has no distances.

File `domain.safetensors`: arrays of `domain_densities`, named "image.*", and "captions.*" or "questions.*" by the
texts that the run's tasks read, with the format version in its metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import Domain, Tokens
from chiasm.pipeline.domain_densities import Arrays, FeatureGaussian, FloatArray, WordModel

FILE = "domain.safetensors"
FORMAT = 1
"""Version of the file."""
METADATA_KEY = "domain"
"""Key of the JSON entry in the file's metadata."""
REFUSED_SHARE = 0.01
"""Share of validation's images, and of its texts, that lies beyond the limit."""


def image_features(image: Tokens, takes_mean: bool) -> FloatArray:
    """Features of encoded images for the density: float64 [n, d].

    Args:
        image: n encoded images.
        takes_mean: take the mean of the tokens, not `pooled` (which ViLT's network does not make of an image alone).
    """
    if not takes_mean:
        return image.pooled.double().cpu().numpy()
    real = image.is_real[..., None].double()
    return ((image.values.double() * real).sum(1) / real.sum(1).clamp(min=1)).cpu().numpy()


@dataclass(frozen=True, slots=True, eq=False)
class DomainModel:
    """Densities of a run's training data, with limits.

    Args:
        images: density of image features; None where none was fitted.
        texts: kind of text that tasks read ("captions", "questions") -> density of these.
        takes_mean: as of `image_features`.
    """

    images: FeatureGaussian | None = None
    texts: Mapping[str, WordModel] = field(default_factory=dict)
    takes_mean: bool = False

    @torch.no_grad()
    def judge(
        self, image: Tokens, of: Sequence[int] | None = None, texts: Sequence[str] = (), kind: str = ""
    ) -> list[Domain]:
        """Compute the distance of inputs from the training data.

        Args:
            image: n encoded images, as `Pipeline.encode_pixels` returns them.
            of: image row of each result; None is each row once.
            texts: a text for each result, or none.
            kind: "captions" or "questions", what the texts are.
        """
        features = image_features(image, self.takes_mean)
        far = [None] * len(features) if self.images is None else self.images.distances(features).tolist()
        rows = range(len(features)) if of is None else of
        density = self.texts.get(kind)
        if density is None or not texts:
            return [Domain(far[row]) for row in rows]
        distances = density.distances(texts).tolist()
        return [
            Domain(far[row], distance, density.unknown(text))
            for row, distance, text in zip(rows, distances, texts, strict=True)
        ]

    def to_bytes(self) -> bytes:
        """The file."""
        parts: dict[str, Arrays] = {kind: model.arrays() for kind, model in self.texts.items()}
        if self.images is not None:
            parts["image"] = self.images.arrays()
        arrays = {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}
        # One entry: safetensors writes several in an order that differs from process to process.
        metadata = {METADATA_KEY: json.dumps({"format": FORMAT, "takes_mean": self.takes_mean})}
        return safetensors.numpy.save(
            {name: np.ascontiguousarray(one) for name, one in sorted(arrays.items())}, metadata
        )

    @classmethod
    def read(cls, folder: Path) -> "DomainModel | None":
        """Read a run folder's file; None where the run has none.

        Raises:
            InputError: another format version.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        with safetensors.safe_open(path, framework="np") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"{path} has format version {metadata.get('format')!r}",
                    f"format version {FORMAT}",
                    "use the version of chiasm that wrote it, or train again",
                )
            parts: dict[str, Arrays] = {}
            for name in file.keys():  # noqa: SIM118 - the file is no dict
                part, _, array = name.partition(".")
                parts.setdefault(part, {})[array] = file.get_tensor(name)
        image = parts.pop("image", None)
        images = None if image is None else FeatureGaussian.from_arrays(image)
        texts = {kind: WordModel.from_arrays(arrays) for kind, arrays in parts.items()}
        return cls(images, texts, bool(metadata["takes_mean"]))
