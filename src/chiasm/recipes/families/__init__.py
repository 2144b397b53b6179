"""Published model families, one file each; their functions take `tiny` and `files`."""

from chiasm.recipes.families.additive import additive
from chiasm.recipes.families.albef import albef
from chiasm.recipes.families.blip import blip
from chiasm.recipes.families.clip import clip
from chiasm.recipes.families.coca import coca
from chiasm.recipes.families.siglip import siglip
from chiasm.recipes.families.vilt import vilt
from chiasm.recipes.families.visualbert import visualbert
from chiasm.recipes.families.xlnet_vqa import xlnet_vqa

FAMILIES = {
    "clip": clip,
    "siglip": siglip,
    "additive": additive,
    "vilt": vilt,
    "visualbert": visualbert,
    "albef": albef,
    "blip": blip,
    "coca": coca,
    "xlnet_vqa": xlnet_vqa,
}
"""Recipe name -> function."""
