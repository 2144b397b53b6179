"""The recipe `captions` on Flickr8k, whose numbers are known."""

from dataclasses import replace

from chiasm.core.run_config import RunConfig
from chiasm.recipes.captions import captions


def flickr8k_captions(tiny: bool = False) -> RunConfig:
    """The recipe `captions` as it was measured on Flickr8k: it looks at the 7 x 7 grid of EfficientNet-Lite0.

    Command: chiasm train flickr8k_captions --data FLICKR8K --out runs/captions
    Cost: 27 minutes on one busy core of an AMD EPYC (bf16), once 7,000 photos are encoded (5 minutes).
    Expect, on the 1,000 validation photos with five captions each: Bleu_4 0.210, CIDEr 0.488; with shuffled photos
    0.052 and 0.070.
    """
    return replace(captions(tiny), recipe="flickr8k_captions")
