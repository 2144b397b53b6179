"""A pipeline of two towers -> the files of a folder in the layout of Hugging Face or open_clip.

The reverse of `importing`: bit-exact, or an error that names what the layout cannot store.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from tokenizers import Tokenizer, processors
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.encoders.dual_encoder import FAMILIES, OPEN_CLIP_CONFIG, DualEncoder
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from chiasm.models.encoders.open_clip import WEIGHTS, describe, to_open_clip
from chiasm.models.networks.base import PretrainedVLM
from chiasm.models.pretrained.hugging_face_folder import Preprocessing, TowerSpec, reading, without_bars
from chiasm.models.projection import BesideClasses, PlainProjection, Projection
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.space import SharedSpace

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CLIP_VOCABULARY = 49408
PROCESSORS = {"siglip": "SiglipImageProcessor", "blip": "BlipImageProcessor", "vilt": "ViltImageProcessor"}
"""Families whose preprocessing has a class of its own."""
TOWERS_OF = {
    ("clip_vision_model", "clip_text_model"): "clip",
    ("siglip_vision_model", "siglip_text_model"): "siglip",
    ("chinese_clip_vision_model", "chinese_clip_text_model"): "chinese_clip",
}
"""Kinds of the two towers -> the family that has them; any other two make a VisionTextDualEncoder."""


def dual_of(pipeline: Pipeline) -> DualEncoder:
    """Extract the two towers of a pipeline with projections, temperature and bias.

    Raises:
        InputError: towers, projections or tasks that no dual encoder of transformers has.
    """
    model = pipeline.model
    image, text = model.image_encoder, model.text_encoder
    others = [name for name, task in pipeline.tasks.items() if not isinstance(task, SharedSpace)]
    if others or pipeline.space is None:
        raise _no_layout(f"a run with the task {(others or ['(none)'])[0]}", "the task retrieval alone")
    if not isinstance(image, HuggingFaceImageEncoder) or not isinstance(text, HuggingFaceTextEncoder):
        kinds = pipeline.config.model.image.kind, pipeline.config.model.text.kind
        raise _no_layout(f"the towers {kinds[0]} and {kinds[1]}", "two towers of kind hugging_face")
    projections = _plain(model.image_projection), _plain(model.text_projection)
    weights = None if projections[0] is None or projections[1] is None else (projections[0], projections[1])
    if weights is None and projections != (None, None):
        raise _no_layout("a projection on one side alone", "both linear, or none")
    family = _family(image.spec, text.spec, weights is not None, model.logit_bias is not None)
    assert model.logit_scale is not None, "a contrast has a temperature"
    bias = None if model.logit_bias is None else model.logit_bias.detach()
    return DualEncoder(family, image, text, weights, model.logit_scale.detach(), bias)


def hugging_face_files(pipeline: Pipeline) -> dict[str, bytes]:
    """Config, weights, preprocessing and tokenizer as transformers reads them, by name."""
    model = pipeline.model
    if isinstance(model, PretrainedVLM):
        kind, config, tensors = model.spec.network, _network_config(model), model.hugging_face_tensors()
        prepared = pixels(model.spec.fixed, model.spec.architecture["model_type"])
    else:
        dual = dual_of(pipeline)
        kind, config, tensors = FAMILIES[dual.family], _whole_config(dual), hugging_face_tensors(dual)
        prepared = pixels(dual.image.preprocessing, dual.family)
    return {
        **network_files(kind, config, tensors),
        "preprocessor_config.json": as_json(prepared),
        **tokenizer_files(_words(pipeline)),
    }


def open_clip_files(pipeline: Pipeline) -> dict[str, bytes]:
    """Config, weights and tokenizer as open_clip reads them, by name.

    Raises:
        InputError: a model that open_clip's own CLIP cannot be.
    """
    dual = dual_of(pipeline)
    words = _words(pipeline)
    config = describe(dual, words.vocabulary == CLIP_VOCABULARY)
    vision, text = dual.image.spec.architecture, dual.text.spec.architecture
    if words.end_id != text["vocab_size"] - 1:
        raise InputError(
            f"the end token has the id {words.end_id} of {text['vocab_size']}, in open_clip's layout",
            "the highest id, at which open_clip pools a text",
            "chiasm export ... --to hugging_face",
        )
    tensors = to_open_clip(hugging_face_tensors(dual), (vision["num_hidden_layers"], text["num_hidden_layers"]))
    return {
        OPEN_CLIP_CONFIG: as_json(config),
        WEIGHTS: safetensors.torch.save(_stored(tensors), {"format": "pt"}),
        **tokenizer_files(words),
    }


def hugging_face_tensors(dual: DualEncoder) -> dict[str, Tensor]:
    """All weights under the names that transformers gives them."""
    found: dict[str, Tensor] = {}
    for prefix, tower in (("vision_model.", dual.image), ("text_model.", dual.text)):
        found |= {prefix + name: value for name, value in tower.model.state_dict().items()}
    if dual.projections is not None:
        names = ("visual_projection.weight", "text_projection.weight")
        found |= dict(zip(names, dual.projections, strict=True))
    # SigLIP keeps both as vectors of one number.
    is_row = dual.family == "siglip"
    found["logit_scale"] = dual.logit_scale.reshape((1,) if is_row else ())
    if dual.logit_bias is not None:
        found["logit_bias"] = dual.logit_bias.reshape(1)
    return found


def network_files(kind: str, config: "PreTrainedConfig", tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Config and weights as transformers writes them, under the names that published folders have.

    Args:
        kind: class of transformers.
        config: its config.
        tensors: all of its weights, as its state dict names them.
    """
    import transformers

    network = getattr(transformers, kind)(config)
    network.load_state_dict(tensors, strict=True)
    with tempfile.TemporaryDirectory() as place, without_bars():
        network.save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


