"""The 1,000 classes of ImageNet as a shared space of images and texts, with nothing to train.

After Norouzi et al. 2014 (ConSE, "Zero-Shot Learning by Convex Combination of Semantic Embeddings"), who represent an
image by the probabilities of classes, and Frome et al. 2013 (DeViSE), who embed class names as words. Here both sides
are vectors over the classes: a text is a mixture of the classes whose names are nearest to it.

Axis legend: n images, m texts, c = 1000 classes, d numbers of a pooled vector, e numbers of the shared space.
"""

from dataclasses import dataclass
from importlib.resources import files

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CLASSES_FILE = "imagenet_classes.txt"
CLASSES = 1000
TOP_CLASSES, CLASS_TEMPERATURE, WORD_TEMPERATURE = 20, 1.5, 0.15
"""Chosen on the training images of cifar10_subset and Flickr8k (docs/log.md)."""


@dataclass(frozen=True, slots=True)
class ImageNetClass:
    """One class of ILSVRC 2012: its synonyms, the most common first, and its hypernym, or ""."""

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


class FixedLinear(nn.Module):
    """A linear layer that is not trained: its weight [outputs, inputs] and bias [outputs] are buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """Apply the layer in float32."""
        return F.linear(x.float(), self.weight.float(), self.bias.float())


class ClassDistribution(nn.Module):
    """Pooled image [n, d] -> unit vector [n, c]: the square roots of the classes' probabilities.

    Images without content also get likely classes. Their mean logits are subtracted first, so that classes with a high
    prior do not dominate (contextual calibration, Zhao et al. 2021, section 4). The classifier reads the first numbers
    of the pooled vector, as many as its weight has columns.

    Args:
        weight: of the classifier, [c, features]; not trained.
        bias: of the classifier, [c].
        offset: subtracted from the logits, float32 [c].
        temperature: divisor of the logits.
    """

    offset: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, offset: Tensor, temperature: float = CLASS_TEMPERATURE) -> None:
        super().__init__()
        self.classifier = FixedLinear(weight.detach(), bias.detach())
        self.features, self.temperature = weight.shape[1], temperature
        self.register_buffer("offset", offset)

    def forward(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Classify, float32; the product of two such vectors is their Bhattacharyya coefficient, in [0, 1]."""
        logits = self.classifier(pooled[:, : self.features]) - self.offset.float()
        return (logits / self.temperature).softmax(-1).sqrt()


class ClassMixture(nn.Module):
    """Pooled text [m, e] -> unit vector [m, c]: the square roots of the shares of the classes nearest in meaning.

    The mean of all class vectors is subtracted, because it does not distinguish classes.

    Args:
        vectors: class vectors of unit length, float32 [c, e].
        top: number of nearest classes in the mixture.
        temperature: divisor of the cosines.
    """

    vectors: Tensor
    mean: Tensor

    def __init__(self, vectors: Tensor, top: int = TOP_CLASSES, temperature: float = WORD_TEMPERATURE) -> None:
        super().__init__()
        self.top, self.temperature = top, temperature
        self.register_buffer("mean", vectors.mean(0))
        self.register_buffer("vectors", F.normalize(vectors - vectors.mean(0), dim=-1))

    def forward(self, pooled: Float[Tensor, "m e"]) -> Float[Tensor, "m c"]:
        """Mixture of the nearest classes, float32."""
        apart = F.normalize(F.normalize(pooled.float(), dim=-1) - self.mean.float(), dim=-1)
        cosine, chosen = (apart @ self.vectors.float().T).topk(self.top)
        shares = (cosine / self.temperature).softmax(-1).sqrt()
        return torch.zeros(pooled.shape[0], len(self.vectors), device=pooled.device).scatter(1, chosen, shares)


def class_vectors(unit: Float[Tensor, "s e"], counts: list[int]) -> Float[Tensor, "c e"]:
    """Mean of each class's sentence vectors at unit length; `counts` says how many sentences each class has."""
    return torch.stack([F.normalize(part.mean(0), dim=-1) for part in unit.split(counts)])
