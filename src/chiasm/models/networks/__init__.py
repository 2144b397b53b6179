"""Vision-language networks of transformers: BLIP, ViLT, LLaVA. One table maps a folder's class to its wrapper."""

from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.models.config import ModelConfig
from chiasm.models.networks.base import NetworkSpec, PretrainedVLM, read_network_spec
from chiasm.models.networks.blip import Blip
from chiasm.models.networks.blip_2 import Blip2
from chiasm.models.networks.image_text import ImageTextNetwork
from chiasm.models.networks.language import LanguageNetwork
from chiasm.models.networks.llava_1_5 import Llava
from chiasm.models.networks.pali_gemma import PaliGemma
from chiasm.models.networks.vilt import Vilt
from chiasm.models.packing import read_weights
from chiasm.models.pretrained.hugging_face_folder import (
    NETWORK_FILE,
    checked_folder,
    read_architecture,
    read_network,
    read_preprocessing,
    reading,
)
from chiasm.models.pretrained.image_text_processor import read_image_text_processor
from chiasm.models.pruning import resize
from chiasm.models.vision_language import AssembledVLM, Parts, VisionLanguageModel

NETWORKS: dict[str, type[PretrainedVLM]] = {
    name: wrapper for wrapper in (Blip, Vilt, Llava, PaliGemma, Blip2, ImageTextNetwork) for name in wrapper.offers
}
"""Class of transformers -> what wraps it."""


def network_of(folder: Path) -> str:
    """Class of the network in a folder in Hugging Face layout, by its config; "" where `NETWORKS` lacks it."""
    stated = read_json(folder / "config.json", "the config").get("architectures") or [""]
    name = str(stated[0]) if isinstance(stated, list) and stated else ""
    return name if wrapper_of(name) is not None else ""


def wrapper_of(network: str) -> type[PretrainedVLM] | None:
    """What wraps a class of transformers; None where nothing can.

    A class that is not in the table and that transformers lists as image-text-to-text is compared with transformers
    when it is opened (`models.networks.image_text`).
    """
    if network in NETWORKS or not network:
        return NETWORKS.get(network)
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as LISTED
    except ImportError:
        return None
    return ImageTextNetwork if network in LISTED.values() else None


def is_language_network(network: str) -> bool:
    """Whether a class of transformers is a language model that sees images, which converses."""
    wrapper = wrapper_of(network)
    return wrapper is not None and issubclass(wrapper, LanguageNetwork)


def keeps_sizes(network: str) -> bool:
    """Whether a class of transformers takes images at their own sizes, by its own processor."""
    wrapper = wrapper_of(network)
    return wrapper is not None and issubclass(wrapper, ImageTextNetwork)


def labels_of(place: str) -> tuple[str, ...]:
    """The answers that a folder's network classifies, in the order of its head's rows; () where it has none."""
    if not place:
        return ()
    folder = Path(place)
    if (folder / NETWORK_FILE).is_file():
        spec = read_network_spec(folder / NETWORK_FILE)
        name, architecture = spec.network, spec.architecture
    else:
        name = network_of(checked_folder(place, "model.network"))
        architecture = read_architecture(folder).to_dict() if name else {}
    wrapper = wrapper_of(name)
    return () if wrapper is None else wrapper.labels_in(name, architecture)


def build_model(config: ModelConfig, parts: Parts) -> VisionLanguageModel:
    """Build the model of a config: an `AssembledVLM`, or a `PretrainedVLM` with the weights of its folder.

    Raises:
        InputError: the folder holds no network of `NETWORKS`, or one without a head that a task needs.
    """
    if not config.network:
        assembled = AssembledVLM(config, parts)
        resize(assembled, config.pruned)
        return assembled
    folder = Path(config.network)
    if (folder / NETWORK_FILE).is_file():
        return _from_run(folder, config, parts)
    checked_folder(config.network, "model.network")
    name = network_of(folder)
    wrapper = wrapper_of(name)
    if wrapper is None:
        raise InputError(f"{folder} holds none of these networks", ", ".join(NETWORKS), "give another folder")
    import transformers

    architecture = read_architecture(folder).to_dict()
    wrapper.check_folder(name, architecture, folder)
    network: Any = read_network(folder, getattr(transformers, name))
    if keeps_sizes(name):
        spec = NetworkSpec(name, architecture, None, read_image_text_processor(folder).files)
    else:
        spec = NetworkSpec(name, architecture, read_preprocessing(folder))
    return wrapper.wrap(config, parts, spec, network).eval()


def _from_run(folder: Path, config: ModelConfig, parts: Parts) -> PretrainedVLM:
    """The network of a run folder, with the run's weights."""
    spec = read_network_spec(folder / NETWORK_FILE)
    wrapper = wrapper_of(spec.network)
    if wrapper is None:
        raise InputError(f"{folder}: network {spec.network!r}", "one of " + ", ".join(NETWORKS), "restore the folder")

    def build() -> Any:
        import transformers

        settings = {key: value for key, value in spec.architecture.items() if key != "model_type"}
        made = transformers.AutoConfig.for_model(spec.architecture["model_type"], **settings)
        return getattr(transformers, spec.network)(made)

    wrapped = wrapper.wrap(config, parts, spec, reading(folder, "the network's description", build))
    wrapped.load_state_dict(read_weights(folder)[0], strict=False)
    return wrapped.eval()
