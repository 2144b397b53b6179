"""Quantisers of an image tokenizer, one file each, behind the interface of `codebooks.quantizer`."""

from chiasm.models.codebooks.color_cell import ColorCellConfig
from chiasm.models.codebooks.fsq import ScalarConfig
from chiasm.models.codebooks.gumbel import GumbelConfig
from chiasm.models.codebooks.quantizer import Quantizer, QuantizerConfig
from chiasm.models.codebooks.vector import VectorConfig

QUANTIZERS: dict[str, type[QuantizerConfig]] = {
    "vector": VectorConfig,
    "gumbel": GumbelConfig,
    "fsq": ScalarConfig,
    "color_cell": ColorCellConfig,
}

__all__ = ["QUANTIZERS", "Quantizer", "QuantizerConfig"]
