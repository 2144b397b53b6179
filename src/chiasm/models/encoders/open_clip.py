"""Read and write open_clip's layout of CLIP: its config, its names of the weights, its preprocessing.

Only CLIP's vision transformer and text transformer are supported; towers of timm, ResNets, CoCa and the like are
refused with the name of their key, and so is an unknown key, because it may change the numbers.

The layout: `open_clip_config.json` holds `model_cfg` and `preprocess_cfg`; queries, keys and values are stacked in one
matrix, and projections are stored transposed. Axis legend: d width of a tower, e width of the shared space.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from chiasm.core.errors import InputError, nearest
from chiasm.core.files import read_json
from chiasm.models.encoders.base import TextLimits
from chiasm.models.encoders.dual_encoder import OPEN_CLIP_CONFIG, DualEncoder, check_quick_gelu
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder, HuggingFaceTextEncoder, build_network
from chiasm.models.pretrained.hugging_face_folder import Preprocessing, TowerSpec

WEIGHTS = "open_clip_model.safetensors"
FILTERS = {"bilinear": 2, "bicubic": 3}
"""open_clip's names of Pillow's resampling filters."""
_RENAMED = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_BLOCKS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
_CONSTANTS = ("attn_mask", "input_resolution", "context_length", "vocab_size")
"""Tensors of older files that are not weights."""
_READ = {
    "model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}
"""Supported keys."""
_WITHOUT_EFFECT = {
    "custom_text",
    "init_logit_scale",
    "patch_dropout",
    "output_tokens",
    "n_queries",
    "attn_pooler_heads",
}
_WITHOUT_EFFECT |= {"attn_pooler_queries", "hf_tokenizer_name", "pad_id", "hf_model_pretrained", "hf_proj_type", "proj"}
_WITHOUT_EFFECT |= {"hf_pooler_type", "pooler_type", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop"}
_WITHOUT_EFFECT |= {"timm_proj_bias", "timm_drop_path"}
"""Keys without effect on open_clip's own towers at inference."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "init_logit_bias": (None,),
    "timm_model_name": (None, ""),
    "hf_model_name": (None, ""),
    "ls_init_value": (None,),
    "attentional_pool": (False, None),
    "input_patchnorm": (False, None),
    "global_average_pool": (False, None),
    "no_ln_pre": (False, None),
    "final_ln_after_pool": (False, None),
    "embed_cls": (False, None),
    "no_causal_mask": (False, None),
    "proj_bias": (False, None),
    "pos_embed_type": ("learnable",),
    "proj_type": ("linear",),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
    "tokenizer_kwargs": (None, {}),
}
"""Keys that may only have CLIP's value."""
_POOLED = {"vision_cfg": "tok", "text_cfg": "argmax"}


