"""Dual encoders read from a folder: CLIP, SigLIP, Chinese-CLIP, VisionTextDualEncoder.

Reads both towers, the projections into the shared space, the temperature and SigLIP's bias. A folder whose files
disagree on how its weights were trained is refused: nothing would fail later, but every number would be wrong.

Axis legend: d width of a tower's vector, e width of the shared space.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.models.encoders.hugging_face import FIRST_TOKEN, HuggingFaceImageEncoder, HuggingFaceTextEncoder
from chiasm.models.pretrained.hugging_face_folder import (
    Pooled,
    Preprocessing,
    TowerSpec,
    check_picture_size,
    checked_folder,
    read_architecture,
    read_network,
    read_preprocessing,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "chinese_clip": "ChineseCLIPModel",
    "vision-text-dual-encoder": "VisionTextDualEncoderModel",
}
"""`model_type` of a folder -> the class of transformers that it holds."""
OPEN_CLIP_CONFIG = "open_clip_config.json"
QUICK_GELU_WEIGHTS = re.compile(
    r"(?<![a-z0-9])(openai|metaclip[-_](?:[a-z0-9]+[-_])?(?:400m|fullcc))(?![a-z])", re.IGNORECASE
)
"""Names of published weights that were trained with QuickGELU, whatever the folder's architecture says: OpenAI's
(Radford et al. 2021) and the first MetaCLIP's (Xu et al. 2024), by open_clip's table of pretrained weights."""


@dataclass(frozen=True, slots=True, eq=False)
class DualEncoder:
    """Two towers in evaluation mode, and the parameters of their shared space."""

    family: str
    """A key of `FAMILIES`."""
    image: HuggingFaceImageEncoder
    text: HuggingFaceTextEncoder
    projections: tuple[Tensor, Tensor] | None
    """Weights of the image and text projections, float32 [e, d]; None where the towers end in the space (SigLIP)."""
    logit_scale: Tensor
    """Natural logarithm of the logit scale, the factor on the cosine, float32 []."""
    logit_bias: Tensor | None
    """Bias added to the scaled cosine, float32 [] (SigLIP); None where there is none."""

    @property
    def embedding_dim(self) -> int:
        """Width of the shared space."""
        return self.image.dim if self.projections is None else len(self.projections[0])


def read_dual_encoder(name: str) -> DualEncoder:
    """Read a folder in Hugging Face layout that holds both towers.

    Args:
        name: folder; nothing is downloaded, and no code in it is run.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: another architecture, a missing file or weight, or parts that were trained differently.
    """
    from transformers import AutoModel

    folder = checked_folder(name, "the model")
    config = read_architecture(folder)
    if config.model_type not in FAMILIES:
        raise InputError(
            f"{folder} holds a {config.model_type}", "a dual encoder: " + ", ".join(FAMILIES), "give another folder"
        )
    preprocessing = read_preprocessing(folder)
    check_picture_size(config.vision_config, preprocessing, folder)
    check_trained_as(folder, config, preprocessing)
    both: Any = read_network(folder, AutoModel)
    pooled: Pooled = "first" if config.text_config.model_type in FIRST_TOKEN else "pooler"
    image = HuggingFaceImageEncoder(
        both.vision_model, TowerSpec(config.vision_config.to_dict(), "pooler", preprocessing)
    )
    text = HuggingFaceTextEncoder(both.text_model, TowerSpec(config.text_config.to_dict(), pooled))
    has_projections = hasattr(both, "visual_projection")
    bias = getattr(both, "logit_bias", None)
    return DualEncoder(
        config.model_type,
        image,
        text,
        (both.visual_projection.weight.detach(), both.text_projection.weight.detach()) if has_projections else None,
        both.logit_scale.detach().reshape(()),
        None if bias is None else bias.detach().reshape(()),
    )


def check_trained_as(folder: Path, config: "PreTrainedConfig", preprocessing: Preprocessing) -> None:
    """Refuse a folder whose files disagree on the activation or the preprocessing of its weights.

    Published folders often hold open_clip's description beside that of transformers; both describe the same weights.

    Raises:
        InputError: towers of different activations, weights known to need QuickGELU without it, or another activation,
            size or normalisation in `open_clip_config.json`.
    """
    if config.model_type != "clip":
        return
    acts = config.vision_config.hidden_act, config.text_config.hidden_act
    if acts[0] != acts[1]:
        raise InputError(
            f"{folder}: the image tower has the activation {acts[0]}, the text tower {acts[1]}",
            "one activation in both: CLIP is trained with one",
            "take config.json as its authors published it",
        )
    check_quick_gelu(folder, acts[0] == "quick_gelu", [str(getattr(config, "_name_or_path", ""))])
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        return
    description = read_json(folder / OPEN_CLIP_CONFIG, "open_clip's description")
    model, pixels = (
        description.get(key) if isinstance(description, dict) else None for key in ("model_cfg", "preprocess_cfg")
    )
    if isinstance(model, dict) and bool(model.get("quick_gelu")) != (acts[0] == "quick_gelu"):
        raise InputError(
            f"{folder}: config.json says {acts[0]}, {OPEN_CLIP_CONFIG} quick_gelu {bool(model.get('quick_gelu'))}",
            "one activation; with another than in training every number is wrong and nothing fails",
            "find out from the model's page which one is right, and correct the other file",
        )
    for key, ours in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        theirs = pixels.get(key) if isinstance(pixels, dict) else None
        if isinstance(theirs, list) and not _close(theirs, ours):
            raise InputError(
                f"{folder}: preprocessor_config.json has the {key} {list(ours)}, {OPEN_CLIP_CONFIG} {theirs}",
                "one normalisation of images: both files describe the same weights",
                "find out from the model's page which one is right, and correct the other file",
            )


def check_quick_gelu(folder: Path, is_quick: bool, names: list[str]) -> None:
    """Refuse GELU for weights that are known to have been trained with QuickGELU.

    Args:
        folder: the folder; its name is compared with the known names too.
        is_quick: whether the folder's config has QuickGELU.
        names: other names of the weights: a tag, a file's name.

    Raises:
        InputError: names the weights and the key to correct.
    """
    found = None if is_quick else QUICK_GELU_WEIGHTS.search(" ".join([folder.resolve().name, *names]))
    if found:
        raise InputError(
            f"{folder}: weights named {found[1]!r} with the activation GELU",
            "QuickGELU, with which these weights were trained; GELU gives other features and nothing fails",
            "set quick_gelu to true in open_clip_config.json (hidden_act to quick_gelu in config.json); "
            f"or rename what is called {found[1]!r} where the weights are others",
        )


def _close(one: list[Any], other: tuple[float, ...]) -> bool:
    same = len(one) == len(other) and all(isinstance(value, int | float) for value in one)
    return same and torch.allclose(torch.tensor(one), torch.tensor(other), rtol=0, atol=1e-4)
