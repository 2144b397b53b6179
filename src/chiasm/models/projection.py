"""Projection of a tower's pooled vector into the space that pictures and sentences share."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.errors import InputError


class Projection(nn.Module):
    """Pooled vector [n, d] -> unit vector [n, e], float32.

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
        """Project and normalise; any floating dtype in, float32 out."""
        return F.normalize(self.layers(pooled).float(), dim=-1)


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
        """Project and normalise; any floating dtype in, float32 out."""
        projected = pooled if self.linear is None else self.linear(pooled)
        return F.normalize(projected.float(), dim=-1)


def build_projection(
    kind: Literal["norm", "linear", "none"], inputs: int, outputs: int, hidden: int, dropout: float
) -> Projection | PlainProjection:
    """The projection that a tower's config names."""
    if kind == "norm":
        return Projection(inputs, outputs, hidden, dropout)
    return PlainProjection(inputs, outputs, kind == "linear")