def is_open_clip(folder: Path) -> bool:
    """Whether a folder is in open_clip's layout only; one that is also in Hugging Face's is read as that."""
    return (folder / OPEN_CLIP_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_open_clip(folder: Path) -> DualEncoder:
    """Read a folder with `open_clip_config.json` and weights as safetensors.

    Raises:
        InputError: an architecture that is not CLIP's own, no preprocessing, weights that do not fit, or GELU for
            weights that were trained with QuickGELU.
    """
    model, preprocessing, tags = _description(folder)
    path = _weights_file(folder)
    check_quick_gelu(folder, bool(model.get("quick_gelu")), [path.name, *tags])
    vision, text = _architectures(model, folder)
    sizes = vision["num_hidden_layers"], text["num_hidden_layers"]
    tensors = to_hugging_face(safetensors.torch.load_file(path), sizes, str(path))
    specs = TowerSpec(vision, "pooler", preprocessing), TowerSpec(text, "pooler")
    networks = []
    for spec, prefix in zip(specs, ("vision_model.", "text_model."), strict=True):
        network = build_network(spec, folder)
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        try:
            network.load_state_dict(own, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{path}: {reason}", "weights of the sizes in model_cfg", "take both of one model"
            ) from None
        networks.append(network)
    projections = tensors["visual_projection.weight"], tensors["text_projection.weight"]
    return DualEncoder(
        "clip",
        HuggingFaceImageEncoder(networks[0], specs[0]),
        HuggingFaceTextEncoder(networks[1], specs[1]),
        projections,
        tensors["logit_scale"].reshape(()),
        None,
    )


def read_open_clip_preprocessing(folder: Path) -> Preprocessing:
    """The preprocessing alone; errors as in `read_open_clip`."""
    return _description(folder)[1]


def open_clip_text_limits(folder: Path) -> TextLimits:
    """The input limits of the text tower."""
    text = _architectures(_description(folder)[0], folder)[1]
    return TextLimits(text["max_position_embeddings"], text["vocab_size"], pads_to_max=False)


def to_hugging_face(tensors: Mapping[str, Tensor], layers: tuple[int, int], where: str) -> dict[str, Tensor]:
    """open_clip's names and shapes -> those of transformers' CLIPModel, float32.

    Args:
        tensors: a state dict; text weights may begin with `text.`, and all with `module.`.
        layers: blocks of the image tower and of the text tower.
        where: the file, for errors.

    Raises:
        InputError: a tensor is missing or unexpected.
    """
    given = {re.sub(r"^(module\.)?(text\.)?", "", name): value.float() for name, value in tensors.items()}
    given = {name: value for name, value in given.items() if name.removeprefix("text.") not in _CONSTANTS}
    single, packed = _table(layers)
    wanted = {*single, *_TRANSPOSED, *packed}
    if wanted != set(given):
        wrong = sorted(wanted - set(given)) or sorted(set(given) - wanted)
        problem = "lacks" if wanted - set(given) else "has beside CLIP's tensors"
        raise InputError(
            f"{where} {problem} {len(wrong)} tensors, such as {wrong[0]}",
            f"CLIP with {layers[0]} and {layers[1]} blocks, as its config says",
            "take open_clip_config.json and weights of one model",
        )
    found = {name: given[theirs] for theirs, name in single.items()}
    found |= {name: given[theirs].T.contiguous() for theirs, name in _TRANSPOSED.items()}
    for theirs, names in packed.items():
        found |= {name: part.clone() for name, part in zip(names, given[theirs].chunk(3), strict=True)}
    return found


def to_open_clip(tensors: Mapping[str, Tensor], layers: tuple[int, int]) -> dict[str, Tensor]:
    """The reverse of `to_hugging_face`, exact to the bit."""
    single, packed = _table(layers)
    found = {theirs: tensors[name] for theirs, name in single.items()}
    found |= {theirs: tensors[name].T.contiguous() for theirs, name in _TRANSPOSED.items()}
    found |= {theirs: torch.cat([tensors[name] for name in names]) for theirs, names in packed.items()}
    return found


def describe(dual: DualEncoder, tokenizer_is_clips: bool) -> dict[str, Any]:
    """The content of `open_clip_config.json` for a model.

    Args:
        dual: a dual encoder of the family "clip".
        tokenizer_is_clips: True if open_clip's own tokenizer gives the same ids; otherwise the folder's is named.

    Raises:
        InputError: the model has a property that open_clip's CLIP cannot have.
    """
    preprocessing = dual.image.preprocessing
    _check_expressible(dual, preprocessing)
    vision, text = dual.image.spec.architecture, dual.text.spec.architecture
    sizes = {
        "embed_dim": dual.embedding_dim,
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
            **({} if tokenizer_is_clips else {"hf_tokenizer_name": "."}),
        },
    }
    pixels = {
        "size": list(preprocessing.size_px),
        "mode": "RGB",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": next(word for word, number in FILTERS.items() if number == preprocessing.resample),
        "resize_mode": "shortest" if preprocessing.resize == "shortest" else "squash",
        "fill_color": 0,
    }
    return {"model_cfg": sizes, "preprocess_cfg": pixels}


def _check_expressible(dual: DualEncoder, preprocessing: Preprocessing) -> None:
    vision, text = dual.image.spec.architecture, dual.text.spec.architecture
    acts = {vision.get("hidden_act"), text.get("hidden_act")}
    size = preprocessing.size_px
    shortest = preprocessing.resize == "shortest" and preprocessing.resize_px == (size[0],) and size[0] == size[1]
    exact = preprocessing.resize == "exact" and preprocessing.resize_px == size
    eos = text.get("eos_token_id")
    reasons = {
        f"a model of the family {dual.family}": dual.family != "clip",
        f"the activations {', '.join(map(str, acts))}": len(acts) > 1 or not acts <= {"gelu", "quick_gelu"},
        "a layer norm with another epsilon": {vision.get("layer_norm_eps"), text.get("layer_norm_eps")} != {1e-5},
        f"images resized by {preprocessing.resize!r} to {size}": not (shortest or exact),
        f"Pillow's filter {preprocessing.resample}": preprocessing.resample not in FILTERS.values(),
        "an end token that is not the highest id": eos not in (text.get("vocab_size", 0) - 1, 2),
    }
    wrong = next((reason for reason, is_wrong in reasons.items() if is_wrong), None)
    if wrong:
        raise InputError(
            f"{wrong}, in open_clip's layout", "what open_clip's own CLIP can be", "chiasm export ... --to hugging_face"
        )


