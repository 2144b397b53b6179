"""Attention on a CPU: two matrix products against torch's fused kernel, forward and backward.

Command: python benchmarks/attention.py [--rows 3072] [--keys 9] [--width 128] [--causal]

The defaults are the demo's questions; `--rows 64 --keys 208 --width 256 --causal` is a prior that draws 144 tokens
after a caption of 64.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.core.device import keep_freed_memory
from chiasm.models.transformer import causal, matrix_attention
from timing import compare, show


def products(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> None:
    """Forward and backward of two products."""
    matrix_attention(query, key, value, allowed).sum().backward()


def fused(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> None:
    """Forward and backward of the fused kernel."""
    F.scaled_dot_product_attention(query, key, value, attn_mask=allowed).sum().backward()


def main() -> None:
    """Both number formats, two and four heads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=3072)
    parser.add_argument("--keys", type=int, default=9)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--causal", action="store_true")
    given = parser.parse_args()
    keep_freed_memory()
    allowed = causal(given.keys, torch.device("cpu")) if given.causal else None
    for dtype in (torch.float32, torch.bfloat16):
        for heads in (2, 4):
            shape = (given.rows, heads, given.keys, given.width // heads)
            tensors = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
            found = compare(
                {
                    "matrix products": partial(products, *tensors, allowed),
                    "scaled_dot_product_attention": partial(fused, *tensors, allowed),
                }
            )
            show(f"{given.rows} rows, {dtype}, {heads} heads, {torch.get_num_threads()} threads", found)


if __name__ == "__main__":
    main()
