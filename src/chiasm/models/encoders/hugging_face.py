"""Any vision or text network of transformers as a tower.

ViT, DINOv2, ConvNeXt, BERT, RoBERTa, XLNet, the towers of CLIP, SigLIP, Chinese-CLIP, and so on.

Unlike `efficientnet_lite0` and `minilm`, which are packaged, these come from the user's folder. Preprocessing and
tokenizer are the folder's. The run folder stores all of it, including frozen weights.

Axis legend: n images, m texts, l tokens, d token width, h/w height and width in pixels.
"""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.config import from_dict
from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.types import TextTokens, Tokens
from chiasm.models.encoders.base import TextLimits
from chiasm.models.encoders.clip_image import MODEL_TYPE as CLIP_IMAGE
from chiasm.models.encoders.clip_image import clip_image_vectors, drops_attention
from chiasm.models.encoders.clip_text import MODEL_TYPE as CLIP_TEXT
from chiasm.models.encoders.clip_text import clip_text_vectors, has_ends
from chiasm.models.patch_dropout import PatchDropout, add_patch_dropout
from chiasm.models.pretrained.hugging_face_folder import (
    NETWORK_FILE,
    SPEC_FILES,
    Pooled,
    Preprocessing,
    TowerSpec,
    check_picture_size,
    checked_folder,
    read_architecture,
    read_network,
    read_preprocessing,
    read_spec,
    reading,
)
from chiasm.models.pretrained.recomputation import recomputed
from chiasm.models.transformer import masked_mean

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WITHOUT_MASK = frozenset({"siglip_text_model", "siglip2_text_model"})
"""Text networks that were trained on texts padded to their full length, with attention to the padding."""
OWN_POOLER = frozenset({"clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model"})
OWN_POOLER |= {"siglip2_text_model", "chinese_clip_vision_model", "blip_vision_model"}
"""Networks whose own pooled vector was trained, and is used."""
FIRST_TOKEN = frozenset({"chinese_clip_text_model"})
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "data2vec-text"})
"""Networks whose positions start after the padding id, so that two position embeddings are unused."""


class HuggingFaceImageEncoder(nn.Module):
    """Images -> tokens of a vision network, class token (if any) first, then the grid row by row.

    Args:
        model: a vision network of transformers.
        spec: its preprocessing and pooling.
    """

    def __init__(self, model: "PreTrainedModel", spec: TowerSpec) -> None:
        super().__init__()
        assert spec.preprocessing is not None, "an image tower states its preprocessing"
        self.model, self.spec, self.preprocessing = model, spec, spec.preprocessing
        self.dim = _width(model.config)
        self.patch_dropout: PatchDropout | None = None
        self.recompute = False

    def train_with(self, patch_dropout: float, recompute: bool) -> "HuggingFaceImageEncoder":
        """Set what saves time and memory in training: see `FolderImageConfig`; returns itself."""
        self.patch_dropout = add_patch_dropout(self.model, patch_dropout) if patch_dropout else None
        self.recompute = recompute
        return self

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode images with values in [-1, 1] (uint8 / 127.5 - 1), resized as `preprocessing` says."""
        with recomputed(self.model, self.recompute and torch.is_grad_enabled(), "model.image.recompute"):
            out = self.model(pixel_values=normalised(image, self.preprocessing))
        values = out.last_hidden_state
        if values.ndim == 4:  # a convolutional network
            values = values.flatten(2).transpose(1, 2)
        is_real = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, is_real, _pooled(self.spec.pooled, out, values, is_real))

    def vectors(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """The `pooled` of `forward` alone, for which CLIP's image network computes less."""
        is_clip = self.model.config.model_type == CLIP_IMAGE and self.spec.pooled == "pooler"
        if not is_clip or drops_attention(self.model):
            return self(image).pooled
        with recomputed(self.model, self.recompute and torch.is_grad_enabled(), "model.image.recompute"):
            return clip_image_vectors(self.model, normalised(image, self.preprocessing))


