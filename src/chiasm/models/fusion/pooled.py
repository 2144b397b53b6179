"""Base of the methods that fuse one pooled vector of each modality.

Axis legend: m rows of the text, n rows of the other modalities, d width, w width after the modalities' maps.
"""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.base import Fusion, FusionInputs, FusionShape, take


class PooledFusion(Fusion):
    """Base of the methods whose input is the `pooled` vector of each modality. Leaves implement `combine`.

    A linear map a modality, `combine`, `shape.layers` residual MLPs, LayerNorm. Linear in the number of rows and
    blind to tokens: two images with the same mean are the same image (which colour belongs to which shape is
    lost). `values` is [m, 1, d], the fused vector as a token. An image is mapped once, however many texts share it.

    Args:
        shape: sizes; `layers` counts the residual MLPs after fusing, `heads` is not used.
        width: outputs of each modality's map.
    """

    keeps_words = False
    reads_pooled = True
    least_layers = 0

    def __init__(self, shape: FusionShape, width: int) -> None:
        super().__init__(shape)
        self.maps = nn.ModuleDict({name: nn.Linear(shape.dim, width) for name in shape.modalities})
        self.mlps = nn.ModuleList(ResidualMlp(shape.dim, shape.mlp_ratio, shape.dropout) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)

    @abstractmethod
    def combine(self, mapped: list[Float[Tensor, "m w"]]) -> Float[Tensor, "m d"]:
        """Mapped vectors, in the order of `shape.modalities` -> one vector a row."""

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Fuse the pooled vectors; see the class."""
        text, others, index, _ = inputs
        mapped = [self.maps[self.shape.modalities[0]](text.pooled)]
        mapped += [take(self.maps[name](part.pooled), index) for name, part in others.items()]
        x = self.combine(mapped)
        for mlp in self.mlps:
            x = mlp(x)
        return one_token(self.norm(x))


class ResidualMlp(nn.Module):
    """x + MLP(LayerNorm(x)): a transformer block without attention.

    Args:
        dim: width of input and output.
        mlp_ratio: hidden width over `dim`.
        dropout: probability in [0, 1) on the residual branch.
    """

    def __init__(self, dim: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """Return x + MLP(LayerNorm(x))."""
        return x + self.layers(x)


def one_token(x: Float[Tensor, "m d"]) -> Tokens:
    """A fused vector as Tokens of length 1."""
    # The shape and not len(x), which is a constant to a tracer.
    return Tokens(x[:, None], x.new_ones(x.shape[0], 1).bool(), x)
