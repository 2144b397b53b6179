"""The contract of a projector: an image tower's tokens -> tokens of the width of a language model's word embeddings.

Axis legend: k images, l tokens of the tower, c their width, p tokens of the projector, e width of word embeddings.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens


@dataclass(frozen=True, slots=True)
class BridgeShape:
    """Sizes that a projector takes from the model."""

    image_dim: int
    """Width c of the image tower's tokens."""
    text_dim: int
    """Width e of the word embeddings."""
    grid_of: Callable[[int], tuple[int, int]]
    """Number of tokens -> rows and columns of the grid behind them; further tokens (class token) stand first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectorConfig(ABC):
    """The projector; `kind` is a key of `models.bridge.PROJECTORS`."""

    kind: str = ""
    output_norm: bool = True
    """Normalise the projected tokens to the size of the language model's word embeddings (a LayerNorm whose gain starts
    at their root mean square), which repairs the mismatch of norms (arXiv 2605.07367)."""

    @abstractmethod
    def build(self, shape: BridgeShape) -> nn.Module:
        """The module, Tokens [k, l, c] -> Tokens [k, p, e]."""

    def check(self, where: str) -> None:  # noqa: B027 - most kinds have nothing to check
        """Check ranges that the types do not express.

        Args:
            where: the section's name in the config.

        Raises:
            InputError: a value out of its range.
        """


class TokenwiseProjector(nn.Module):
    """A projector that changes each token by itself, after a LayerNorm.

    Args:
        image_dim: width of the tokens.
        change: module [..., c] -> [..., e].
        has_norm: whether there is the LayerNorm.
    """

    def __init__(self, image_dim: int, change: nn.Module, has_norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(image_dim) if has_norm else nn.Identity()
        self.change = change

    def forward(self, tokens: Tokens) -> Tokens:
        """As many tokens as before."""
        return Tokens(self.values(tokens.values), tokens.is_real, tokens.pooled)

    def values(self, values: Float[Tensor, "k l c"]) -> Float[Tensor, "k l e"]:
        """The tokens' numbers."""
        return cast(Tensor, self.change(self.norm(values)))