class HuggingFaceTextEncoder(nn.Module):
    """Token ids of the network's own tokenizer -> contextual tokens.

    Args:
        model: a text network of transformers.
        spec: how its tokens are pooled.
    """

    def __init__(self, model: "PreTrainedModel", spec: TowerSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec
        self.dim = _width(model.config)
        self.max_tokens = longest_text(model.config)
        self.sees_padding = model.config.model_type in WITHOUT_MASK
        self.recompute = False

    def forward(self, text: TextTokens) -> Tokens:
        """Encode; padding is masked, except in networks that were trained with attention to it (SigLIP)."""
        mask = {} if self.sees_padding else {"attention_mask": text.is_real.long()}
        with recomputed(self.model, self.recompute and torch.is_grad_enabled()):
            out = self.model(input_ids=text.ids, **mask)
        values = out.last_hidden_state
        return Tokens(values, text.is_real, _pooled(self.spec.pooled, out, values, text.is_real))

    @property
    def shares_prefixes(self) -> bool:
        """Whether `vectors` computes equal beginnings of texts once: CLIP's text network."""
        return self.model.config.model_type == CLIP_TEXT and self.spec.pooled == "pooler"

    def vectors(self, text: TextTokens) -> Float[Tensor, "m d"]:
        """The `pooled` of `forward` alone, which takes CLIP's text network less than half the time.

        A network that drops out attention, or recomputes its activations, runs whole where it is trained.
        """
        recomputes = self.recompute and torch.is_grad_enabled()
        if not self.shares_prefixes or recomputes or drops_attention(self.model) or not has_ends(self.model, text):
            return self(text).pooled
        return clip_text_vectors(self.model, text)


def normalised(image: Float[Tensor, "n 3 h w"], how: Preprocessing) -> Float[Tensor, "n 3 h w"]:
    """Values in [-1, 1] (uint8 / 127.5 - 1) -> as the network was trained on them."""
    mean, std = (image.new_tensor(row, dtype=torch.float32)[:, None, None] for row in (how.mean, how.std))
    return ((image.float() * 0.5 + 0.5 - mean) / std).to(image.dtype)


def _pooled(how: Pooled, out: Any, values: Tensor, is_real: Tensor) -> Tensor:
    if how == "pooler":
        pooled: Tensor = out.pooler_output
        return pooled.flatten(1)
    return values[:, 0] if how == "first" else masked_mean(values, is_real)


def _width(config: "PreTrainedConfig") -> int:
    width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
    return int(width)


def longest_text(config: "PreTrainedConfig") -> int:
    """Maximum length that the position embeddings allow, special tokens included; a large number without a limit."""
    longest = int(getattr(config, "max_position_embeddings", 0) or 0)
    if longest <= 0:
        return 1_000_000  # relative positions, such as XLNet's
    return longest - (config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0)


def load_image_tower(name: str) -> HuggingFaceImageEncoder:
    """Return the image tower of a folder: a vision network's, a dual encoder's, or a chiasm run's.

    Args:
        name: folder in Hugging Face layout, or a run folder that has such a tower.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: see `checked_folder`, `read_network` and `read_preprocessing`.
    """
    run = _from_run(name, "image")
    if run is not None:
        return HuggingFaceImageEncoder(*run)
    folder = checked_folder(name, "model.image.name")
    network, config, pooled = _tower_of(folder, "vision")
    preprocessing = read_preprocessing(folder)
    check_picture_size(config, preprocessing, folder)
    return HuggingFaceImageEncoder(network, TowerSpec(config.to_dict(), pooled, preprocessing))


def load_text_tower(name: str) -> HuggingFaceTextEncoder:
    """As `load_image_tower`, for the text tower."""
    run = _from_run(name, "text")
    if run is not None:
        return HuggingFaceTextEncoder(*run)
    network, config, pooled = _tower_of(checked_folder(name, "model.text.name"), "text")
    return HuggingFaceTextEncoder(network, TowerSpec(config.to_dict(), pooled))


def preprocessing_of(name: str) -> Preprocessing:
    """The preprocessing of an image tower, without its weights."""
    if (Path(name) / SPEC_FILES["image"]).is_file():
        found = read_spec(Path(name) / SPEC_FILES["image"]).preprocessing
        assert found is not None, "an image tower states its preprocessing"
        return found
    if (Path(name) / NETWORK_FILE).is_file():
        description = read_json(Path(name) / NETWORK_FILE, "the network's description")
        return from_dict(Preprocessing, description.get("preprocessing") or {}, f"{NETWORK_FILE}.preprocessing")
    return read_preprocessing(checked_folder(name, "model.image.name"))


def build_network(spec: TowerSpec, folder: Path) -> "PreTrainedModel":
    """The architecture with random weights; the caller loads the weights."""
    from transformers import AutoConfig

    def build() -> "PreTrainedModel":
        settings = {key: value for key, value in spec.architecture.items() if key != "model_type"}
        config = AutoConfig.for_model(spec.architecture["model_type"], **settings)
        network = _class_of(config)
        return network._from_config(config, **_without_pooler(network, spec.pooled))

    return reading(folder, "the tower's description", build).eval()


def _from_run(name: str, side: str) -> "tuple[PreTrainedModel, TowerSpec] | None":
    """Network and description from a run folder; None where it is no run folder with such a tower."""
    path = Path(name) / SPEC_FILES[side]
    if not path.is_file():
        return None
    spec = read_spec(path)
    network = build_network(spec, path.parent)
    prefix = f"{side}_encoder.model."
    with safetensors.safe_open(path.parent / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"{name}: {error}", "the weights of its own tower", "restore the folder") from None
    return network, spec


def _tower_of(folder: Path, side: str) -> "tuple[PreTrainedModel, PreTrainedConfig, Pooled]":
    """The network of one side of a folder, its config, and how its tokens are pooled."""
    from transformers import AutoModel

    config = read_architecture(folder)
    of_side = getattr(config, f"{side}_config", None)
    if of_side is None:
        pooled = _usual_pooling(config, side)
        _check_side(config, side, folder)
        if config.model_type not in OWN_POOLER and pooled != "pooler":
            network = _class_of(config)
            return read_network(folder, network, **_without_pooler(network, pooled)), config, pooled
        return read_network(folder, _class_of(config)), config, pooled
    both = read_network(folder, AutoModel)
    tower = getattr(both, f"{side}_model", None)
    if tower is None:
        raise InputError(
            f"{folder} holds a {config.model_type}, which has no {side} tower of its own",
            "a network of one modality, or a dual encoder such as CLIP",
            "give another folder",
        )
    pooled = "first" if of_side.model_type in FIRST_TOKEN else "pooler"
    return tower, of_side, pooled


def _usual_pooling(config: "PreTrainedConfig", side: str) -> Pooled:
    """The pooling of a network without a trained pooled vector.

    Poolers of ViT and BERT are often absent in a published folder or trained for another task, so an image's vector is
    the class token, or the network's own mean in convolutional networks, and a text's is the mean of its tokens.
    """
    if config.model_type in OWN_POOLER or (side == "vision" and _is_convolutional(config)):
        return "pooler"
    if side == "text":
        return "first" if config.model_type in FIRST_TOKEN else "mean"
    return "mean" if config.model_type in ("swin", "swinv2", "siglip2_vision_model") else "first"


def _is_convolutional(config: "PreTrainedConfig") -> bool:
    return config.model_type in ("convnext", "convnextv2", "resnet", "regnet", "bit", "dinov3_convnext")


def _check_side(config: "PreTrainedConfig", side: str, folder: Path) -> None:
    """Refuse a text network as an image tower, and the reverse."""
    takes = getattr(_class_of(config), "main_input_name", "")
    wanted = "pixel_values" if side == "vision" else "input_ids"
    if takes != wanted or getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{folder} holds a {config.model_type}, which takes {takes}",
            "a network of images" if side == "vision" else "an encoder of texts",
            f"give another folder for the {'image' if side == 'vision' else 'text'} tower",
        )


