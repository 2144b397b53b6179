"""Projection of a tower's pooled vector into the space that pictures and sentences share."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
