"""The discrete variational autoencoder's quantiser: a softmax over the codes, relaxed by Gumbel noise in training.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1 and appendix A; Jang et al. 2017 and Maddison et
al. 2017 for the relaxation. Here the logits may start as distances from the centres of k-means, and not at random.

Axis legend: m vectors, d width, k codes.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.shared_draws import RowDraws
from chiasm.models.codebooks.kmeans import k_means
from chiasm.models.codebooks.quantizer import (
    Quantised,
    Quantizer,
    QuantizerConfig,
    as_stored,
    check_above,
    nearest_exactly,
    straight_through,
)

COPY_NOISE = 0.05
"""Standard deviation of the noise of a copied code, as a share of that of the vectors."""
START_LOGIT = 8.0
"""Initial logit difference, at the mean distance of a vector from its second code, between that code and the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GumbelConfig(QuantizerConfig):
    """A softmax over the codes with Gumbel noise and a falling temperature, as published for DALL-E."""

    kind: Literal["gumbel"] = "gumbel"
    codes: int = 512
    """Number of codes."""
    dim: int = 16
    """Width of a code's vector, and of the vector that the logits are computed from."""
    temperature: float = 1.0
    """Temperature at the start."""
    least_temperature: float = 0.0625
    """Temperature at which it stops falling; published: 1/16."""
    anneal_rate: float = 1e-3
    """Rate r of the temperature max(least, start exp(-r step)), a step."""
    kl_weight: float = 0.0
    """Factor, a position, of the divergence from the uniform distribution over codes. The published value is 6.6
    times positions over pixels: 6.6 / 64 with a stride of 8 pixels."""

    def build(self, side_px: int) -> Quantizer:
        """See `QuantizerConfig.build`."""
        return GumbelQuantizer(self)

    def check(self, where: str) -> None:
        """See `QuantizerConfig.check`."""
        check_above(where, "codes", self.codes, 1)
        for key in ("dim", "temperature", "least_temperature"):
            check_above(where, key, getattr(self, key), 0)


class GumbelQuantizer(Quantizer):
    """Vectors -> logits -> a mixture of codes in training, the most probable code otherwise.

    Args:
        config: sizes and temperatures.
    """

    def __init__(self, config: GumbelConfig) -> None:
        super().__init__()
        self.config, self.codes, self.dim = config, config.codes, config.dim
        self.logits = nn.Linear(config.dim, config.codes)
        self.book = nn.Parameter(torch.randn(config.codes, config.dim))

    def temperature(self, step: int) -> float:
        """Temperature after `step` steps."""
        return max(self.config.least_temperature, self.config.temperature * math.exp(-self.config.anneal_rate * step))

    def forward(self, latents: Float[Tensor, "m d"], step: int) -> Quantised:
        """The relaxed mixture of codes, and the weighted divergence from the uniform distribution.

        Outside training the most probable code, straight-through.
        """
        logits = self._logits(latents)
        ids, book = logits.argmax(1), as_stored(self.book.float())
        penalty = self.config.kl_weight * kl_from_uniform(logits)
        if not self.training:
            mixed = logits.softmax(1) @ book
            return Quantised(straight_through(mixed, book[ids]), ids, penalty)
        noise = -(-RowDraws(logits).uniform().clamp_min(torch.finfo(torch.float32).tiny).log()).log()
        shares = ((logits + noise) / self.temperature(step)).softmax(1)
        return Quantised(shares @ book, ids, penalty)

    @torch.no_grad()
    def ids(self, latents: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """The most probable code of each vector."""
        return self._logits(latents).argmax(1)

    def vectors(self, ids: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """The vector of each code."""
        return as_stored(self.book.float())[ids]

    def ids_of(self, vectors: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """The code that each vector belongs to."""
        return nearest_exactly(vectors, as_stored(self.book.float()))

    def start(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """Take the centres of k-means as codes, and logits that fall with the squared distance from them.

        -s |z - c|^2 and 2 s z c - s |c|^2 differ by s |z|^2 alone, which no softmax sees, so a linear layer has them.
        Codes beyond the centres are copies of them, each with a little noise.
        """
        centres, _ = k_means(latents, self.codes, seed)
        noise = torch.randn(self.codes, self.dim, generator=torch.Generator().manual_seed(seed)).to(centres.device)
        is_copy = torch.arange(self.codes, device=centres.device)[:, None] >= len(centres)
        turns = -(-self.codes // len(centres))
        spread = (latents - latents.mean(0)).square().mean().sqrt()
        centres = centres.repeat(turns, 1)[: self.codes] + COPY_NOISE * spread * noise * is_copy
        near = torch.cdist(latents, centres).square().topk(2, largest=False).values
        slope = START_LOGIT / float((near[:, 1] - near[:, 0]).mean().clamp_min(1e-6))
        self.book.data.copy_(centres)
        self.logits.weight.data.copy_(2 * slope * centres)
        self.logits.bias.data.copy_(-slope * centres.square().sum(1))

    def _logits(self, latents: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        return nn.functional.linear(latents, self.logits.weight.float(), self.logits.bias.float())


def kl_from_uniform(logits: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
    """Divergence KL(q | uniform) = ln k - H(q) of each position, in nats: from 0 to ln k.

    One number a position, so that its mean depends neither on the batch nor on the number of positions.
    """
    log_share = logits.log_softmax(1)
    return (log_share.exp() * log_share).sum(1) + math.log(logits.shape[1])