def _class_of(config: "PreTrainedConfig") -> Any:
    from transformers import BlipVisionModel, ChineseCLIPTextModel, Siglip2TextModel, SiglipTextModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    # Towers of dual encoders that transformers' own table leaves out.
    apart = {
        "siglip_text_model": SiglipTextModel,
        "siglip2_text_model": Siglip2TextModel,
        "chinese_clip_text_model": ChineseCLIPTextModel,
        "blip_vision_model": BlipVisionModel,
    }
    found = apart.get(config.model_type) or MODEL_MAPPING.get(type(config), None)
    if found is None:
        raise InputError(
            f"the architecture {config.model_type!r}", "one that transformers has as a plain encoder", "use another"
        )
    return found


def _without_pooler(network: Any, pooled: Pooled) -> dict[str, bool]:
    """Arguments of the constructor that leave out a pooler, which would stay untrained."""
    takes_it = "add_pooling_layer" in inspect.signature(network.__init__).parameters
    return {"add_pooling_layer": False} if takes_it and pooled != "pooler" else {}


def text_limits(name: str) -> TextLimits:
    """The input limits of a folder's text network, without its weights."""
    folder = checked_folder(name, "model.text.name")
    whole = read_architecture(folder)
    config = getattr(whole, "text_config", None) or whole
    return TextLimits(longest_text(config), int(config.vocab_size), config.model_type in WITHOUT_MASK)
