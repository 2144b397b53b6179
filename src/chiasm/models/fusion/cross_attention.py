"""Cross-attention fusion: text tokens look at image tokens (ALBEF, Li et al. 2021, section 3.1)."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.transformer import Block, init_weights, masked_mean, may_look_at


class CrossAttentionFusion(nn.Module):
    """dict of Tokens -> Tokens of the text's length, each having looked at the picture.

    Against its neighbours: merged attention lets pictures look at words too and costs (l_image + l_text)^2; this
    keeps the picture's tokens fixed, so one encoded picture serves many questions.

    Args:
        dim: token width of both inputs.
        layers: blocks of self-attention, cross-attention, MLP.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
    """

    def __init__(self, dim: int, layers: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.dim = dim
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, context_dim=dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)

    def forward(self, tokens: dict[str, Tokens], image_index: Int[Tensor, " m"] | None = None) -> Tokens:
        """Fuse `tokens["text"]` with `tokens["image"]`; without an image the text looks at itself alone.

        Args:
            tokens: "text" of m rows, "image" of m rows, or of n rows with an `image_index`.
            image_index: which picture each text belongs to, so that many texts share an encoded picture.
        """
        text = tokens["text"]
        x: Float[Tensor, "m q d"] = text.values
        image = tokens.get("image")
        is_real = None if image is None else image.is_real if image_index is None else image.is_real[image_index]
        for block in self.blocks:
            x = block(
                x,
                allowed=may_look_at(text.is_real),
                context=None if image is None else image.values,
                context_allowed=None if is_real is None else may_look_at(is_real),
                context_index=None if image is None else image_index,
            )
        x = self.norm(x)
        return Tokens(x, text.is_real, masked_mean(x, text.is_real))
