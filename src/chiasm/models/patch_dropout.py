"""Patch dropout: in training, a vision transformer computes a random part of each image's patches.

Li et al. 2023, "Scaling Language-Image Pre-training via Masking" (FLIP, arXiv 2212.00794), section 3: half or three
quarters of the patches are removed, not replaced, so that the tower costs about as much less; the last part of training
sees whole images, which closes the gap to evaluation (section 3, "Unmasking").
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.errors import InputError

GRIDLESS = frozenset(
    {
        "clip_vision_model",
        "chinese_clip_vision_model",
        "siglip_vision_model",
        "blip_vision_model",
        "vit",
        "deit",
        "dinov2",
    }
)
"""Architectures whose layers treat tokens alike, wherever they stand."""


class PatchDropout(nn.Module):
    """Drops patches of what a network's patch embedding returns; in training mode alone, and where `is_on`.

    A forward hook, because transformers' networks have no place for it: positions are added before, so that a patch
    keeps its own.

    Args:
        share: of the patches that are dropped, in (0, 1); at least one is kept.
        patch_px: side of a patch.
    """

    def __init__(self, share: float, patch_px: int) -> None:
        super().__init__()
        self.share, self.patch_px, self.is_on = share, patch_px, True

    def forward(
        self, embedding: nn.Module, images: tuple[Any, ...], tokens: Float[Tensor, "n l d"]
    ) -> Float[Tensor, "n k d"]:
        """Tokens of n images -> the first tokens, such as the class token, and a draw of patches in their order."""
        if not (self.training and self.is_on):
            return tokens
        height, width = images[0].shape[-2:]
        patches = (height // self.patch_px) * (width // self.patch_px)
        first = tokens.shape[1] - patches
        kept = max(round(patches * (1 - self.share)), 1)
        order = torch.rand(len(tokens), patches, device=tokens.device).argsort(dim=1)[:, :kept].sort(dim=1).values
        chosen = order[..., None].expand(-1, -1, tokens.shape[2]) + first
        return torch.cat([tokens[:, :first], tokens.gather(1, chosen)], dim=1)


def add_patch_dropout(network: Any, share: float) -> PatchDropout:
    """Let a vision network of transformers drop patches in training; returns the hook, to be kept as a submodule.

    Raises:
        InputError: the network's first module is no patch embedding, or its later layers need the whole grid.
    """
    embedding, patch_px = getattr(network, "embeddings", None), getattr(network.config, "patch_size", None)
    kind = network.config.model_type
    if embedding is None or not isinstance(patch_px, int) or kind not in GRIDLESS:
        raise InputError(
            f"model.image.patch_dropout {share} with a {kind}",
            "a vision transformer whose layers take any number of tokens: " + ", ".join(sorted(GRIDLESS)),
            "--set model.image.patch_dropout=0",
        )
    dropout = PatchDropout(share, patch_px)
    embedding.register_forward_hook(dropout)
    return dropout


def switch_patch_dropout(model: nn.Module, is_on: bool) -> None:
    """Turn all patch dropout of a model on or off."""
    for module in model.modules():
        if isinstance(module, PatchDropout):
            module.is_on = is_on
