"""Caption decoder: causal text blocks that look at image tokens (BLIP's image-grounded decoder, Li et al. 2022)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.transformer import POSITION_STD, Block, KeyValueCache, causal, init_weights, may_look_at


class CaptionDecoder(nn.Module):
    """Predicts the next word from the words so far and a picture.

    Args:
        text: the text tower that gives width, vocabulary and longest text; its embedding is passed to each call.
        layers: blocks of causal self-attention, cross-attention, MLP.
        heads: attention heads.
    """

    def __init__(self, text: TextEncoder, layers: int, heads: int) -> None:
        super().__init__()
        dim = text.dim
        self.max_tokens = text.max_tokens
        self.position = nn.Parameter(torch.randn(text.max_tokens, dim) * POSITION_STD)
        self.blocks = nn.ModuleList(Block(dim, heads, context_dim=dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.to_words = nn.Linear(dim, text.embedding.num_embeddings)
        self.apply(init_weights)

    def forward(
        self,
        embedding: nn.Embedding,
        ids: Int[Tensor, "n l"],
        image: Tokens,
        caches: list[KeyValueCache] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "n l v"]:
        """Logits of the word after each given word.

        With `caches` (one a block), `ids` are the newest words only, standing at position `start`; the answer
        is the same as without, token for token. Padding stands on the right, so a causal mask hides it.
        """
        x = embedding(ids) + self.position[start : start + ids.shape[1]]
        allowed = causal(ids.shape[1], ids.device) if caches is None else None
        for number, block in enumerate(self.blocks):
            x = block(
                x,
                allowed=allowed,
                context=image.values,
                context_allowed=may_look_at(image.is_real),
                cache=None if caches is None else caches[number],
            )
        return self.to_words(self.norm(x))

    @torch.no_grad()
    def generate(self, embedding: nn.Embedding, image: Tokens, start_id: int, end_id: int) -> tuple[Tensor, Tensor]:
        """Greedy decoding with a key-value cache.

        Returns:
            ids int64 [n, l] without the start token, filled with `end_id` after the end; and the mean
            log-probability of each row's words, float32 [n].
        """
        rows, device = image.values.shape[0], image.values.device
        caches = [KeyValueCache() for _ in self.blocks]
        last = torch.full((rows, 1), start_id, dtype=torch.long, device=device)
        done = torch.zeros(rows, dtype=torch.bool, device=device)
        total, count = torch.zeros(rows, device=device), torch.zeros(rows, device=device)
        words: list[Tensor] = []
        for position in range(self.max_tokens - 1):
            logits = self(embedding, last, image, caches, position)[:, -1].float()
            best = logits.log_softmax(-1).max(-1)
            last = torch.where(done, end_id, best.indices)[:, None]
            total += best.values.masked_fill(done, 0)
            count += (~done).float()
            words.append(last)
            done |= last[:, 0] == end_id
            if bool(done.all()):
                break
        return torch.cat(words, dim=1), total / count.clamp_min(1)