def tokenizer_files(words: PretrainedTokenizer) -> dict[str, bytes]:
    """The tokenizer as transformers reads it, by the names of its files."""
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer.from_str(words.tokenizer.to_str())
    if pieces.post_processor is None:
        template = " ".join([*words.before, "$A", *words.after])
        special = [(token, words.tokenizer.token_to_id(token)) for token in sorted({*words.before, *words.after})]
        pieces.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    names = {"pad_token": words.pad, "mask_token": words.mask or None}
    names |= {"bos_token": words.before[0] if words.before else None}
    names |= {"eos_token": words.after[-1] if words.after else None}
    kept = {name: one for name, one in names.items() if one}
    with tempfile.TemporaryDirectory() as place:
        made = PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=words.max_tokens, **kept)
        made.save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


def _words(pipeline: Pipeline) -> PretrainedTokenizer:
    words = pipeline.codec.tokenizer
    assert isinstance(words, PretrainedTokenizer), "a tower out of a folder brings its tokenizer"
    return words


def _plain(projection: Projection | PlainProjection | BesideClasses | None) -> Tensor | None:
    """The matrix of a projection; None where there is none to apply."""
    if isinstance(projection, BesideClasses):
        raise _no_layout("a projection beside ImageNet's classes (init_from=starter)", "a projection alone")
    if isinstance(projection, PlainProjection):
        return None if projection.linear is None else projection.linear.weight.detach()
    raise _no_layout("a projection with a layer norm", "model.image.projection and model.text.projection linear")


def _family(image: TowerSpec, text: TowerSpec, is_linear: bool, has_bias: bool) -> str:
    kinds = str(image.architecture["model_type"]), str(text.architecture["model_type"])
    family = TOWERS_OF.get(kinds, "vision-text-dual-encoder")
    is_siglip = family == "siglip"
    if is_linear == is_siglip or has_bias != is_siglip:
        towers = f"{' and '.join(kinds)} {'with' if is_linear else 'without'} projections"
        raise _no_layout(
            f"{towers}, {'with' if has_bias else 'without'} a bias", "SigLIP's without, a bias; all others"
        )
    if family == "vision-text-dual-encoder" and (image.pooled, text.pooled) != ("pooler", "pooler"):
        raise _no_layout(
            f"towers pooled by {image.pooled!r} and {text.pooled!r}", "the towers' own poolers, which transformers uses"
        )
    return family


def _no_layout(given: str, allowed: str) -> InputError:
    return InputError(
        f"{given}, in a layout for dual encoders", allowed, "keep the run folder, which chiasm opens as it is"
    )


def _whole_config(dual: DualEncoder) -> "PreTrainedConfig":
    import transformers

    vision, text = dual.image.spec.architecture, dual.text.spec.architecture

    def make() -> Any:
        kind = getattr(transformers, FAMILIES[dual.family]).config_class
        shared = {} if dual.family == "siglip" else {"projection_dim": dual.embedding_dim}
        made = kind(vision_config=vision, text_config=text, **shared)
        made.architectures, made.dtype = [FAMILIES[dual.family]], "float32"
        return made

    return reading(Path(FAMILIES[dual.family]), "the config", make)


def _network_config(model: PretrainedVLM) -> "PreTrainedConfig":
    """The config that the network came with; a trained temperature becomes its first value, where it is kept."""
    from transformers import AutoConfig

    settings = {key: value for key, value in model.spec.architecture.items() if key != "model_type"}
    if model.logit_scale is not None:
        settings["logit_scale_init_value"] = model.logit_scale.item()
    made = AutoConfig.for_model(model.spec.architecture["model_type"], **settings)
    made.architectures, made.dtype = [model.spec.network], "float32"
    return made


def pixels(preprocessing: Preprocessing, family: str) -> dict[str, Any]:
    """Content of `preprocessor_config.json`."""
    kind = PROCESSORS.get(family, "CLIPImageProcessor" if preprocessing.crop_px else "ViTImageProcessor")
    settings: dict[str, Any] = {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": preprocessing.resize != "none",
        "resample": preprocessing.resample,
        "do_center_crop": bool(preprocessing.crop_px),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.size_divisor:
        settings |= {"size_divisor": preprocessing.size_divisor, "do_pad": True}
    if preprocessing.resize == "shortest":
        settings["size"] = {"shortest_edge": preprocessing.resize_px[0]}
    elif preprocessing.resize == "exact":
        settings["size"] = {"height": preprocessing.resize_px[0], "width": preprocessing.resize_px[1]}
    if preprocessing.crop_px:
        settings["crop_size"] = {"height": preprocessing.crop_px[0], "width": preprocessing.crop_px[1]}
    return settings


def _stored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def as_json(value: Any) -> bytes:
    """A JSON file, UTF-8 with a line break at its end."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
