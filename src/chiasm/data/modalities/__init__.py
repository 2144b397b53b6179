"""Modalities: one file each; this table is where an encoder's `modality` finds its class.

An entry may be added at run time: `MODALITIES["mine"] = Mine()`.
"""

from chiasm.data.modalities.base import Modality
from chiasm.data.modalities.image import ImageModality

MODALITIES: dict[str, Modality] = {one.name: one for one in (ImageModality(),)}
