"""FiLM: the text scales and shifts the channels of the image's tokens (Perez et al. 2018).

Axis legend: m rows of the text, r rows of the tokens, l tokens, d width.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.base import Fusion, FusionInputs, FusionShape, Join, take
from chiasm.models.fusion.pooled import one_token
from chiasm.models.transformer import init_weights


class FilmBlock(nn.Module):
    """h = gelu(W_1 x), then h + gelu((1 + gamma) * LayerNorm(W_2 h) + beta), with [gamma; beta] = W_c T + b.

    Perez et al.'s residual block with maps of 1 x 1, since tokens may have no grid, and with LayerNorm for its batch
    normalisation, so that a row does not depend on its batch; both without weights of their own before the
    modulation, as there.

    Args:
        dim: token width.
        dropout: probability in [0, 1) on the residual branch.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.condition = nn.Linear(dim, 2 * dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "r l d"], text: Float[Tensor, "m d"], index: Int[Tensor, " m"] | None
    ) -> Float[Tensor, "m l d"]:
        """Modulate; rows that texts share (`index`) are mapped before they are repeated."""
        hidden = F.gelu(self.first(x))
        normed = take(self.norm(self.second(hidden)), index)
        gamma, beta = self.condition(text)[:, None].chunk(2, dim=-1)
        return take(hidden, index) + self.dropout(F.gelu((1 + gamma) * normed + beta))


class FilmFusion(Fusion):
    """`layers` FiLM blocks over the image's tokens, their maximum over tokens, LayerNorm: one vector a row.

    The text chooses channels (such as "red") in every token alike, and the maximum then finds whether a token had
    them: attention without comparing tokens, in 4 d^2 weights a block and linear time. It sees which colour belongs
    to which shape, which `sum` to `bilinear` cannot, as they meet the image's mean; it cannot relate two tokens, as
    the attention methods do. `values` is [m, 1, d].

    Args:
        shape: sizes; `layers` counts FiLM blocks, `heads` and `mlp_ratio` are not used.
    """

    keeps_words = False
    reads_pooled = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        self.join = Join(shape.modalities[1:], shape.dim)
        self.blocks = nn.ModuleList(FilmBlock(shape.dim, shape.dropout) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        self.apply(init_weights)

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Modulate the others' tokens by the text's pooled vector; see the class."""
        text, others, index, _ = inputs
        x, is_real = self.join(others)
        is_real = take(is_real, index)
        for number, block in enumerate(self.blocks):
            x = block(x, text.pooled, None if number else index)
        x = x.masked_fill(~is_real[..., None], float("-inf")).amax(1)
        return one_token(self.norm(x))
