"""Projection of a tower's pooled vector into the space that images and sentences share."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.encoders.base import ProjectionName
from chiasm.models.encoders.efficientnet_lite import HEAD_CHANNELS
from chiasm.models.encoders.imagenet import CLASSES, ClassDistribution, ClassMixture

HALF = 0.5
"""Share of the classes before another one is set."""


def at_least_float32(vectors: Tensor) -> Tensor:
    """bf16 and fp16 become float32; float32 and float64 stay."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


class Projection(nn.Module):
    """Pooled vector [n, d] -> unit vector [n, e], float32 (float64 of a float64 model).

    LayerNorm first, so that towers of any output scale start alike; then dropout on the normalised vector, which is
    what holds off overfitting where a frozen tower gives some thousand vectors; then a linear map or an MLP.

    Args:
        inputs: width of the tower's pooled vector.
        outputs: width of the shared space.
        hidden: width of the hidden layer; 0 means a single linear map.
        dropout: probability in [0, 1) on the normalised input, and on the hidden layer where there is one.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(inputs), nn.Dropout(dropout), nn.Linear(inputs, hidden or outputs)]
        if hidden:
            layers += [nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Project and normalise; any floating dtype in, float32 out, or float64."""
        return F.normalize(at_least_float32(self.layers(pooled)), dim=-1)


class PlainProjection(nn.Module):
    """Pooled vector [n, d] -> unit vector [n, e], float32, as CLIP and SigLIP were trained: no norm before it.

    For towers that come with their projection; `Projection` starts better from towers of any scale.

    Args:
        inputs: width of the tower's pooled vector.
        outputs: width of the shared space.
        is_linear: False only normalises, for a tower that ends in the shared space (SigLIP).
    """

    def __init__(self, inputs: int, outputs: int, is_linear: bool = True) -> None:
        super().__init__()
        if not is_linear and inputs != outputs:
            raise InputError(
                f"a tower of width {inputs} with projection none and model.embedding_dim {outputs}",
                "equal widths",
                f"--set model.embedding_dim={inputs}, or another projection",
            )
        self.linear = nn.Linear(inputs, outputs, bias=False) if is_linear else None

    def forward(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Project and normalise; any floating dtype in, float32 out, or float64."""
        projected = pooled if self.linear is None else self.linear(pooled)
        return F.normalize(at_least_float32(projected), dim=-1)


class BesideClasses(nn.Module):
    """Pooled vector [n, d] -> unit vector [n, c + e], float32: a place among ImageNet's classes beside a trained one.

    The first c numbers are sqrt(share) times the starter's vector, the others sqrt(1 - share) times the trained one. So
    the cosine of two of them is share * (cosine among the classes) + (1 - share) * (trained cosine): with a share of 1
    the starter's, with 0 that of the trained projection alone. On the idea of WiSE-FT (Wortsman et al. 2022) of a path
    from a zero-shot model to a trained one; here the outputs are mixed, and the share is chosen on validation.

    Args:
        classes: the fixed half: `ClassDistribution` of an image, `ClassMixture` of a text. Its numbers are buffers.
        trained: the other half.
    """

    share: Tensor

    def __init__(self, classes: nn.Module, trained: Projection) -> None:
        super().__init__()
        self.classes, self.trained = classes, trained
        self.register_buffer("share", torch.tensor(HALF))

    def forward(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Place and join; any floating dtype in, float32 out."""
        share = self.share.float()
        # Without a share the classes would cost as much as the rest; an exported graph cannot choose by a value.
        if not torch.compiler.is_exporting() and not share:
            none = pooled.new_zeros(len(pooled), CLASSES, dtype=torch.float32)
            return torch.cat([none, self.trained(pooled)], dim=-1)
        return torch.cat([share.sqrt() * self.classes(pooled), (1 - share).sqrt() * self.trained(pooled)], dim=-1)


AnyProjection = Projection | PlainProjection | BesideClasses
"""What `build_projection` returns."""


def class_heads(model: nn.Module) -> list[BesideClasses]:
    """The projections of images and of texts where both have the classes beside them; else none."""
    heads = [getattr(model, name, None) for name in ("image_projection", "text_projection")]
    found = [one for one in heads if isinstance(one, BesideClasses)]
    return found if len(found) == len(heads) else []


def set_class_share(model: nn.Module, share: float) -> None:
    """Let the classes have this share, in [0, 1], of the cosine of an image and a text."""
    for head in class_heads(model):
        head.share.fill_(share)


def build_projection(
    kind: ProjectionName, inputs: int, outputs: int, hidden: int, dropout: float, side: Literal["image", "text"]
) -> AnyProjection:
    """The projection that a tower's config names; the classes of "classes" are zero until they are loaded."""
    if kind == "classes":
        if outputs <= CLASSES:
            raise InputError(
                f"model.embedding_dim {outputs} with model.{side}.projection classes",
                f"more than {CLASSES}, which the classes take",
                f"--set model.embedding_dim={CLASSES + 512}",
            )
        classes: nn.Module = ClassMixture(torch.zeros(CLASSES, inputs))
        if side == "image":
            classes = ClassDistribution(torch.zeros(CLASSES, HEAD_CHANNELS), torch.zeros(CLASSES), torch.zeros(CLASSES))
        return BesideClasses(classes, Projection(inputs, outputs - CLASSES, hidden, dropout))
    if kind == "norm":
        return Projection(inputs, outputs, hidden, dropout)
    return PlainProjection(inputs, outputs, kind == "linear")