def _table(layers: tuple[int, int]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """open_clip's name -> transformers' name, and open_clip's packed name -> transformers' queries, keys and values."""
    single, packed = dict(_RENAMED), {}
    for (theirs, ours), count in zip(_BLOCKS.items(), layers, strict=True):
        for number in range(count):
            for kind in ("weight", "bias"):
                single |= {f"{theirs}.{number}.{a}.{kind}": f"{ours}.{number}.{b}.{kind}" for a, b in _IN_BLOCK.items()}
                parts = tuple(f"{ours}.{number}.self_attn.{letter}_proj.{kind}" for letter in "qkv")
                packed[f"{theirs}.{number}.attn.in_proj_{kind}"] = parts
    return single, packed


def _description(folder: Path) -> tuple[dict[str, Any], Preprocessing, list[str]]:
    """`model_cfg`, the preprocessing, and other names of the weights."""
    description = read_json(folder / OPEN_CLIP_CONFIG, "open_clip's description")
    model = description.get("model_cfg") if isinstance(description, dict) else None
    if not isinstance(model, dict):
        raise InputError(f"{folder / OPEN_CLIP_CONFIG} has no model_cfg", "open_clip's description", "restore the file")
    tags = [str(description[key]) for key in ("pretrained", "pretrained_tag", "hf_hub") if description.get(key)]
    return model, _preprocessing(description.get("preprocess_cfg"), model, folder), tags


def _preprocessing(given: Any, model: dict[str, Any], folder: Path) -> Preprocessing:
    if not isinstance(given, dict) or not given.get("mean") or not given.get("std"):
        raise InputError(
            f"{folder / OPEN_CLIP_CONFIG} has no preprocess_cfg with mean and std",
            "the preprocessing that the weights were trained with; a guessed one gives wrong numbers silently",
            "take the file from the model's page, or write both from its table of pretrained weights",
        )
    vision = model.get("vision_cfg")
    size = given.get("size", vision.get("image_size", 224) if isinstance(vision, dict) else 224)
    sides: tuple[int, ...] = (size, size) if isinstance(size, int) else tuple(size or ())
    mode, word = given.get("resize_mode", "shortest"), given.get("interpolation", "bicubic")
    is_known = mode in ("shortest", "squash") and word in FILTERS and len(sides) == 2
    if not is_known or (mode == "shortest" and sides[0] != sides[1]):
        raise InputError(
            f"{folder}: images of {sides} by resize_mode {mode!r} with the filter {word!r}",
            "shortest (to a square) or squash, bilinear or bicubic",
            "use a model with such a preprocessing",
        )
    resize_px = (int(sides[0]),) if mode == "shortest" else sides
    mean, std = tuple(map(float, given["mean"])), tuple(map(float, given["std"]))
    crop = sides if mode == "shortest" else ()
    return Preprocessing("shortest" if mode == "shortest" else "exact", resize_px, crop, FILTERS[word], mean, std)


def _architectures(model: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of transformers that are equivalent to `model_cfg`, for the image tower and the text tower."""
    parts = {"model_cfg": model, "vision_cfg": model.get("vision_cfg"), "text_cfg": model.get("text_cfg")}
    for name, given in parts.items():
        _check_keys(name, given, folder)
    vision, text = parts["vision_cfg"] or {}, parts["text_cfg"] or {}
    width, head = int(vision.get("width", 768)), int(vision.get("head_width", 64))
    shared = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "layer_norm_eps": 1e-5}
    shared |= {"projection_dim": int(model.get("embed_dim", 0))}
    words = int(text.get("vocab_size", 49408))
    text_width = int(text.get("width", 512))
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
        "num_hidden_layers": int(vision.get("layers", 12)),
        "num_attention_heads": width // head,
        "image_size": vision.get("image_size", 224),
        "patch_size": vision.get("patch_size", 16),
        **shared,
    }, {
        "model_type": "clip_text_model",
        "hidden_size": text_width,
        "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)),
        "num_hidden_layers": int(text.get("layers", 12)),
        "num_attention_heads": int(text.get("heads", 8)),
        "max_position_embeddings": int(text.get("context_length", 77)),
        "vocab_size": words,
        # open_clip pools the state of the highest id, which is the end token.
        "eos_token_id": words - 1,
        "bos_token_id": words - 2,
        "pad_token_id": words - 1,
        **shared,
    }


def _check_keys(name: str, given: Any, folder: Path) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{folder / OPEN_CLIP_CONFIG} has no {name}", "open_clip's description", "restore the file")
    known = {*_READ[name], *_WITHOUT_EFFECT, *_ONLY, "pool_type"}
    for key, value in given.items():
        allowed = (_POOLED.get(name),) if key == "pool_type" else _ONLY.get(key)
        if key not in known:
            raise InputError(
                f"{folder}: {name}.{key}{nearest(key, known)}", "open_clip's own CLIP", "use a plain CLIP, or the "
                "Hugging Face folder of this model",
            )  # fmt: skip
        if allowed is not None and value not in allowed:
            raise InputError(
                f"{folder}: {name}.{key} is {value!r}", f"{allowed[0]!r}: open_clip's own CLIP",
                "use a plain CLIP, or the Hugging Face folder of this model",
            )  # fmt: skip
    if isinstance(given.get("layers"), list):
        raise InputError(f"{folder}: {name}.layers is a list, a ResNet's", "a vision transformer", "use a ViT")


def _weights_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    named = [path for path in found if path.name in (WEIGHTS, "model.safetensors")]
    if len(named) == 1 or len(found) == 1:
        return (named or found)[0]
    pickled = sorted(path.name for kind in ("*.pt", "*.bin", "*.pth") for path in folder.glob(kind))
    if found or not pickled:
        given = f"{len(found)} safetensors" if found else "no weights"
        raise InputError(f"{folder} has {given}", f"one file of weights, {WEIGHTS}", "leave the right one")
    raise InputError(
        f"{folder} has weights as {pickled[0]} alone",
        f"{WEIGHTS}: a pickle can run code when it is read",
        f"chiasm export {folder} --to safetensors --out FOLDER",
    )
